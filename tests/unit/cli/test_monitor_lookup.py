"""Help with a line, asked of a QEMU on paper."""

from __future__ import annotations

import asyncio

from ringfence.cli.monitor_lookup import HmpLookup, QmpLookup
from ringfence.errors import MonitorGoneError
from ringfence.qemu.schema import Schema

ANSWERS = {
    "help": "eject [-f] device -- eject a removable medium\ninfo [subcommand] -- show\n",
    "help info": "info block [device] -- show disks\n",
    "info block": "d1: null-co:// (raw)\n",
}


async def ask(line: str) -> str:
    return ANSWERS[line]


async def gone(line: str = "") -> str:
    raise MonitorGoneError("gone")


async def texts(lookup: HmpLookup | QmpLookup, line: str) -> list[str]:
    return [candidate.text for candidate in await lookup.candidates(line)]


async def test_tab_waits_for_qemus_words() -> None:
    lookup = HmpLookup(ask)
    assert lookup.synopsis("eject") == ""
    completing = asyncio.ensure_future(texts(lookup, "e"))
    await asyncio.sleep(0)
    assert not completing.done()
    await lookup.load()
    assert await completing == ["eject "]


async def test_words_and_names() -> None:
    lookup = HmpLookup(ask)
    await lookup.load()
    assert await texts(lookup, "e") == ["eject "]
    assert await texts(lookup, "info ") == ["block "]
    assert await texts(lookup, "eject ") == ["d1"]
    assert lookup.synopsis("eject") == "eject [-f] device -- eject a removable medium"


async def test_names_are_asked_anew(monkeypatch: object) -> None:
    answers = dict(ANSWERS)

    async def changing(line: str) -> str:
        return answers[line]

    lookup = HmpLookup(changing)
    await lookup.load()
    assert await texts(lookup, "eject ") == ["d1"]
    answers["info block"] = "d2: null-co:// (raw)\n"
    assert await texts(lookup, "eject ") == ["d2"]


async def test_a_lost_qemu_is_no_help_and_no_error() -> None:
    lookup = HmpLookup(gone)
    await lookup.load()
    assert await texts(lookup, "e") == []

    async def no_schema() -> Schema:
        raise MonitorGoneError("gone")

    qmp = QmpLookup(no_schema)
    await qmp.load()
    assert await texts(qmp, "q") == []
    assert qmp.synopsis("query-status") == ""


async def test_a_question_once_asked_is_heard_to_its_end() -> None:
    asked, answered = asyncio.Event(), asyncio.Event()

    async def slow(line: str) -> str:
        if line == "info block":
            asked.set()
            await asyncio.sleep(0.01)
            answered.set()
        return ANSWERS[line]

    lookup = HmpLookup(slow)
    await lookup.load()
    completing = asyncio.ensure_future(lookup.candidates("eject "))
    await asked.wait()
    completing.cancel()
    await asyncio.wait([completing])
    assert completing.cancelled()
    await asyncio.wait_for(answered.wait(), 5)


async def test_qmp_words_come_from_the_schema() -> None:
    async def schema() -> Schema:
        return Schema(
            [
                {"name": "stop", "meta-type": "command", "arg-type": "0", "ret-type": "0"},
                {"name": "0", "meta-type": "object", "members": []},
            ]
        )

    lookup = QmpLookup(schema)
    await lookup.load()
    assert await texts(lookup, "s") == ["stop"]
