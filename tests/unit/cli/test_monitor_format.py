"""How the monitor's answers look."""

from __future__ import annotations

from datetime import UTC
from typing import Any

import pytest

from ringfence.cli.monitor_format import as_json, as_wire, banner, event_line, version_text


def test_answers_are_json_in_qemus_order() -> None:
    assert as_json({"b": 1, "a": [True, None]}) == '{\n  "b": 1,\n  "a": [\n    true,\n    null\n  ]\n}\n'


def test_text_is_not_escaped() -> None:
    assert as_json("Ü") == '"Ü"\n'


def test_what_is_sent() -> None:
    assert as_wire("stop", {}) == '-> {"execute": "stop"}\n'
    assert as_wire("balloon", {"value": 1}) == '-> {"execute": "balloon", "arguments": {"value": 1}}\n'


@pytest.mark.parametrize(
    ("event", "line"),
    [
        ({"event": "STOP", "timestamp": {"seconds": 1700000000, "microseconds": 1}}, "[22:13:20] STOP"),
        (
            {"event": "BALLOON_CHANGE", "data": {"actual": 5}, "timestamp": {"seconds": 0, "microseconds": 0}},
            '[00:00:00] BALLOON_CHANGE {"actual": 5}',
        ),
        ({"event": "STOP", "timestamp": {"seconds": -1, "microseconds": -1}}, "STOP"),
        ({"event": "STOP", "data": {}}, "STOP"),
    ],
)
def test_events_take_one_line(event: dict[str, Any], line: str) -> None:
    assert event_line(event, UTC) == line


def test_banner_says_whom_one_speaks_to_and_how_to_leave() -> None:
    text = banner("web1", "7.2.22", "HMP", "/run/web1.qmp")
    assert "web1: QEMU 7.2.22, HMP on /run/web1.qmp\n" in text
    assert "Ctrl-D leaves" in text
    assert "quit ends the VM" in text


def test_version() -> None:
    assert version_text({"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}}) == "7.2.22"
    assert version_text({}) == ""
