"""PURE: a command as it goes to QEMU: on one line, with nothing in it that could be left out.

QEMU 7.2 reads a command byte by byte, 3 microseconds each: blanks and long ids were a fifth of a round trip. It
needs no newline, a line-based server or recorder in between does.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping

_encode = json.JSONEncoder(separators=(",", ":")).encode


def line(command: str, arguments: Mapping[str, object] | None, number: int) -> bytes:
    """The command, with `number` as its id."""
    message: dict[str, object] = {"execute": command, "id": number}
    if arguments is not None:
        message["arguments"] = arguments
    return _encode(message).encode() + b"\n"


def free(taken: Container[int]) -> int:
    """The smallest id, from 1 on, that no command that is still to be answered has."""
    number = 1
    while number in taken:
        number += 1
    return number
