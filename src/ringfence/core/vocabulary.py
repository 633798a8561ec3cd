"""PURE: the words of a file of fences, derived from the knobs' rows: nested groups, dotted keys, and all between.

`disks: {vda: {iops_burst: 2000}}`, `disk: {vda: {iops: {burst: 2000}}}` and `disk.vda.iops.burst: 2000` are the
same. A new row is a new word, without any code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from ringfence.core.knob import Row

LENGTH = "_length"
"""Ends the key of how long a burst may last, beside the key of the burst."""


class Group:
    """A place in the tree of words.

    :ivar row: what a value that stands here sets; None where only a group can stand.
    :ivar words: every way to write what stands below, to its segments.
    :ivar slot: what stands for an instance's name, None where there are no instances.
    """

    def __init__(self) -> None:
        self.row: Row | None = None
        self.children: dict[str, Group] = {}
        self.words: dict[str, tuple[str, ...]] = {}
        self.slot: str | None = None
        self.of_slot: Group | None = None

    def at(self, segments: Iterable[str]) -> Group:
        """The group below; the segments are those of `words`."""
        found = self
        for segment in segments:
            found = found.children[segment]
        return found

    def rows(self) -> Iterator[tuple[tuple[str, ...], Row]]:
        """Every row at or below, with the segments that lead there; not beyond an instance."""
        if self.row:
            yield (), self.row
        for segment, child in self.children.items():
            for path, row in child.rows():
                yield (segment, *path), row


class Vocabulary(NamedTuple):
    """:param root: what stands in a fence. :param lengths: key of a burst's row to that of its length."""

    root: Group
    lengths: Mapping[str, str]
    keys: tuple[str, ...]


def vocabulary(rows: Iterable[Row]) -> Vocabulary:
    """The words of these rows; rows that can only be read are none."""
    root = Group()
    settable = [row for row in rows if not row.read_only]
    for row in settable:
        group = root
        head, _, tail = row.key.partition("<")
        group = _down(root, head)
        if tail:
            slot, _, leaf = tail.partition(">")
            if group.of_slot is None:
                group.slot, group.of_slot = slot, Group()
            group = _down(group.of_slot, leaf)
        group.row = row
    _name(root)
    keys = tuple(row.key for row in settable)
    lengths = {key: key + LENGTH for key in keys if key + LENGTH in keys}
    return Vocabulary(root, lengths, keys)


def _down(group: Group, dotted: str) -> Group:
    for segment in filter(None, dotted.split(".")):
        group = group.children.setdefault(segment, Group())
    return group


def _name(group: Group) -> None:
    """Fill in the words of a group and of all below it."""
    for segments in _paths(group):
        for joint in (".", "_"):
            group.words.setdefault(joint.join(segments), segments)
        below = group.at(segments)
        if below.slot:
            group.words.setdefault(".".join(segments) + "s", segments)
    for child in group.children.values():
        _name(child)
    if group.of_slot:
        _name(group.of_slot)


def _paths(group: Group) -> Iterator[tuple[str, ...]]:
    for segment, child in group.children.items():
        yield (segment,)
        for path in _paths(child):
            yield (segment, *path)


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint with the nearest right words; empty when none is near."""
    import difflib

    near = difflib.get_close_matches(word[:80], list(known), n=2, cutoff=0.6)
    return f"did you mean {' or '.join(near)}?" if near else ""
