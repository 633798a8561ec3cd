"""A fake QEMU: its QMP socket, with scripted answers and the manners of the real one.

    async with FakeQemu(tmp_path / "qmp", {"query-status": {"status": "running"}}) as qemu:
        async with await Session.open(qemu.address) as session: ...
        assert qemu.commands == [("query-status", {})]

Like QEMU it serves one client at a time, greets, insists on `qmp_capabilities`, echoes `id`, executes commands in
order, sends events in between and refuses what it does not know.
"""

from __future__ import annotations

import json
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from ringfence.testing.fake_server import FakeServer
from ringfence.testing.script import Event, JsonStream, Refuse, Return, Script, unfold

if TYPE_CHECKING:
    import asyncio
    import os
    from collections.abc import Callable, Iterable, Mapping

    from ringfence.testing.script import Act, Answer, Answers

GREETING: dict[str, Any] = {
    "QMP": {
        "version": {
            "qemu": {"micro": 22, "minor": 2, "major": 7},
            "package": "Debian 1:7.2+dfsg-7+deb12u18+b3",
        },
        "capabilities": ["oob"],
    }
}
"""What QEMU 7.2.22 of Debian 12 sends first."""


class FakeQemu(FakeServer):
    """A QMP socket.

    :param path: where to listen; must not exist.
    :param answers: what each command does; may be changed at any time. One under `qmp_capabilities` replaces the
        negotiation.
    :param greeting: a greeting, other bytes to send in its place, or None for a QEMU that never greets.

    :ivar received: the commands as they came, as JSON objects, those of the negotiation too.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        answers: Answers | None = None,
        *,
        greeting: Mapping[str, Any] | bytes | None = GREETING,
    ) -> None:
        first = greeting if isinstance(greeting, bytes | None) else _line(greeting)
        super().__init__(path, greeting=first)
        self.answers: dict[str, Answer] = dict(answers or {})
        self.received: list[dict[str, Any]] = []
        self._negotiated = False

    @property
    def commands(self) -> list[tuple[str, dict[str, Any]]]:
        """Name and arguments of each command received, without the negotiation."""
        named = [(_name(command), command.get("arguments", {})) for command in self.received]
        return [(name, arguments) for name, arguments in named if name != "qmp_capabilities"]

    def emit(self, name: str, data: Mapping[str, object] | None = None) -> None:
        """Send an event to the client being served, if it has negotiated. From any thread."""
        self._call(self._emit, Event(name, data))

    def _emit(self, event: Event) -> None:
        if self._negotiated:
            self._send(_wire(event, {}))

    async def _converse(self, reader: asyncio.StreamReader) -> None:
        self._negotiated = False
        stream = JsonStream()
        while data := await reader.read(65536):
            for command in stream.feed(data):
                echo = {"id": command["id"]} if isinstance(command, dict) and "id" in command else {}
                await self._perform(self._acts(command), lambda act, echo=echo: _wire(act, echo))  # type: ignore[misc]

    def _acts(self, command: object) -> tuple[Act, ...]:
        if isinstance(command, json.JSONDecodeError):
            return (Refuse("GenericError", f"JSON parse error, {command.msg}"),)
        if not isinstance(command, dict):
            return (Refuse("GenericError", "QMP input must be a JSON object"),)
        name = _name(command)
        if name is None:
            return (Refuse("GenericError", "QMP input lacks member 'execute'"),)
        self.received.append(command)
        if name == "qmp_capabilities":
            return self._negotiate(command)
        if not self._negotiated:
            return (Refuse("CommandNotFound", "Expecting capabilities negotiation with 'qmp_capabilities'"),)
        if name not in self.answers:
            return (Refuse("CommandNotFound", f"The command {name} has not been found"),)
        return unfold(self.answers[name], command.get("arguments", {}))

    def _negotiate(self, command: Mapping[str, Any]) -> tuple[Act, ...]:
        if self._negotiated:
            return (Refuse("CommandNotFound", "Capabilities negotiation is already complete, command ignored"),)
        acts = unfold(self.answers.get("qmp_capabilities", {}), command.get("arguments", {}))
        self._negotiated = any(isinstance(act, Return) for act in acts)
        return acts


def replay(recording: Iterable[Mapping[str, Any]]) -> dict[str, Answer]:
    """A table of answers from a recorded session.

    A command that was recorded several times gives its answers one after the other, and the last one from then on.

    :param recording: `{"send": command}` and `{"receive": message}` as they were seen, in order; an event belongs
        to the command it stands behind. Other entries, such as a header, are passed over.
    """
    scripts: dict[str, deque[Script]] = {}
    acts: list[Act] = []
    for entry in recording:
        if "send" in entry:
            name = entry["send"]["execute"]
            acts = []
        elif "receive" in entry:
            acts.append(_act(entry["receive"]))
            if not isinstance(acts[-1], Event):
                scripts.setdefault(name, deque()).append(Script(tuple(acts)))
    return {name: _in_turn(queue) for name, queue in scripts.items()}


def _name(command: Mapping[str, Any]) -> Any:
    return command.get("execute", command.get("exec-oob"))


def _in_turn(scripts: deque[Script]) -> Callable[[Mapping[str, Any]], Script]:
    return lambda _: scripts.popleft() if len(scripts) > 1 else scripts[0]


def _act(message: Mapping[str, Any]) -> Act:
    if "event" in message:
        return Event(message["event"], message.get("data"))
    if "error" in message:
        return Refuse(message["error"]["class"], message["error"]["desc"])
    return Return(message["return"])


def _wire(act: Act, echo: Mapping[str, Any]) -> bytes:
    match act:
        case Return(value):
            return _line({"return": value, **echo})
        case Refuse(error_class, description):
            return _line({**echo, "error": {"class": error_class, "desc": description}})
        case Event(name, data):
            seconds, microseconds = divmod(time.time_ns() // 1000, 1_000_000)
            stamp = {"timestamp": {"seconds": seconds, "microseconds": microseconds}, "event": name}
            return _line(stamp if data is None else {**stamp, "data": data})
    raise TypeError(act)


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\r\n"
