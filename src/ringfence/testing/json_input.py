"""Commands as QEMU's and the agent's parsers take them, from a stream in which nothing but JSON ends a command."""

from __future__ import annotations

from collections.abc import Iterator
from json import JSONDecodeError, JSONDecoder
from typing import Any

from ringfence.testing.script import Refuse


class JsonStream:
    """Cuts a stream into JSON values as QEMU does: no newline is needed, several may come at once."""

    def __init__(self) -> None:
        self._text = ""
        self._decoder = JSONDecoder()

    def feed(self, data: bytes) -> Iterator[Any]:
        """Values that `data` completes; a `JSONDecodeError` stands for a line that is none."""
        self._text += data.decode("utf-8", "replace")
        while self._text:
            self._text = self._text.lstrip()
            try:
                value, end = self._decoder.raw_decode(self._text)
            except JSONDecodeError as error:
                newline = self._text.find("\n", error.pos)
                if newline < 0:
                    return
                self._text = self._text[newline:]
                yield error
            else:
                self._text = self._text[end:]
                yield value


def complaint(value: object) -> Refuse | None:
    """What QEMU says to a value that is no command; None when it is one."""
    if isinstance(value, JSONDecodeError):
        return Refuse("GenericError", f"JSON parse error, {value.msg}")
    if not isinstance(value, dict):
        return Refuse("GenericError", "QMP input must be a JSON object")
    if "execute" not in value and "exec-oob" not in value:
        return Refuse("GenericError", "QMP input lacks member 'execute'")
    return None
