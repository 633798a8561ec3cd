"""PURE: what a line of the human monitor may hold, and how its text is made the same from either door."""

from __future__ import annotations

from ringfence.errors import UsageError


def check_line(line: str) -> None:
    """Refuse what is not one line of text.

    QMP's door would take a control character for part of a name, the readline door for an editing key.

    :raise UsageError: a control character, a newline, or text that is not Unicode.
    """
    odd = next((c for c in line if c < " " or "\x7f" <= c < "\xa0" or "\ud800" <= c <= "\udfff"), None)
    if odd is not None:
        raise UsageError(f"the monitor's line holds {odd!r}", hint="Give one line of plain text.")


def unix_lines(text: str) -> str:
    """The text with each line ended by a newline, where QEMU writes carriage return and newline."""
    return text.replace("\r\n", "\n")
