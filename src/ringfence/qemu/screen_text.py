"""PURE: QEMU's monitor as it is read off a screen: where the prompt is, what was typed, what came for an answer.

A screen is its rows, each as long as the screen is wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

PROMPT = "(qemu) "


class Answer(NamedTuple):
    """:ivar cut: lines that came before `text` have scrolled off the screen."""

    text: str
    cut: bool


def typed(rows: Sequence[str]) -> str | None:
    """What stands behind the prompt in the last line on the screen; None when that is no line of the monitor.

    A line that goes on in the next row fills the first; one broken at a blank is taken for no line of the monitor.

    :return: without the blanks at its end, which look like none.
    """
    last = _last(rows)
    for first in range(last, -1, -1) if rows else ():
        if rows[first].startswith(PROMPT):
            return "".join(rows[first : last + 1])[len(PROMPT) :].rstrip()
        if first and not _is_full(rows[first - 1]):
            return None
    return None


def is_echoed(rows: Sequence[str], line: str) -> bool:
    """Whether the last thing on the screen is the prompt and `line`, which has no blanks at its end."""
    last = _last(rows)
    first = last + 1 - _height(line, rows)
    return first >= 0 and "".join(rows[first : last + 1]).rstrip() == PROMPT + line


def answer(rows: Sequence[str], line: str) -> Answer | None:
    """What QEMU printed for `line`; None as long as no new prompt stands below it.

    A line wider than the screen is put together again where a row is full up to its last character; when it was
    broken at a blank, that cannot be seen, and it stays in two.
    """
    if typed(rows) != "":
        return None
    last = _last(rows)
    start = _end_of_echo(rows, line, last)
    return Answer(_joined(rows[start or 0 : last]), cut=start is None)


def _last(rows: Sequence[str]) -> int:
    """The last row with text."""
    return next((number for number in range(len(rows) - 1, -1, -1) if rows[number].strip()), 0)


def _end_of_echo(rows: Sequence[str], line: str, last: int) -> int | None:
    """The row below the last echo of `line`, None when that is not on the screen."""
    height = _height(line, rows)
    for below in range(last, height - 1, -1):
        if "".join(rows[below - height : below]).rstrip() == PROMPT + line:
            return below
    return None


def _height(line: str, rows: Sequence[str]) -> int:
    """How many rows the prompt and a line take."""
    return -(-len(PROMPT + line) // max(1, len(rows[0]) if rows else 1))


def _joined(rows: Sequence[str]) -> str:
    text = ""
    for row in rows:
        text += row if _is_full(row) else row.rstrip() + "\n"
    return text if not text or text.endswith("\n") else text + "\n"


def _is_full(row: str) -> bool:
    return bool(row) and row[-1] != " "
