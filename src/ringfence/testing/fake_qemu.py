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
from functools import partial
from typing import TYPE_CHECKING, Any

from ringfence.testing.fake_server import FakeServer
from ringfence.testing.json_input import JsonStream, complaint
from ringfence.testing.script import Event, Refuse, Return, unfold

if TYPE_CHECKING:
    import asyncio
    import os
    from collections.abc import Mapping

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
                refusal = complaint(command)
                if refusal is not None:
                    self._send(_wire(refusal, {}))
                    continue
                self.received.append(command)
                echo = {"id": command["id"]} if "id" in command else {}
                await self._perform(self._acts(command), partial(_wire, echo=echo))

    def _acts(self, command: Mapping[str, Any]) -> tuple[Act, ...]:
        name = _name(command)
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


def _name(command: Mapping[str, Any]) -> str:
    return str(command.get("execute") or command["exec-oob"])


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
