"""PURE: a command as it goes to QEMU: on one line, with nothing in it that could be left out.

QEMU 7.2 reads a command byte by byte, 3 microseconds each: blanks and long ids were a fifth of a round trip. It
needs no newline, a line-based server or recorder in between does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

_encode = json.JSONEncoder(separators=(",", ":")).encode


def line(command: str, arguments: Mapping[str, object] | None, name: str) -> bytes:
    """The command, with `name` as its id."""
    message: dict[str, object] = {"execute": command, "id": name}
    if arguments is not None:
        message["arguments"] = arguments
    return _encode(message).encode() + b"\n"
