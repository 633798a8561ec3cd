"""Lines carried out, on fakes of QEMU's sockets."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from ringfence.cli.monitor_console import HmpOverQmp, PlainHmp, QmpConsole, Reply
from ringfence.errors import MonitorGoneError, MonitorRefusedError, UsageError
from ringfence.qemu.hmp import HmpSession
from ringfence.qemu.session import Session
from ringfence.testing.fake_hmp import FakeHmp
from ringfence.testing.fake_qemu import FakeQemu
from ringfence.testing.script import SILENCE, Event, HangUp, Refuse, Return, Script


async def test_qmp_prints_what_stands_in_return(tmp_path: Path) -> None:
    sent: list[str] = []
    async with FakeQemu(tmp_path / "q", {"query-x": {"b": 1}, "bad": Refuse("GenericError", "no")}) as qemu:
        console = QmpConsole(await Session.open(qemu.address), sent.append)
        assert await console.version() == "7.2.22"
        assert await console.run("query-x a=1") == Reply('{\n  "b": 1\n}\n')
        assert sent == ['-> {"execute": "query-x", "arguments": {"a": 1}}\n']
        with pytest.raises(MonitorRefusedError):
            await console.run("bad")
        with pytest.raises(UsageError):
            await console.run("query-x 1")
        assert [name for name, _ in qemu.commands] == ["query-x", "bad"]
        await console.close()


async def test_hmp_over_qmp(tmp_path: Path) -> None:
    def human(arguments: Any) -> str:
        return {"info a": "one\r\ntwo\r\n", "stop": "", "odd": "no end"}.get(
            arguments["command-line"], "unknown command: 'x'\r\n"
        )

    async with FakeQemu(tmp_path / "q", {"human-monitor-command": human}) as qemu:
        console = HmpOverQmp(await Session.open(qemu.address))
        assert await console.run("info\ta") == Reply("one\ntwo\n")
        assert await console.run("stop") == Reply("")
        assert await console.run("odd") == Reply("no end\n")
        assert await console.run("x") == Reply("unknown command: 'x'\n", failed=True)
        with pytest.raises(UsageError):
            await console.run("a\x1bb")
        await console.close()


async def test_the_chosen_cpu_is_remembered(tmp_path: Path) -> None:
    def human(arguments: Any) -> str:
        return "invalid CPU index\r\n" if arguments["command-line"] == "cpu 99" else ""

    async with FakeQemu(tmp_path / "q", {"human-monitor-command": human}) as qemu:
        console = HmpOverQmp(await Session.open(qemu.address))
        for line in ("info cpus", "cpu 0x1", "cpu 99", "info registers"):
            await console.run(line)
        with pytest.raises(UsageError):
            await console.run("cpu 1+1")
        assert [arguments.get("cpu-index") for _, arguments in qemu.commands] == [None, None, 1, 1]
        await console.close()


async def test_hmp_on_its_own_socket(tmp_path: Path) -> None:
    async with FakeHmp(tmp_path / "h", {"info a": "one\ntwo\n", "info version": "10.0.2\n"}) as human:
        console = PlainHmp(await HmpSession.open(human.address))
        assert await console.version() == "10.0.2"
        assert await console.run("info a") == Reply("one\ntwo\n")
        assert (await console.run("x")).failed
        await console.close()


async def test_events_that_come_together_are_shown_together_and_the_last_before_the_end(tmp_path: Path) -> None:
    acts = (Event("STOP"), Event("RESUME", {"a": 1}), Return({}), Event("SHUTDOWN"), HangUp())
    shown: list[str] = []

    async def show(events: list[dict[str, Any]]) -> None:
        shown.extend(event["event"] for event in events)

    async with FakeQemu(tmp_path / "q", {"quit": Script(acts)}) as qemu:
        console = QmpConsole(await Session.open(qemu.address))
        watching = asyncio.ensure_future(console.watch(show))
        await asyncio.sleep(0)
        await console.run("quit")
        with pytest.raises(MonitorGoneError, match="QEMU closed"):
            await asyncio.wait_for(watching, 5)
        assert shown == ["STOP", "RESUME", "SHUTDOWN"]
        await console.close()


async def test_a_human_monitor_that_ends_is_noticed_at_rest(tmp_path: Path) -> None:
    async with FakeHmp(tmp_path / "h") as human:
        console = PlainHmp(await HmpSession.open(human.address))
        watching = asyncio.ensure_future(console.watch(_nothing))
        human.hang_up()
        with pytest.raises(MonitorGoneError, match="QEMU closed"):
            await asyncio.wait_for(watching, 5)
        await console.close()


async def test_a_human_monitor_given_up_on_is_closed(tmp_path: Path) -> None:
    asked = asyncio.Event()

    def savevm(_: object) -> Script:
        asked.set()
        return SILENCE

    async with FakeHmp(tmp_path / "h", {"savevm": savevm}) as human:
        console = PlainHmp(await HmpSession.open(human.address))
        watching = asyncio.ensure_future(console.watch(_nothing))
        running = asyncio.ensure_future(console.run("savevm"))
        await asyncio.wait_for(asked.wait(), 5)
        running.cancel()
        with pytest.raises(MonitorGoneError, match="was left"):
            await asyncio.wait_for(watching, 5)


async def test_each_console_helps_with_its_own_lines(tmp_path: Path) -> None:
    schema = [
        {"name": "stop", "meta-type": "command", "arg-type": "0", "ret-type": "0"},
        {"name": "0", "meta-type": "object", "members": []},
    ]
    answers = {"query-qmp-schema": schema, "human-monitor-command": "stop|s  -- stop emulation\r\n"}
    own = {"help": "cont|c  -- resume\n"}
    async with FakeQemu(tmp_path / "q", answers) as qemu, FakeHmp(tmp_path / "h", own) as human:
        session = await Session.open(qemu.address)
        plain = PlainHmp(await HmpSession.open(human.address))
        words = []
        for console in (QmpConsole(session), HmpOverQmp(session), plain):
            lookup = console.lookup()
            await lookup.load()
            words.append([candidate.text for candidate in await lookup.candidates("")])
        assert words == [["stop"], ["stop"], ["cont"]]
        await session.close()
        await plain.close()


async def _nothing(events: list[dict[str, Any]]) -> None:
    return None
