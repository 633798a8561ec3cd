"""What QEMU's answers, and the want of them, become; the same words for every way of asking."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ringfence.errors import MonitorGoneError, MonitorProtocolError, MonitorRefusedError, MonitorTimeoutError
from ringfence.qemu.sockets import GONE_HINT

IN_DOUBT = "The command may have taken effect, or may still do so."


def value(where: object, command: str, message: Mapping[str, Any]) -> Any:
    """What stands in the answer's `return`.

    :raise MonitorRefusedError: QEMU answered with an error; `error_class` is its class.
    :raise MonitorProtocolError: it is neither.
    """
    if "return" in message:
        return message["return"]
    error = message.get("error")
    if not isinstance(error, dict) or not {"class", "desc"} <= error.keys():
        raise MonitorProtocolError(f"{where}: the answer to {command} is not QMP", state=IN_DOUBT)
    raise MonitorRefusedError(f"QEMU refused {command}: {error['desc']}", error_class=error["class"])


def late(where: object, command: str, timeout_s: float) -> MonitorTimeoutError:
    """What to raise when no answer came in time."""
    return MonitorTimeoutError(
        f"{where}: no answer to {command} within {timeout_s:g} s",
        hint="QEMU may be busy or stopped; ask again, or allow more time.",
        state=IN_DOUBT,
    )


def closed(where: object, state: str) -> MonitorGoneError:
    """What to raise when QEMU closed the connection."""
    return MonitorGoneError(f"{where}: QEMU closed the connection", hint=GONE_HINT, state=state)


def left(where: object, state: str = "") -> MonitorGoneError:
    """What to raise when a session is used that was closed on this side."""
    return MonitorGoneError(f"{where}: the session is closed", hint="Open it again.", state=state)


def not_qmp(where: object, why: str, state: str) -> MonitorProtocolError:
    """What to raise when something else speaks there."""
    return MonitorProtocolError(
        f"{where}: what came over this socket is not QMP ({why.rstrip('.')})",
        hint="Give the socket of QEMU's -qmp option.",
        state=state,
    )
