"""A fake guest agent: the host's end of its channel, with scripted answers.

It answers `guest-sync-delimited` itself. For an agent that is absent, hung or held by another client give
`{"guest-sync-delimited": SILENCE}`; for one that was left with unread answers give those as `greeting`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ringfence.testing.fake_server import FakeServer
from ringfence.testing.json_input import JsonStream, complaint
from ringfence.testing.script import Raw, Refuse, Return, unfold

if TYPE_CHECKING:
    import asyncio
    import os
    from collections.abc import Mapping

    from ringfence.testing.script import Act, Answer, Answers

_DELIMITER = b"\xff"


class FakeAgent(FakeServer):
    """The agent's channel.

    :param path: where to listen; must not exist.
    :param answers: what each command does; may be changed at any time.
    :param greeting: bytes that wait for each client, such as answers that an earlier one did not read.

    :ivar commands: name and arguments of each command received, without those that synchronise.
    """

    def __init__(
        self, path: str | os.PathLike[str], answers: Answers | None = None, *, greeting: bytes | None = None
    ) -> None:
        super().__init__(path, greeting=greeting)
        self.answers: dict[str, Answer] = dict(answers or {})
        self.commands: list[tuple[str, dict[str, Any]]] = []
        self._stream = JsonStream()  # one for all clients: the guest does not see them come and go

    async def _converse(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(65536):
            first, *fresh = data.split(_DELIMITER)
            await self._answer(first)
            for part in fresh:
                self._stream = JsonStream()  # the delimiter ends whatever was begun, and is an error itself
                self._send(_wire(Refuse("GenericError", "JSON parse error, stray '\\uFFFD'")))
                await self._answer(part)

    async def _answer(self, data: bytes) -> None:
        for command in self._stream.feed(data):
            await self._perform(self._acts(command), _wire)

    def _acts(self, command: Any) -> tuple[Act, ...]:
        refusal = complaint(command)
        if refusal is not None:
            return (refusal,)
        name, arguments = command["execute"], command.get("arguments", {})
        if name == "guest-sync-delimited":
            return unfold(self.answers.get(name, _synchronise), arguments)
        self.commands.append((name, arguments))
        if name not in self.answers:
            return (Refuse("CommandNotFound", f"The command {name} has not been found"),)
        return unfold(self.answers[name], arguments)


def _synchronise(arguments: Mapping[str, Any]) -> Act:
    return Raw(_DELIMITER + _wire(Return(arguments["id"])))


def _wire(act: Act) -> bytes:
    match act:
        case Return(value):
            message: dict[str, object] = {"return": value}
        case Refuse(error_class, description):
            message = {"error": {"class": error_class, "desc": description}}
        case _:
            raise TypeError(f"an agent cannot say {act}")
    return json.dumps(message).encode() + b"\n"
