"""PURE: reading what QEMU, the guest's agent and the kernel answered; the first two are not trusted.

What is not as expected raises one of `ILL_FORMED`; `ill_formed` makes of that an error which says whose answer it
was. The driver does so for all steps; only where a guest's nonsense must not spoil the rest do they themselves.
"""

from __future__ import annotations

from typing import Any

from ringfence.core.requests import Agent, Qmp, Wait
from ringfence.errors import GuestError, HostError, MonitorProtocolError

ILL_FORMED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)
"""What Python raises when a member is missing, or of another type than it is used as."""


def number(value: Any) -> int:
    """An integer. Raises TypeError for anything else."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{_shown(value)} stands where a number is expected")
    return value


def text(value: Any) -> str:
    """A string. Raises TypeError for anything else."""
    if not isinstance(value, str):
        raise TypeError(f"{_shown(value)} stands where a text is expected")
    return value


def fields(value: Any) -> dict[str, Any]:
    """An object. Raises TypeError for anything else."""
    if not isinstance(value, dict):
        raise TypeError(f"{_shown(value)} stands where an object is expected")
    return value


def entries(value: Any) -> list[dict[str, Any]]:
    """An array of objects. Raises TypeError for anything else."""
    if not isinstance(value, list):
        raise TypeError(f"{_shown(value)} stands where an array is expected")
    return [fields(entry) for entry in value]


def ill_formed(asked: Any, error: Exception) -> MonitorProtocolError | GuestError | HostError:
    """What to raise for the answer to `asked`, or one of them, when reading it raised one of `ILL_FORMED`."""
    why = f"it has no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
    tail = f"is not of the form expected: {why}"
    unknown = "this may be a QEMU that ringfence does not know"
    match asked:
        case Agent(command):
            hint = "the guest says what it likes; see which agent runs in it"
            return GuestError(f"the guest agent's answer to {command} {tail}", hint=hint)
        case Wait(events):
            return MonitorProtocolError(f"QEMU's event {' or '.join(events)} {tail}", hint=unknown)
        case Qmp(command):
            whose = command
        case [Qmp(command), *_]:
            whose = f"one of {', '.join(dict.fromkeys(request.command for request in asked))}"
        case _:
            first = asked[0] if isinstance(asked, list) else asked
            path = str(first[0])
            return HostError(f"what the kernel tells by {path} {tail}", path=path, hint="see that file")
    hint = f"`ringfence monitor VM --qmp {command}` shows it; {unknown}"
    return MonitorProtocolError(f"QEMU's answer to {whose} {tail}", hint=hint)


def _shown(value: Any) -> str:
    """A value for a message, cut short."""
    written = repr(value)
    return written if len(written) <= 40 else f"{written[:37]}..."
