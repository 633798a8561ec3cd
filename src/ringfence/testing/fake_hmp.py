"""A fake human monitor: a readline prompt on a socket, which redraws the line for each key it gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ringfence.testing.fake_server import FakeServer
from ringfence.testing.script import Return, unfold

if TYPE_CHECKING:
    import asyncio
    import os

    from ringfence.testing.script import Act, Answer, Answers

BANNER = b"QEMU 7.2.22 monitor - type 'help' for more information\r\n(qemu) "
"""What QEMU 7.2.22 sends first, up to its prompt."""

_CURSOR_LEFT = b"\x1b[D"
_ERASE_TO_END = b"\x1b[K"


class FakeHmp(FakeServer):
    """A `-monitor unix:` socket.

    :param path: where to listen; must not exist.
    :param answers: what each line gives; a text is what QEMU prints, each line ended by a newline. The prompt
        follows it; a script without `Return` is a command that does not come back.
    :param greeting: what is sent first; None for a monitor that is served to somebody else.

    :ivar commands: the lines received.
    """

    def __init__(
        self, path: str | os.PathLike[str], answers: Answers | None = None, *, greeting: bytes | None = BANNER
    ) -> None:
        super().__init__(path, greeting=greeting)
        self.answers: dict[str, Answer] = dict(answers or {})
        self.commands: list[str] = []

    async def _converse(self, reader: asyncio.StreamReader) -> None:
        line = b""
        while data := await reader.read(65536):
            for key in (data[i : i + 1] for i in range(len(data))):
                if key not in b"\r\n":
                    self._send(_CURSOR_LEFT * len(line) + line + key + _ERASE_TO_END)
                    line += key
                    continue
                self._send(b"\r\n")
                await self._execute(line.decode())
                line = b""

    async def _execute(self, line: str) -> None:
        acts: tuple[Act, ...] = (Return(""),)
        if line:
            self.commands.append(line)
            acts = unfold(self.answers.get(line, f"unknown command: '{line.split()[0]}'\n"), {})
        await self._perform(acts, _wire)
        if any(isinstance(act, Return) for act in acts):
            self._send(b"(qemu) ")


def _wire(act: Act) -> bytes:
    if isinstance(act, Return):
        return str(act.value).replace("\n", "\r\n").encode()
    raise TypeError(f"a human monitor cannot say {act}")
