"""PURE: what both kinds of completion give."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Candidate(NamedTuple):
    """One way to go on.

    :param text: what stands in the line afterwards, in place of the `length` characters before the cursor.
    :param label: what the menu shows; the text itself when empty.
    """

    text: str
    length: int
    help: str = ""
    label: str = ""


def matching(texts: Iterable[str], typed: str) -> list[Candidate]:
    """Those texts that begin with what was typed."""
    return [Candidate(text, len(typed)) for text in texts if text.startswith(typed)]
