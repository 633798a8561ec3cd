"""PURE: what can be read out of the text of QEMU's human monitor (HMP).

HMP is made for people and has no grammar for answers. Only what QEMU's dispatcher itself prints, the same for
every command and since many versions, is read here: the lines of `help`, and the marks of a failure.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_FAILURE = re.compile(r"^(?:Error: |unknown command: |Try \"help [^\"]*\" for more information\r?$)", re.MULTILINE)


class HmpCommand(NamedTuple):
    """One entry of `help`.

    :param names: the command and its other names, the longest first: `("cont", "c")`.
    :param arguments: the synopsis as QEMU prints it, on one line: `device [-f] filename`; empty for none.
    :param help: one paragraph, on one line.
    """

    names: tuple[str, ...]
    arguments: str
    help: str

    @property
    def name(self) -> str:
        """The longest name."""
        return self.names[0]


def failed(text: str) -> bool:
    """Whether the answer to a command says that it failed.

    HMP has no error code. QEMU's dispatcher marks a failure in three ways: a line that begins with `Error: `, a
    line that begins with `unknown command: `, and, when the arguments could not be read, a last line
    `Try "help NAME" for more information`. Some commands use none of them (`commit nosuch` in QEMU 7.2 answers
    `Device 'nosuch' not found`): those failures cannot be told from success.
    """
    return _FAILURE.search(text) is not None


def parse_help(text: str) -> tuple[HmpCommand, ...]:
    """Read the answer to `help`, or to `help info`, whose entries are given without the word `info`.

    Lines that are no entry are passed over. Order is QEMU's.
    """
    entries: list[str] = []
    for line in text.splitlines():
        if line[:1] not in ("", " ", "\t", "["):
            entries.append(line)
        elif entries and line.strip():
            entries[-1] += " " + line
    return tuple(command for command in map(_parse_entry, entries) if command is not None)


def _parse_entry(entry: str) -> HmpCommand | None:
    head, found, help_text = entry.partition(" -- ")
    if not found:
        return None
    words = head.split()
    if len(words) > 1 and words[0] == "info" and not words[1].startswith("["):
        del words[0]
    names = tuple(sorted(words[0].split("|"), key=len, reverse=True))
    if len(words) > 1 and words[1] == names[0]:  # `getfd getfd name`, as QEMU prints it
        del words[1]
    return HmpCommand(names, " ".join(words[1:]), " ".join(help_text.split()))
