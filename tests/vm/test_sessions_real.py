"""The sessions against a real QEMU that runs no machine, and against the real agent where it is installed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from ringfence.core.model import Address
from ringfence.errors import (
    AgentAbsentError,
    AgentRefusedError,
    MonitorBusyError,
    MonitorGoneError,
    MonitorProtocolError,
    MonitorRefusedError,
    MonitorTimeoutError,
)
from ringfence.qemu.agent import AgentRun, AgentSession
from ringfence.qemu.hmp import HmpSession
from ringfence.qemu.session import Session
from ringfence.testing.recording import read_recording

QEMU = shutil.which("qemu-system-x86_64")
AGENT = shutil.which("qemu-ga")
RECORDED = next(Path(__file__).parents[1].glob("golden/qmp-monitor-7.2.22-*.jsonl"))
NO_LIMIT = {"bps": 0, "bps_rd": 0, "bps_wr": 0, "iops": 0, "iops_rd": 0, "iops_wr": 0}

pytestmark = pytest.mark.skipif(QEMU is None, reason="needs qemu-system-x86_64")


class Doors(NamedTuple):
    process: asyncio.subprocess.Process
    first: Address
    second: Address
    human: Address


@contextlib.asynccontextmanager
async def running(*argv):
    """A process and its end."""
    process = await asyncio.create_subprocess_exec(*argv, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@pytest.fixture
async def qemu(tmp_path):
    """QEMU with two QMP sockets, a human monitor and one drive without a device."""
    paths = [str(tmp_path / name) for name in ("qmp1", "qmp2", "hmp")]
    monitors = [f"unix:{path},server=on,wait=off" for path in paths]
    bare = ["-machine", "none", "-S", "-display", "none", "-nodefaults", "-no-user-config"]
    drive = ["-drive", "driver=null-co,if=none,id=d1,read-zeroes=on"]
    argv = [QEMU, *bare, *drive, "-qmp", monitors[0], "-qmp", monitors[1], "-monitor", monitors[2]]
    async with running(*argv) as process:
        wait_for(paths)
        yield Doors(process, *(Address(path) for path in paths))


def wait_for(paths):
    deadline = time.monotonic() + 10
    while not all(os.path.exists(path) for path in paths):
        assert time.monotonic() < deadline, "no sockets"
        time.sleep(0.01)


async def test_greeting_tells_the_version(qemu):
    async with await Session.open(qemu.first) as session:
        version = await session.execute("query-version")
        assert session.greeting["version"] == version


async def test_both_qmp_sockets_are_served_and_get_all_events(qemu):
    async with await Session.open(qemu.first) as first, await Session.open(qemu.second) as second:
        with first.listen({"RESUME"}) as here, second.listen() as there:
            await first.execute("cont")
            assert (await here.get(5))["event"] == "RESUME"
            assert (await there.get(5))["event"] == "RESUME"
            await second.execute("stop")
            assert (await there.get(5))["event"] == "STOP"
            assert await here.get(0) is None


async def test_second_client_of_a_socket_waits_for_the_first(qemu):
    first = await Session.open(qemu.first)
    with pytest.raises(MonitorBusyError):
        await Session.open(qemu.first, timeout_s=0.2)
    waiting = asyncio.ensure_future(Session.open(qemu.first, timeout_s=10))
    await asyncio.sleep(0.1)
    await first.close()
    async with await waiting as second:
        assert await second.execute("query-name") == {}


async def test_full_backlog(qemu):
    async with await Session.open(qemu.first):
        with contextlib.ExitStack() as queue:
            with contextlib.suppress(BlockingIOError):
                while True:
                    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
                    queue.enter_context(client).connect(qemu.first.path)
            with pytest.raises(MonitorBusyError, match="queued"):
                await Session.open(qemu.first, timeout_s=0.2)
    async with await Session.open(qemu.first) as session:
        assert await session.execute("query-name") == {}


async def test_pipelined_commands_are_executed_in_order(qemu):
    async with await Session.open(qemu.first) as session:
        for limit in range(1, 20):
            throttle = {"device": "d1", **NO_LIMIT, "iops": limit}
            _, blocks = await session.execute_all([("block_set_io_throttle", throttle), ("query-block", None)])
            assert blocks[0]["inserted"]["iops"] == limit
        # Deeper than the queue of eight that QEMU keeps for a client.
        statuses = await session.execute_all([("query-status", None)] * 50)
        assert len(statuses) == 50


async def test_refusals(qemu):
    async with await Session.open(qemu.first) as session:
        with pytest.raises(MonitorRefusedError) as caught:
            await session.execute("query-balloon")
        assert caught.value.error_class == "DeviceNotActive"
        with pytest.raises(MonitorRefusedError):
            await session.execute_all([("block_set_io_throttle", {"device": "d1"}), ("query-name", None)])


async def test_schema_knows_what_is_used(qemu):
    async with await Session.open(qemu.first) as session:
        schema = await session.schema()
    assert "group" in schema.arguments("block_set_io_throttle")
    assert schema.has_event("BALLOON_CHANGE")
    for command in schema.commands():
        assert all(argument.type for argument in schema.arguments(command).values())


@pytest.mark.parametrize(
    "line",
    [
        *(
            "info status",
            "info version",
            "info balloon",
            "info block",
            "info block d1",
            "info qtree",
            "info mtree",
        ),
        *(
            "help",
            "help info",
            "info nosuch",
            "nosuch 1",
            "print 1+1",
            "print 1+a",
            "balloon 700",
            "info name",
            "",
        ),
        *("  info   name ", "block_set_io_throttle d1 0 0 0 77 0 0", "info é", "x" * 300),
    ],
)
async def test_human_monitor_gives_the_same_text_through_either_door(qemu, line):
    async with await Session.open(qemu.first) as session, await HmpSession.open(qemu.human) as human:
        assert await human.execute(line) == await session.hmp(line)


async def test_human_monitor_serves_one_client_at_a_time(qemu):
    async with await HmpSession.open(qemu.human):
        with pytest.raises(MonitorBusyError):
            await HmpSession.open(qemu.human, timeout_s=0.2)
    await (await HmpSession.open(qemu.human)).close()


async def test_wrong_door(qemu):
    with pytest.raises(MonitorProtocolError, match="human monitor"):
        await Session.open(qemu.human)
    with pytest.raises(MonitorProtocolError, match="QMP"):
        await HmpSession.open(qemu.first)


async def test_quit_is_answered_and_then_qemu_is_gone(qemu):
    async with await Session.open(qemu.first) as session, await Session.open(qemu.second) as other:
        with other.listen() as listener:
            assert await session.execute("quit") == {}
            assert (await listener.get(5))["event"] == "SHUTDOWN"
            with pytest.raises(MonitorGoneError):
                await listener.get(5)
        with pytest.raises(MonitorGoneError):
            await session.execute("query-name")
    with pytest.raises(MonitorGoneError):
        await Session.open(qemu.first)


async def test_human_monitor_quits(qemu):
    async with await HmpSession.open(qemu.human) as human:
        with pytest.raises(MonitorGoneError):
            await human.execute("quit")


async def test_stopped_process_is_late_and_then_answers_again(qemu):
    async with await Session.open(qemu.first) as session:
        qemu.process.send_signal(signal.SIGSTOP)
        with pytest.raises(MonitorTimeoutError):
            await session.execute("query-status", timeout_s=0.1)
        with pytest.raises(MonitorBusyError, match="stopped"):
            await Session.open(qemu.second, timeout_s=0.1)
        qemu.process.send_signal(signal.SIGCONT)
        assert await session.execute("query-name") == {}


async def test_killed_process(qemu):
    async with await Session.open(qemu.first) as session:
        pending = asyncio.ensure_future(session.hmp("info mtree"))
        qemu.process.kill()
        await asyncio.wait([pending])
        with pytest.raises(MonitorGoneError):
            await session.execute("query-name")
        assert pending.exception() is None or isinstance(pending.exception(), MonitorGoneError)


def shape(value):
    """Keys and types, without the values."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value[:1]]
    return type(value)


async def test_recorded_answers_still_have_the_shape_of_real_ones(qemu):
    command = {}
    async with await Session.open(qemu.first) as session:
        for entry in read_recording(RECORDED):
            command = entry.get("send", command)
            if "return" in entry.get("receive", ()) and command["execute"] not in (
                "qmp_capabilities",
                "query-block",
            ):
                answer = await session.execute(command["execute"], command.get("arguments"))
                recorded = shape(entry["receive"]["return"])
                newer = {key for key in recorded if key not in answer} if isinstance(recorded, dict) else set()
                assert newer <= {"singlestep"}  # left out since QEMU 9.0
                if not newer:
                    assert shape(answer) == recorded


def test_negotiation_is_checked_when_python_drops_assertions(tmp_path):
    code = """
import asyncio, sys
from ringfence.errors import MonitorRefusedError
from ringfence.qemu.session import Session
from ringfence.testing.fake_qemu import FakeQemu
from ringfence.testing.script import Refuse
async def main():
    async with FakeQemu(sys.argv[1], {"qmp_capabilities": Refuse("GenericError", "no")}) as qemu:
        try:
            await Session.open(qemu.address)
        except MonitorRefusedError:
            print("refused")
asyncio.run(main())
"""
    argv = [sys.executable, "-O", "-W", "error", "-c", code, str(tmp_path / "qmp")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20)
    assert (done.stdout, done.stderr) == ("refused\n", "")


@pytest.fixture
async def agent(tmp_path):
    """The real agent, listening on a socket where in a guest it has a serial port; it executes on this machine."""
    if AGENT is None:
        pytest.skip("needs qemu-ga")
    path = str(tmp_path / "agent")
    async with running(AGENT, "-m", "unix-listen", "-p", path, "-t", str(tmp_path)):
        wait_for([path])
        yield Address(path)


async def test_real_agent(agent):
    async with await AgentSession.open(agent) as session:
        assert await session.execute("guest-ping") == {}
        assert await session.run(["sh", "-c", "cat; echo e >&2; exit 3"], stdin=b"\xff\n") == AgentRun(
            3, b"\xff\n", b"e\n"
        )
        assert (await session.run(["sh", "-c", "kill -9 $$"])).exit_code == -9
        with pytest.raises(AgentRefusedError):
            await session.run(["/nonexistent"])
        with pytest.raises(AgentRefusedError):
            await session.execute("guest-nope")
        with pytest.raises(AgentAbsentError):
            await AgentSession.open(agent, timeout_s=0.2)
