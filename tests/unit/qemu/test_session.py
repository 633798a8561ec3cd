"""The session against a scripted QEMU: what each way of answering, or not answering, becomes."""

from __future__ import annotations

import asyncio
import json
import os

import pytest

from ringfence.errors import (
    MonitorBusyError,
    MonitorError,
    MonitorGoneError,
    MonitorProtocolError,
    MonitorRefusedError,
    MonitorTimeoutError,
    UsageError,
)
from ringfence.qemu.session import Session
from ringfence.testing.fake_hmp import BANNER
from ringfence.testing.fake_qemu import GREETING, FakeQemu
from ringfence.testing.script import SILENCE, Event, HangUp, Pause, Raw, Refuse, Return, Script

pytestmark = pytest.mark.usefixtures("quiet")
SHORT_S = 0.03
LONG_S = 5.0


# Opening


async def test_opens_and_keeps_the_greeting(connected):
    async with connected() as (qemu, session):
        assert session.address == qemu.address
        assert session.greeting == GREETING["QMP"]
        assert qemu.received[0]["arguments"] == {"enable": ["oob"]}


async def test_enables_nothing_that_was_not_offered(path):
    greeting = {"QMP": {"version": {}, "capabilities": []}}
    async with FakeQemu(path, greeting=greeting) as qemu, await Session.open(qemu.address):
        assert "arguments" not in qemu.received[0]


async def test_busy_while_another_client_is_served(path):
    async with FakeQemu(path) as qemu, await Session.open(qemu.address):
        with pytest.raises(MonitorBusyError, match="not greeted") as caught:
            await Session.open(qemu.address, timeout_s=SHORT_S)
    assert "-qmp" in caught.value.hint


async def test_busy_socket_is_served_once_the_other_leaves(path):
    async with FakeQemu(path, {"query-status": 1}) as qemu:
        first = await Session.open(qemu.address)
        waiting = asyncio.ensure_future(Session.open(qemu.address, timeout_s=LONG_S))
        await asyncio.sleep(SHORT_S)
        await first.close()
        async with await waiting as second:
            assert await second.execute("query-status") == 1


async def test_never_greeted(path):
    async with FakeQemu(path, greeting=None) as qemu:
        with pytest.raises(MonitorBusyError):
            await Session.open(qemu.address, timeout_s=SHORT_S)


async def test_human_monitor_is_named(path):
    async with FakeQemu(path, greeting=BANNER) as qemu:
        with pytest.raises(MonitorProtocolError, match="human monitor") as caught:
            await Session.open(qemu.address)
    assert "-qmp" in caught.value.hint


@pytest.mark.parametrize(
    "greeting", [b"RFB 003.008\n", b"\xff\xfe\n", b"[1, 2]\n", b'{"QMP": {}}\n', b'{"return": {}}\n']
)
async def test_what_is_not_a_greeting(path, greeting):
    async with FakeQemu(path, greeting=greeting) as qemu:
        with pytest.raises(MonitorProtocolError, match="not QMP"):
            await Session.open(qemu.address)


async def test_refused_negotiation_is_an_error(path):
    answers = {"qmp_capabilities": Refuse("GenericError", "no")}
    async with FakeQemu(path, answers) as qemu:
        with pytest.raises(MonitorRefusedError, match="qmp_capabilities"):
            await Session.open(qemu.address)


async def test_unanswered_negotiation_is_not_busy(path):
    async with FakeQemu(path, {"qmp_capabilities": SILENCE}) as qemu:
        with pytest.raises(MonitorTimeoutError, match="qmp_capabilities"):
            await Session.open(qemu.address, timeout_s=SHORT_S)


@pytest.mark.parametrize("acts", [(HangUp(),), (Raw(b'{"ret'), HangUp())])
async def test_closed_during_negotiation(path, acts):
    async with FakeQemu(path, {"qmp_capabilities": Script(acts)}) as qemu:
        with pytest.raises(MonitorGoneError, match="closed"):
            await Session.open(qemu.address)


async def test_closed_without_a_greeting(path):
    async with FakeQemu(path, greeting=None) as qemu:
        opening = asyncio.ensure_future(Session.open(qemu.address))
        await asyncio.sleep(SHORT_S)
        qemu.hang_up()
        with pytest.raises(MonitorGoneError, match="closed"):
            await opening


async def test_cancelled_while_opening_leaves_the_monitor_free(path):
    greeted = asyncio.Event()
    async with FakeQemu(path, {"qmp_capabilities": lambda _: greeted.set() or SILENCE}) as qemu:
        opening = asyncio.ensure_future(Session.open(qemu.address, timeout_s=LONG_S))
        await greeted.wait()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        del qemu.answers["qmp_capabilities"]
        await (await Session.open(qemu.address)).close()


# Executing


async def test_executes_with_and_without_arguments(connected):
    async with connected({"balloon": {}, "query-balloon": {"actual": 7}}) as (qemu, session):
        assert await session.execute("balloon", {"value": 7}) == {}
        assert await session.execute("query-balloon") == {"actual": 7}
        assert qemu.commands == [("balloon", {"value": 7}), ("query-balloon", {})]
        assert "arguments" not in qemu.received[-1]


async def test_refusal_carries_qemus_class(connected):
    async with connected({"x": Refuse("DeviceNotFound", "no d1")}) as (_qemu, session):
        with pytest.raises(MonitorRefusedError, match="refused x: no d1") as caught:
            await session.execute("x")
        assert caught.value.error_class == "DeviceNotFound"
        with pytest.raises(MonitorRefusedError) as caught:
            await session.execute("unheard-of")
        assert caught.value.error_class == "CommandNotFound"


async def test_events_in_between_are_not_taken_for_the_answer(connected):
    async with connected({"cont": Script((Event("RESUME"), Event("STOP", {"a": 1}), Return(3)))}) as (
        _qemu,
        session,
    ):
        assert await session.execute("cont") == 3


async def test_late_answer_is_not_taken_for_the_next(connected):
    async with connected({"slow": Script((Pause(2 * SHORT_S), Return("old"))), "quick": "new"}) as (
        _qemu,
        session,
    ):
        with pytest.raises(MonitorTimeoutError, match="slow") as caught:
            await session.execute("slow", timeout_s=SHORT_S)
        assert "may have taken effect" in caught.value.state
        assert await session.execute("quick") == "new"


async def test_several_tasks_share_a_session(connected):
    async with connected({"echo": lambda arguments: arguments["n"]}) as (_qemu, session):
        answers = await asyncio.gather(*(session.execute("echo", {"n": n}) for n in range(20)))
    assert answers == list(range(20))


@pytest.mark.parametrize("acts", [(HangUp(),), (Raw(b'{"return": [1, '), HangUp())], ids=["at once", "mid-JSON"])
async def test_closed_instead_of_answered(connected, acts):
    async with connected({"quit": Script(acts)}) as (_qemu, session):
        results = await asyncio.gather(session.execute("quit"), session.execute("x"), return_exceptions=True)
        for error in results:
            assert isinstance(error, MonitorGoneError)
            assert "may have taken effect" in error.state
        with pytest.raises(MonitorGoneError) as caught:
            await session.execute("x")
        assert caught.value.state == ""


@pytest.mark.parametrize(
    "noise",
    [b"kernel panic\n", b"\xff\xff\n", b"[]\n", b'{"error": {"class": "GenericError", "desc": "parse"}}\n'],
    ids=["text", "not UTF-8", "not an object", "no id"],
)
async def test_garbage_ends_the_session(connected, noise):
    async with connected({"x": Raw(noise)}) as (_qemu, session):
        with pytest.raises(MonitorProtocolError, match="not QMP"):
            await session.execute("x")
        with pytest.raises(MonitorError):
            await session.execute("x")


@pytest.mark.parametrize("members", ['"maybe": 1', '"error": 1', '"error": {"desc": "x"}'])
async def test_malformed_answer(connected, members):
    async with connected() as (qemu, session):
        qemu.answers["x"] = lambda _: Raw(f'{{{members}, "id": {qemu.received[-1]["id"]}}}\n'.encode())
        with pytest.raises(MonitorProtocolError):
            await session.execute("x")
        with pytest.raises(MonitorGoneError):
            await session.execute("y")


# Pipelining


async def test_pipelined_commands_do_not_wait_for_each_other(connected):
    async with connected() as (qemu, session):

        def answer_both(_):
            first = json.dumps({"return": 1, "id": qemu.received[-2]["id"]}).encode() + b"\r\n"
            return Script((Raw(first), Return(2)))

        qemu.answers.update({"first": SILENCE, "second": answer_both})
        assert await session.execute_all([("first", {"a": 1}), ("second", None)], timeout_s=LONG_S) == [1, 2]
        assert qemu.commands == [("first", {"a": 1}), ("second", {})]


async def test_first_error_comes_after_all_were_answered(connected):
    answers = {"bad": Refuse("A", "a"), "worse": Refuse("B", "b"), "good": Script((Pause(SHORT_S), Return(1)))}
    async with connected(answers) as (qemu, session):
        with pytest.raises(MonitorRefusedError) as caught:
            await session.execute_all([("bad", None), ("worse", None), ("good", None)])
        assert caught.value.error_class == "A"
        assert [name for name, _ in qemu.commands] == ["bad", "worse", "good"]


async def test_pipelined_timeout_names_the_unanswered_command(connected):
    async with connected({"a": 1, "b": SILENCE, "c": Refuse("A", "a")}) as (_qemu, session):
        with pytest.raises(MonitorTimeoutError, match="to b within"):
            await session.execute_all([("a", None), ("b", None), ("c", None)], timeout_s=SHORT_S)
        assert await session.execute("a") == 1


async def test_pipelined_commands_when_qemu_goes(connected):
    async with connected({"a": 1, "quit": HangUp()}) as (_qemu, session):
        with pytest.raises(MonitorGoneError):
            await session.execute_all([("a", None), ("quit", None), ("a", None)])


async def test_pipeline_of_nothing(connected):
    async with connected() as (_qemu, session):
        assert await session.execute_all([]) == []


async def test_pipeline_cancelled_from_outside(connected):
    async with connected({"a": SILENCE, "b": 2}) as (_qemu, session):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SHORT_S):
                await session.execute_all([("a", None), ("refused", None), ("a", None)])
        assert await session.execute("b") == 2


# The human monitor over QMP


async def test_hmp_text_has_plain_newlines(connected):
    async with connected({"human-monitor-command": "balloon: actual=1024\r\nx\r\n"}) as (qemu, session):
        assert await session.hmp("info balloon") == "balloon: actual=1024\nx\n"
        assert qemu.commands == [("human-monitor-command", {"command-line": "info balloon"})]


@pytest.mark.parametrize("line", ["a\nb", "a\tb", "\x00", "\x7f", "\udcff"])
async def test_hmp_takes_one_line_of_text(connected, line):
    async with connected() as (qemu, session):
        with pytest.raises(UsageError):
            await session.hmp(line)
        assert qemu.commands == []


# Schema


async def test_schema_is_asked_for_once_a_session(connected):
    answer = [{"name": "stop", "meta-type": "command", "arg-type": "0", "ret-type": "0"}]
    async with connected({"query-qmp-schema": answer}) as (qemu, session):
        assert (await session.schema()).commands() == ["stop"]
        assert await session.schema() is await session.schema()
        assert len(qemu.commands) == 1


# Closing and opening again


async def test_close_is_idempotent_and_frees_the_monitor(path):
    async with FakeQemu(path) as qemu:
        session = await Session.open(qemu.address)
        await asyncio.gather(session.close(), session.close())
        await session.close()
        with pytest.raises(MonitorGoneError, match="session is closed"):
            await session.execute("x")
        await (await Session.open(qemu.address)).close()


async def test_close_after_qemu_went(path):
    async with FakeQemu(path) as qemu:
        session = await Session.open(qemu.address)
        with session.listen() as listener:
            qemu.hang_up()
            with pytest.raises(MonitorGoneError):
                await listener.get(None)
        await session.close()


async def test_close_interrupts_a_command(connected):
    taken = asyncio.Event()
    async with connected({"x": lambda _: taken.set() or SILENCE}) as (_qemu, session):
        waiting = asyncio.ensure_future(session.execute("x", timeout_s=LONG_S))
        await taken.wait()
        await session.close()
        with pytest.raises(MonitorGoneError, match="session is closed"):
            await waiting


async def test_close_when_qemu_does_not_read(path, monkeypatch):
    monkeypatch.setattr("ringfence.qemu.session._CLOSE_S", SHORT_S)
    async with FakeQemu(path, {"x": Pause(LONG_S)}) as qemu:
        session = await Session.open(qemu.address)
        with pytest.raises(MonitorTimeoutError):
            await session.execute_all([("x", None), ("x", {"fill": "x" * 4_000_000})], timeout_s=SHORT_S)
        async with asyncio.timeout(LONG_S / 2):
            await session.close()
        with pytest.raises(MonitorGoneError):
            await session.execute("x")


async def test_close_goes_on_when_who_asked_for_it_is_cancelled(connected):
    async with connected() as (qemu, session):
        first = asyncio.ensure_future(session.close())
        await asyncio.sleep(0)
        first.cancel()
        await session.close()
        await (await Session.open(qemu.address)).close()


@pytest.mark.parametrize("answer", [HangUp(), SILENCE, Raw(b"garbage\n")], ids=["gone", "late", "garbage"])
async def test_reopen_after_an_error(connected, answer):
    async with connected({"x": answer, "y": 1}) as (qemu, session):
        with pytest.raises(MonitorError):
            await session.execute("x", timeout_s=SHORT_S)
        await session.reopen()
        assert await session.execute("y") == 1
        assert qemu.clients == 2


async def test_reopen_when_qemu_is_gone_for_good(path):
    async with FakeQemu(path) as qemu:
        session = await Session.open(qemu.address)
    with pytest.raises(MonitorGoneError):
        await session.reopen()
    await session.close()


async def test_nothing_is_left_open(path):
    async with FakeQemu(path, greeting=b"x\n") as qemu:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            with pytest.raises(MonitorProtocolError):
                await Session.open(qemu.address)
        await asyncio.sleep(SHORT_S)
        assert len(os.listdir("/proc/self/fd")) == before
