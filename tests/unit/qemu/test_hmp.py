"""The human monitor against a scripted prompt that redraws its line as QEMU's does."""

from __future__ import annotations

import asyncio
import socket

import pytest

from ringfence.core.model import Address
from ringfence.errors import (
    MonitorBusyError,
    MonitorGoneError,
    MonitorProtocolError,
    MonitorTimeoutError,
    UsageError,
)
from ringfence.qemu.hmp import HmpSession
from ringfence.testing.fake_hmp import BANNER, FakeHmp
from ringfence.testing.fake_qemu import FakeQemu
from ringfence.testing.script import SILENCE, HangUp, Pause, Raw, Return, Script

pytestmark = pytest.mark.usefixtures("quiet")
SHORT_S = 0.03
LONG_S = 5.0


async def test_gives_the_text_between_the_line_and_the_prompt(path):
    answers = {"info status": "VM status: paused\n", "balloon 700": "", "info mtree": "a\n\n  b\n"}
    async with FakeHmp(path, answers) as qemu, await HmpSession.open(qemu.address) as session:
        assert await session.execute("info status") == "VM status: paused\n"
        assert await session.execute("balloon 700") == ""
        assert await session.execute("info mtree") == "a\n\n  b\n"
        assert await session.execute("nosuch 1") == "unknown command: 'nosuch'\n"
        assert await session.execute("") == ""
        assert qemu.commands == ["info status", "balloon 700", "info mtree", "nosuch 1"]


async def test_text_that_comes_in_pieces_or_quotes_a_prompt(path):
    pieces = Script((Raw(b"one\r"), Pause(SHORT_S / 3), Raw(b"\n(qemu) two"), Pause(SHORT_S / 3), Return("\n")))
    async with FakeHmp(path, {"x": pieces}) as qemu, await HmpSession.open(qemu.address) as session:
        assert await session.execute("x") == "one\n(qemu) two\n"


async def test_text_and_line_that_come_byte_by_byte(path, monkeypatch):
    async with FakeHmp(path, {"info x": "1\n2\n"}) as qemu, await HmpSession.open(qemu.address) as session:
        read = session._reader.read
        monkeypatch.setattr(session._reader, "read", lambda _: read(1))
        assert await session.execute("info x") == "1\n2\n"


async def test_text_left_over_is_not_taken_for_the_next(path):
    async with FakeHmp(path, {"x": "1\n", "y": "2\n"}) as qemu, await HmpSession.open(qemu.address) as session:
        qemu._call(qemu._send, b"late words\r\n(qemu) ")
        await asyncio.sleep(SHORT_S / 3)
        assert await session.execute("x") == "1\n"
        assert await session.execute("y") == "2\n"


async def test_long_line(path):
    line = "info " + "x" * 500
    async with FakeHmp(path, {line: "ok\n"}) as qemu, await HmpSession.open(qemu.address) as session:
        assert await session.execute(line) == "ok\n"


@pytest.mark.parametrize("line", ["a\nb", "a\tb", "\x1b[A", "x" * 4096, "ћ"])
async def test_what_the_prompt_cannot_take(path, line):
    async with FakeHmp(path) as qemu, await HmpSession.open(qemu.address) as session:
        with pytest.raises(UsageError):
            await session.execute(line)
        assert await session.execute("z") == "unknown command: 'z'\n"
        assert qemu.commands == ["z"]


async def test_lines_of_several_tasks_take_turns(path):
    answers = {f"x{n}": f"{n}\n" for n in range(5)}
    async with FakeHmp(path, answers) as qemu, await HmpSession.open(qemu.address) as session:
        texts = await asyncio.gather(*(session.execute(line) for line in answers))
    assert texts == list(answers.values())


async def test_prompt_that_does_not_come_back(path):
    async with FakeHmp(path, {"migrate x": SILENCE}) as qemu:
        async with await HmpSession.open(qemu.address) as session:
            with pytest.raises(MonitorTimeoutError, match="migrate x") as caught:
                await session.execute("migrate x", timeout_s=SHORT_S)
            assert "may have taken effect" in caught.value.state
            with pytest.raises(MonitorGoneError, match="session is closed"):
                await session.execute("x")
        await (await HmpSession.open(qemu.address)).close()


@pytest.mark.parametrize("acts", [(HangUp(),), (Raw(b"half"), HangUp())])
async def test_closed_instead_of_answered(path, acts):
    async with FakeHmp(path, {"quit": Script(acts)}) as qemu, await HmpSession.open(qemu.address) as session:
        with pytest.raises(MonitorGoneError) as caught:
            await session.execute("quit")
        assert "may have taken effect" in caught.value.state


async def test_cancelled_line_closes_the_session(path):
    async with FakeHmp(path, {"x": SILENCE}) as qemu, await HmpSession.open(qemu.address) as session:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SHORT_S):
                await session.execute("x", timeout_s=LONG_S)
        with pytest.raises(MonitorGoneError):
            await session.execute("y")


async def test_nobody_there(path):
    with pytest.raises(MonitorGoneError, match="nobody listens"):
        await HmpSession.open(Address(str(path)))


@pytest.mark.parametrize("greeting", [None, BANNER[:20]])
async def test_no_prompt_is_busy(path, greeting):
    async with FakeHmp(path, greeting=greeting) as qemu:
        with pytest.raises(MonitorBusyError) as caught:
            await HmpSession.open(qemu.address, timeout_s=SHORT_S)
    assert caught.value.hint


async def test_full_backlog_is_busy(path):
    async with FakeHmp(path) as qemu, await HmpSession.open(qemu.address):
        queued = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(2)]
        for queue in queued:
            queue.connect(str(path))
        with pytest.raises(MonitorBusyError, match="queued"):
            await HmpSession.open(qemu.address, timeout_s=SHORT_S)
        for queue in queued:
            queue.close()


async def test_qmp_socket_is_named(path):
    async with FakeQemu(path) as qemu:
        with pytest.raises(MonitorProtocolError, match="this is QMP") as caught:
            await HmpSession.open(qemu.address)
    assert "-monitor" in caught.value.hint


async def test_something_else(path):
    async with FakeHmp(path, greeting=b"login: ") as qemu:
        with pytest.raises(MonitorProtocolError, match="something else"):
            await HmpSession.open(qemu.address)


async def test_closed_without_a_prompt(path):
    async with FakeHmp(path, greeting=b"QEMU") as qemu:
        opening = asyncio.ensure_future(HmpSession.open(qemu.address))
        await asyncio.sleep(SHORT_S)
        qemu.hang_up()
        with pytest.raises(MonitorGoneError, match="closed") as caught:
            await opening
    assert caught.value.state == ""


async def test_close_is_idempotent_and_frees_the_monitor(path):
    async with FakeHmp(path) as qemu:
        session = await HmpSession.open(qemu.address)
        await session.close()
        await session.close()
        await (await HmpSession.open(qemu.address)).close()
