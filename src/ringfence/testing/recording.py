"""Recorded QMP sessions, and a fake's answers from them."""

from __future__ import annotations

import json
from collections import deque
from typing import TYPE_CHECKING, Any

from ringfence.testing.script import Event, Refuse, Return, Script

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping

    from ringfence.testing.script import Act, Answer

_NEGOTIATION: tuple[str, list[Any]] = ("qmp_capabilities", [{"return": {}}])


def read_recording(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The entries of a recorded session: a file with one JSON object a line."""
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def replay(recording: Iterable[Mapping[str, Any]]) -> dict[str, Answer]:
    """A table of answers from a recorded session; the negotiation is left to the fake.

    A command that was recorded several times gives its answers one after the other, and the last one from then on.

    :param recording: `{"send": command}` and `{"receive": message}` as they were seen, in order; an event belongs
        to the command before it. Other entries, such as a header, are passed over.
    """
    scripts: dict[str, deque[Script]] = {}
    for name, messages in _exchanges(recording):
        scripts.setdefault(name, deque()).append(Script(tuple(_act(message) for message in messages)))
    return {name: _in_turn(queue) for name, queue in scripts.items()}


def _exchanges(recording: Iterable[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    found: list[tuple[str, list[Mapping[str, Any]]]] = []
    for entry in recording:
        if "send" in entry:
            found.append((entry["send"]["execute"], []))
        elif "receive" in entry and found:
            found[-1][1].append(entry["receive"])
    negotiated = next((i for i, exchange in enumerate(found) if exchange == _NEGOTIATION), 0)
    return [exchange for exchange in found[negotiated:] if exchange[0] != "qmp_capabilities"]


def _in_turn(scripts: deque[Script]) -> Callable[[Mapping[str, Any]], Script]:
    return lambda _: scripts.popleft() if len(scripts) > 1 else scripts[0]


def _act(message: Mapping[str, Any]) -> Act:
    if "event" in message:
        return Event(message["event"], message.get("data"))
    if "error" in message:
        return Refuse(message["error"]["class"], message["error"]["desc"])
    return Return(message["return"])
