"""What a fake is told to do when it is asked: acts, in order.

An answer, in the tables of the fakes, is one of
    a plain value               it is returned: `{"running": True}`, `[]`, `"text"`
    an act, or `Script` of acts for what a plain value cannot say
    a function of the arguments that gives one of the above, for an answer that depends on what came before
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias


class Return(NamedTuple):
    """Answer with this value."""

    value: object


class Refuse(NamedTuple):
    """Answer with an error."""

    error_class: str
    description: str


class Event(NamedTuple):
    """Send an event."""

    name: str
    data: Mapping[str, object] | None = None


class Raw(NamedTuple):
    """Send these bytes as they are."""

    data: bytes


class Pause(NamedTuple):
    """Do nothing for so long; later commands wait, as they do in QEMU."""

    seconds: float


class HangUp(NamedTuple):
    """Close the connection."""


Act: TypeAlias = Return | Refuse | Event | Raw | Pause | HangUp


class Script(NamedTuple):
    """Several acts for one command. Without `Return` or `Refuse` the command is never answered."""

    acts: tuple[Act, ...]


SILENCE = Script(())
"""Takes the command and never answers; the commands after it are."""

Answer: TypeAlias = object | Act | Script | Callable[[Mapping[str, Any]], object]
Answers: TypeAlias = Mapping[str, Answer]


def unfold(answer: Answer, arguments: Mapping[str, Any]) -> tuple[Act, ...]:
    """The acts that an answer stands for."""
    if callable(answer):
        return unfold(answer(arguments), arguments)
    if isinstance(answer, Script):
        return answer.acts
    if isinstance(answer, Return | Refuse | Event | Raw | Pause | HangUp):
        return (answer,)
    return (Return(answer),)
