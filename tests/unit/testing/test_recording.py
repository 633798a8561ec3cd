"""Recordings become answers in the order they were recorded."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ringfence.errors import MonitorRefusedError
from ringfence.qemu.session import Session
from ringfence.testing.fake_qemu import FakeQemu
from ringfence.testing.recording import read_recording, replay
from ringfence.testing.script import Event, Refuse, Return, Script

GOLDEN = Path(__file__).parents[2] / "golden"
NEGOTIATION = [{"send": {"execute": "qmp_capabilities"}}, {"receive": {"return": {}}}]


def test_answers_in_turn_and_the_last_one_stays():
    entries = [{"send": {"execute": "x"}}, {"receive": {"return": 1}}, {"send": {"execute": "x"}}]
    answer = replay([*NEGOTIATION, *entries, {"receive": {"return": 2}}])["x"]
    assert [answer({}) for _ in range(3)] == [Script((Return(n),)) for n in (1, 2, 2)]


def test_events_stay_where_they_were():
    events = [
        {"receive": {"event": "A", "timestamp": {}}},
        {"receive": {"return": 1}},
        {"receive": {"event": "B", "data": 3}},
    ]
    answer = replay([*NEGOTIATION, {"send": {"execute": "x"}}, *events])["x"]
    assert answer({}) == Script((Event("A"), Return(1), Event("B", 3)))


def test_what_came_before_the_negotiation_is_left_to_the_fake():
    refused = {"receive": {"error": {"class": "CommandNotFound", "desc": "Expecting ..."}}}
    late = [{"send": {"execute": "x"}}, {"receive": {"error": {"class": "A", "desc": "a"}}}]
    answers = replay(
        [{"recorded": "today"}, {"send": {"execute": "x"}}, refused, *NEGOTIATION, *NEGOTIATION, *late]
    )
    assert list(answers) == ["x"]
    assert answers["x"]({}) == Script((Refuse("A", "a"),))


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("qmp-[!s]*.jsonl")), ids=lambda file: file.stem)
async def test_every_recorded_session_can_be_had_again(tmp_path, file):
    recording = read_recording(file)
    negotiated = recording[recording.index(NEGOTIATION[1]) :]
    events = [entry["receive"]["event"] for entry in negotiated if "event" in entry.get("receive", ())]
    command = {}
    async with FakeQemu(tmp_path / "qmp", replay(recording)) as qemu, await Session.open(qemu.address) as session:
        with session.listen() as listener:
            for entry in negotiated:
                command = entry.get("send", command)
                if command.get("execute") == "qmp_capabilities":
                    continue
                if "return" in entry.get("receive", ()) and command:
                    answer = await session.execute(command["execute"], command.get("arguments"))
                    assert answer == entry["receive"]["return"]
                if "error" in entry.get("receive", ()):
                    with pytest.raises(MonitorRefusedError, match=re.escape(entry["receive"]["error"]["desc"])):
                        await session.execute(command["execute"], command.get("arguments"))
            assert [(await listener.get(5))["event"] for _ in events] == events
