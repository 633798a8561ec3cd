"""The agent's session against a scripted agent: stale answers, silence, nonsense, programs."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket

import pytest

from ringfence.core.model import Address
from ringfence.errors import AgentAbsentError, AgentRefusedError, GuestError
from ringfence.qemu import agent
from ringfence.qemu.agent import AgentRun, AgentSession
from ringfence.testing.fake_agent import FakeAgent
from ringfence.testing.script import SILENCE, HangUp, Pause, Raw, Refuse, Return, Script

pytestmark = pytest.mark.usefixtures("quiet")
SHORT_S = 0.03
LONG_S = 5.0


@contextlib.asynccontextmanager
async def talking(path, answers=None, **options):
    async with FakeAgent(path, answers, **options) as guest, await AgentSession.open(guest.address) as session:
        yield guest, session


async def test_executes_with_and_without_arguments(path):
    async with talking(path, {"guest-ping": {}, "guest-set-vcpus": 1}) as (guest, session):
        assert session.address == guest.address
        assert await session.execute("guest-ping") == {}
        assert await session.execute("guest-set-vcpus", {"vcpus": []}) == 1
        assert guest.commands == [("guest-ping", {}), ("guest-set-vcpus", {"vcpus": []})]


@pytest.mark.parametrize(
    "stale",
    [
        b'{"return": "old"}\n',
        b'{"return": {"half": ',
        b'\xff{"return": 1}\n{"return": "old"}\n',
        b"\xff\xff\n\xff",
        b"kernel: panic\r\n\x00\x80",
        b"[" * 100_000,
    ],
    ids=["answer", "half an answer", "other sync", "delimiters", "text", "nested"],
)
async def test_what_was_in_the_channel_is_not_taken_for_an_answer(path, stale):
    async with talking(path, {"x": "new"}, greeting=stale) as (_, session):
        assert await session.execute("x") == "new"


async def test_what_is_in_front_of_the_synchronising_answer_is_skipped(path):
    def synchronise(arguments):
        return Raw(b'{"return": 0}\xff junk \xff{"return": %d}\n' % arguments["id"])

    async with talking(path, {"guest-sync-delimited": synchronise, "x": 1}) as (_, session):
        assert await session.execute("x") == 1


async def test_half_a_command_of_an_earlier_client_does_no_harm(path):
    async with FakeAgent(path, {"x": 1}) as guest:
        with socket.socket(socket.AF_UNIX) as earlier:
            earlier.connect(str(path))
            earlier.send(b'{"execute": "guest-p')
        async with await AgentSession.open(guest.address) as session:
            assert await session.execute("x") == 1


async def test_late_answer_is_not_taken_for_the_next(path):
    slow = Script((Pause(2 * SHORT_S), Return("old")))
    async with talking(path, {"slow": slow, "x": "new"}) as (_, session):
        with pytest.raises(AgentAbsentError, match="slow") as caught:
            await session.execute("slow", timeout_s=SHORT_S)
        assert "may have taken effect" in caught.value.state
        assert await session.execute("x") == "new"


async def test_refusal(path):
    async with talking(path, {"x": Refuse("GenericError", "offline it yourself")}) as (_, session):
        with pytest.raises(AgentRefusedError, match="refused x: offline it yourself") as caught:
            await session.execute("x")
        assert caught.value.hint == ""
        with pytest.raises(AgentRefusedError) as caught:
            await session.execute("guest-nope")
        assert "too old" in caught.value.hint


@pytest.mark.parametrize(
    "noise", [b"login: \n", b'x\n{"return": 9}\n', b"[]\n", b'{"error": 1}\n', b'{"x": 1}\n', b"\x80\n"]
)
async def test_nonsense_for_an_answer(path, noise):
    async with talking(path, {"x": Raw(noise), "y": 2}) as (_, session):
        with pytest.raises(GuestError, match="not the guest agent's protocol") as caught:
            await session.execute("x")
        assert type(caught.value) is GuestError
        assert await session.execute("y") == 2


async def test_answer_without_end(path, monkeypatch):
    monkeypatch.setattr(agent, "_ANSWER_BYTES", 2**16)
    async with talking(path, {"x": Raw(b"x" * 2**18)}) as (_, session):
        with pytest.raises(GuestError, match="not the guest agent's protocol"):
            await session.execute("x")


async def test_lines_of_several_tasks_take_turns(path):
    async with talking(path, {"echo": lambda arguments: arguments["n"]}) as (_, session):
        answers = await asyncio.gather(*(session.execute("echo", {"n": n}) for n in range(5)))
    assert answers == list(range(5))


# Absent


async def test_nobody_there(path):
    with pytest.raises(AgentAbsentError, match=str(path)):
        await AgentSession.open(Address(str(path)))


@pytest.mark.parametrize("answer", [SILENCE, Raw(b"garbage\n"), Raw(b'\xff{"return": 0}\n')])
async def test_no_agent_in_the_guest(path, answer):
    async with FakeAgent(path, {"guest-sync-delimited": answer}) as guest:
        with pytest.raises(AgentAbsentError, match="no agent runs in the guest, or another client") as caught:
            await AgentSession.open(guest.address, timeout_s=SHORT_S)
    assert "qemu-guest-agent" in caught.value.hint


async def test_held_by_another_client(path):
    async with FakeAgent(path) as guest, await AgentSession.open(guest.address):
        with pytest.raises(AgentAbsentError, match="another client"):
            await AgentSession.open(guest.address, timeout_s=SHORT_S)


async def test_full_backlog(path):
    async with FakeAgent(path) as guest, await AgentSession.open(guest.address):
        queued = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(2)]
        for queue in queued:
            queue.connect(str(path))
        with pytest.raises(AgentAbsentError, match="another client"):
            await AgentSession.open(guest.address, timeout_s=SHORT_S)
        for queue in queued:
            queue.close()


@pytest.mark.parametrize("acts", [(HangUp(),), (Raw(b'{"ret'), HangUp())])
async def test_closed_instead_of_answered(path, acts):
    async with talking(path, {"x": Script(acts)}) as (_, session):
        with pytest.raises(AgentAbsentError, match="closed"):
            await session.execute("x")
        with pytest.raises(AgentAbsentError, match="closed"):
            await session.execute("x")


async def test_close_is_idempotent_and_frees_the_channel(path):
    async with FakeAgent(path) as guest:
        session = await AgentSession.open(guest.address)
        await session.close()
        await session.close()
        with pytest.raises(AgentAbsentError):
            await session.execute("x")
        await (await AgentSession.open(guest.address)).close()


# Programs


def encode(data):
    return base64.b64encode(data).decode()


def statuses(*answers):
    """Answers to guest-exec-status, one after the other."""
    left = list(answers)
    return lambda _: left.pop(0)


async def test_program_runs_to_its_end(path):
    ended = {"exited": True, "exitcode": 3, "out-data": encode(b"\x00out"), "err-data": encode(b"err")}
    answers = {
        "guest-exec": {"pid": 7},
        "guest-exec-status": statuses({"exited": False}, {"exited": False}, ended),
    }
    async with talking(path, answers) as (guest, session):
        assert await session.run(["/bin/cat", "-n"], stdin=b"\xff") == AgentRun(3, b"\x00out", b"err")
        assert guest.commands == [
            (
                "guest-exec",
                {"path": "/bin/cat", "arg": ["-n"], "capture-output": True, "input-data": encode(b"\xff")},
            ),
            *[("guest-exec-status", {"pid": 7})] * 3,
        ]


async def test_program_ended_by_a_signal_without_output(path):
    answers = {"guest-exec": {"pid": 7}, "guest-exec-status": {"exited": True, "signal": 9}}
    async with talking(path, answers) as (_, session):
        assert await session.run(["x"]) == AgentRun(-9, b"", b"")


@pytest.mark.parametrize("output", ["out", "err"])
async def test_truncated_output_is_told(path, output):
    ended = {"exited": True, "exitcode": 0, f"{output}-data": encode(b"x"), f"{output}-truncated": True}
    async with talking(path, {"guest-exec": {"pid": 7}, "guest-exec-status": ended}) as (_, session):
        assert (await session.run(["x"])).truncated


async def test_program_that_does_not_end(path):
    answers = {"guest-exec": {"pid": 7}, "guest-exec-status": {"exited": False}}
    async with talking(path, answers) as (_, session):
        with pytest.raises(GuestError, match="did not end") as caught:
            await session.run(["sleep", "9"], timeout_s=SHORT_S)
        assert "process 7" in caught.value.state


async def test_program_that_cannot_be_started(path):
    async with talking(path, {"guest-exec": Refuse("GenericError", "No such file")}) as (_, session):
        with pytest.raises(AgentRefusedError, match="No such file"):
            await session.run(["nope"])


@pytest.mark.parametrize(
    ("started", "status"),
    [
        ([], {}),
        ({"pid": "7"}, {}),
        ({"pid": 7}, []),
        ({"pid": 7}, {"exited": True}),
        ({"pid": 7}, {"exited": True, "exitcode": "x"}),
        ({"pid": 7}, {"exited": True, "exitcode": 0, "out-data": "x"}),
        ({"pid": 7}, {"exited": True, "exitcode": 0, "out-data": 5}),
    ],
)
async def test_nonsense_about_a_program(path, started, status):
    async with talking(path, {"guest-exec": started, "guest-exec-status": status}) as (_, session):
        with pytest.raises(GuestError, match="not the guest agent's protocol"):
            await session.run(["x"])
