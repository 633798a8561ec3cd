"""What is said on the daemon's control socket: one JSON object a line, each way.

    => {"id": 1, "verb": "set", "arguments": {"vm": "web1", "values": {"vcpus": "2"}}}
    <= {"id":1,"progress":{"text":"waiting for the guest","done":1,"total":2,"unit":"count"}}
    <= {"id":1,"result":[...]}
    <= {"id":1,"error":{"kind":"UsageError","message":"","hint":"","state":"","exit_code":2,"retryable":false}}

Answers come in the order they are ready; a client may ask again before it has them. A connection that closes ends
what it asked for as Ctrl-C would.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from ringfence import errors
from ringfence.core.answers import fields, number, text

SYSTEM_SOCKET = "/run/ringfence/control.sock"
LINE_MAX_BYTES = 1 << 20
"""A file of fences is the longest that is sent; ten thousand tenants take half of that."""

ENVIRONMENT = "RINGFENCE_SOCKET"


class Request(NamedTuple):
    """:param id: chosen by the client, and in every answer to it."""

    id: int
    verb: str
    arguments: Mapping[str, Any]


def socket_path() -> str:
    """Where the daemon of this user listens, and whom it would ask: `$RINGFENCE_SOCKET`, or the system's."""
    return os.environ.get(ENVIRONMENT) or SYSTEM_SOCKET


def encode(message: Mapping[str, Any]) -> bytes:
    """One line."""
    return json.dumps(message, separators=(",", ":"), default=str).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """One line, read.

    :raise UsageError: it is no JSON object.
    """
    try:
        return fields(json.loads(line))
    except (ValueError, TypeError, RecursionError) as error:
        raise errors.UsageError("that is no JSON object on a line", hint=str(error)[:80]) from error


def request(message: Mapping[str, Any]) -> Request:
    """What a client asks for.

    :raise UsageError: a member is missing, or of another type.
    """
    try:
        return Request(number(message["id"]), text(message["verb"]), fields(message.get("arguments", {})))
    except (LookupError, TypeError) as error:
        hint = 'such as {"id": 1, "verb": "status", "arguments": {}}'
        raise errors.UsageError("a request has an id, a verb and arguments", hint=hint) from error


def error_data(error: errors.RingfenceError) -> dict[str, Any]:
    """An error as it is sent."""
    return {
        "kind": type(error).__name__,
        "message": error.message,
        "hint": error.hint,
        "state": error.state,
        "exit_code": error.exit_code,
        "retryable": error.retryable,
    }


def raised(data: Mapping[str, Any]) -> errors.RingfenceError:
    """An error that was sent, as one of our own tree again; one of a newer tree keeps its exit code."""
    found = getattr(errors, str(data.get("kind", "")), None)
    kind = found if isinstance(found, type) and issubclass(found, errors.RingfenceError) else errors.RingfenceError
    made = kind(
        str(data.get("message", "the daemon failed")),
        hint=str(data.get("hint", "")),
        state=str(data.get("state", "")),
    )
    code = data.get("exit_code")
    if isinstance(code, int) and code != made.exit_code:
        made.exit_code = code
    return made
