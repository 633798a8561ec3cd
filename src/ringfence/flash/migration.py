"""Swap the contents of two channels while their tenants go on; a power failure at any moment loses nothing.

A channel is a row of places of one chunk each (a superblock: a block of every die), one of them spare. The n-th
chunks of both channels are copied to the other channel's spare place; one record in the journal makes both copies
count at once; then the old places are erased, and are the new spares. The journal is the truth: what it does not
say has not happened.

`Migration.steps` yields what is to be done as data; whoever runs it does it, in order, and a `Log` is on stable
storage before the next step; while `holds_writes`, no tenant's write may start. Nothing is done twice that must
not be: erasing an erased place is harmless.

| the journal's last word on a chunk | what is so | what comes next |
|--|--|--|
| none | the spare places may hold half a copy | erase them, copy |
| COPIED | the copies are whole, the old places count | switch |
| VOID | a tenant wrote to the chunk since | erase the copies, copy again |
| SWITCHED | the copies count, the old places may be half erased | erase them |
| ERASED | the old places are the new spares | the next chunk |
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple

from ringfence.errors import UsageError


class Place(NamedTuple):
    """Where a chunk can lie: a physical channel, and the number of the place in it."""

    channel: int
    place: int


class Kind(StrEnum):
    """What a record says."""

    BEGIN = "begin"
    COPIED = "copied"
    VOID = "void"
    SWITCHED = "switched"
    ERASED = "erased"


class Record(NamedTuple):
    """One line of the journal; `chunk` is 0 in BEGIN."""

    kind: Kind
    chunk: int


class Copy(NamedTuple):
    source: Place
    target: Place


class Erase(NamedTuple):
    place: Place


class Log(NamedTuple):
    record: Record


Step = Copy | Erase | Log
Layouts = tuple[Sequence[int], Sequence[int]]


class Migration:
    """One swap, in progress or recovered from its journal.

    :param first: a physical channel; :param second: the other one.
    :param chunks: that each of them holds; each has one place more.
    :param layouts: in which place each chunk lies, on the first and on the second channel; in order by default.
    """

    def __init__(self, first: int, second: int, chunks: int, layouts: Layouts | None = None) -> None:
        if first == second or chunks < 1:
            raise UsageError(
                "a swap needs two channels with something on them", hint="name two different channels"
            )
        self._chunks = chunks
        both = layouts or (range(chunks), range(chunks))
        self._where = [[Place(channel, n) for n in of] for channel, of in zip((first, second), both, strict=True)]
        self._spare = [
            Place(channel, (set(range(chunks + 1)) - set(of)).pop())
            for channel, of in zip((first, second), both, strict=True)
        ]
        self._state: Kind = Kind.BEGIN
        self._next = 0
        self._trusted_spares = True
        self._stale = False
        self._logging = False

    @property
    def done(self) -> bool:
        """All has changed places, and nothing is left to erase."""
        return self._next == self._chunks

    def where(self, side: int, chunk: int) -> Place:
        """Where a chunk of the first (0) or second (1) channel's tenant is read and written now."""
        return self._where[side][chunk]

    @property
    def layouts(self) -> Layouts:
        """In which place each chunk lies, on the first and on the second channel, once it is done.

        :raise UsageError: it is not.
        """
        if not self.done:
            raise UsageError("the channels have no layout while their contents move", hint="finish the swap first")
        return tuple(place.place for place in self._where[1]), tuple(place.place for place in self._where[0])

    @property
    def spares(self) -> tuple[Place, Place]:
        """The places that hold nothing that counts."""
        return self._spare[0], self._spare[1]

    @property
    def holds_writes(self) -> bool:
        """A record is on its way to the journal: what a tenant writes has to wait for the next step."""
        return self._logging

    def write(self, chunk: int) -> Log | None:
        """Call it before a tenant writes to a chunk: gives the record that must be stable before the write is.

        The copies of that chunk, if there are any, are then out of date.
        """
        if chunk != self._next:
            return None
        self._stale = True
        if self._state is not Kind.COPIED:
            return None
        self._state = Kind.VOID
        return Log(Record(Kind.VOID, chunk))

    def steps(self) -> Iterator[Step]:
        """What is left to do. May be left at any step, and begun again, by this object or by a recovered one."""
        while not self.done:
            if self._state is Kind.SWITCHED:
                yield from self._clean()
            elif self._state is Kind.COPIED:
                yield from self._log(Kind.SWITCHED)
            else:
                yield from self._copy()

    def _copy(self) -> Iterator[Step]:
        if not self._trusted_spares:
            for spare in self._spare:
                yield Erase(spare)
        self._trusted_spares = False
        self._stale = False
        for side in (0, 1):
            yield Copy(self._where[side][self._next], self._spare[1 - side])
        if not self._stale:  # else a tenant wrote while it was being copied: again
            yield from self._log(Kind.COPIED)

    def _clean(self) -> Iterator[Step]:
        for spare in self._spare:
            yield Erase(spare)
        yield from self._log(Kind.ERASED)
        self._trusted_spares = True

    def _log(self, kind: Kind) -> Iterator[Step]:
        record = Record(kind, self._next)
        self._logging = True
        yield Log(record)
        self._logging = False
        self.replay(record)

    def replay(self, record: Record) -> None:
        """Take a record as having happened.

        :raise UsageError: it cannot follow on what is known: the journal is another migration's, or damaged.
        """
        after = {
            Kind.COPIED: (Kind.BEGIN, Kind.VOID),
            Kind.VOID: (Kind.COPIED,),
            Kind.SWITCHED: (Kind.COPIED,),
            Kind.ERASED: (Kind.SWITCHED,),
        }
        if record.kind is Kind.BEGIN:
            return
        if record.chunk != self._next or self._state not in after[record.kind]:
            raise UsageError(
                f"the journal says {record.kind} of chunk {record.chunk} after {self._state} of {self._next}",
                hint="it is not this migration's journal, or it is damaged",
            )
        self._state = record.kind
        if record.kind is Kind.SWITCHED:
            self._switch()
        elif record.kind is Kind.ERASED:
            self._next += 1
            self._state = Kind.BEGIN

    def _switch(self) -> None:
        first, second = self._where[0][self._next], self._where[1][self._next]
        self._where[0][self._next], self._where[1][self._next] = self._spare[1], self._spare[0]
        self._spare = [first, second]

    @classmethod
    def recover(
        cls, first: int, second: int, chunks: int, records: Iterable[Record], layouts: Layouts | None = None
    ) -> Migration:
        """The migration as its journal left it. What a record that was never written stood for is done again.

        :raise UsageError: as in `replay`.
        """
        found = cls(first, second, chunks, layouts)
        for record in records:
            found.replay(record)
        found._trusted_spares = False
        return found


def encode(record: Record) -> bytes:
    """One line of the journal, with a checksum: a line that was cut short by a power failure is known as such."""
    text = f"{record.kind} {record.chunk}"
    return f"{text} {zlib.crc32(text.encode()):08x}\n".encode()


def decode(journal: bytes) -> Iterator[Record]:
    """The records up to the first line that is not whole; nothing counts after that one."""
    for line in journal.split(b"\n")[:-1]:
        text, _, checksum = line.rpartition(b" ")
        kind, _, chunk = text.decode(errors="replace").partition(" ")
        if f"{zlib.crc32(text):08x}".encode() != checksum or kind not in set(Kind):
            return
        yield Record(Kind(kind), int(chunk))


class Pace:
    """How fast a migration may go: it takes at most a given share of a channel's time, averaged over each step.

    :param share: above 0, at most 1.
    """

    def __init__(self, share: float) -> None:
        if not 0 < share <= 1:
            raise UsageError(f"a share of {share:g} of a channel's time cannot be", hint="such as 0.1 for a tenth")
        self._share = share
        self._next_ns = 0

    def start_ns(self, now_ns: int, takes_ns: int) -> int:
        """When the next step may start that keeps the channel busy for so long."""
        start = max(now_ns, self._next_ns)
        self._next_ns = start + round(takes_ns / self._share)
        return start
