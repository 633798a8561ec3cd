"""A power failure at any step of a migration, half-written pages and records included, loses nothing."""

from __future__ import annotations

import pytest

from ringfence.errors import UsageError
from ringfence.flash.migration import Copy, Erase, Kind, Log, Migration, Pace, Place, Record, decode, encode

CHUNKS = 3
A, B = 4, 9


class PowerFailureError(Exception):
    pass


class Flash:
    """Places that must be erased before they are written, and a journal; the power fails at a given step."""

    def __init__(self) -> None:
        self.content = {Place(c, p): f"{c}:{p}" for c in (A, B) for p in range(CHUNKS)}
        self.erased = {Place(A, CHUNKS), Place(B, CHUNKS)}
        self.journal = b""
        self.erases = 0
        self.fails_at = -1

    def run(self, migration: Migration, *, torn: bool = False, write_at: int = -1) -> None:
        for number, step in enumerate(migration.steps()):
            if number >= write_at >= 0 and not migration.holds_writes:
                self.write(migration, 0, "new")
                write_at = -1
            if number == self.fails_at:
                if torn:
                    self.half(step)
                raise PowerFailureError
            self.do(step)

    def do(self, step: Copy | Erase | Log) -> None:
        if isinstance(step, Copy):
            assert step.target in self.erased, "written without an erase"
            self.erased.discard(step.target)
            self.content[step.target] = self.content[step.source]
        elif isinstance(step, Erase):
            self.content.pop(step.place, None)
            self.erased.add(step.place)
            self.erases += 1
        else:
            self.journal += encode(step.record)

    def half(self, step: Copy | Erase | Log) -> None:
        if isinstance(step, Copy):
            self.erased.discard(step.target)
            self.content[step.target] = "half"
        elif isinstance(step, Erase):
            self.content[step.place] = "half"
            self.erased.discard(step.place)
        else:
            self.journal += encode(step.record)[:-3]

    def write(self, migration: Migration, chunk: int, text: str) -> None:
        record = migration.write(chunk)
        if record is not None:
            self.do(record)
        self.content[migration.where(0, chunk)] = text

    def reads(self, migration: Migration) -> list[list[str]]:
        return [[self.content[migration.where(side, n)] for n in range(CHUNKS)] for side in (0, 1)]


def expected(first: str = "4:0") -> list[list[str]]:
    return [[first, "4:1", "4:2"], ["9:0", "9:1", "9:2"]]


STEPS = len(list(Migration(A, B, CHUNKS).steps()))


@pytest.mark.parametrize("torn", [False, True], ids=["before", "half done"])
@pytest.mark.parametrize("step", range(STEPS))
def test_after_a_power_failure_at_any_step(step: int, torn: bool) -> None:
    flash = Flash()
    flash.fails_at = step
    with pytest.raises(PowerFailureError):
        flash.run(Migration(A, B, CHUNKS), torn=torn)
    found = Migration.recover(A, B, CHUNKS, decode(flash.journal))
    assert flash.reads(found) == expected()
    flash.journal = b"".join(map(encode, decode(flash.journal)))  # a torn line is cut off before more is written
    flash.fails_at = -1
    flash.run(found)
    assert found.done
    assert flash.reads(found) == expected()
    assert {found.where(0, n).channel for n in range(CHUNKS)} == {B}
    assert set(found.spares) <= flash.erased
    assert flash.erases <= 2 * CHUNKS + 2  # what a failure costs is one pair of erases


@pytest.mark.parametrize("fails_at", range(STEPS + 4))
def test_a_tenant_writes_meanwhile_and_then_the_power_fails(fails_at: int) -> None:
    for write_at in range(STEPS - 4):
        flash = Flash()
        flash.fails_at = fails_at
        migration = Migration(A, B, CHUNKS)
        try:
            flash.run(migration, write_at=write_at)
        except PowerFailureError:
            migration = Migration.recover(A, B, CHUNKS, decode(flash.journal))
        written = expected("new" if "new" in flash.content.values() else "4:0")
        assert flash.reads(migration) == written
        flash.fails_at = -1
        flash.run(migration)
        assert migration.done
        assert flash.reads(migration) == written


def test_a_swap_costs_one_erase_of_every_chunk() -> None:
    flash = Flash()
    flash.run(Migration(A, B, CHUNKS))
    assert flash.erases == 2 * CHUNKS


def test_the_next_swap_begins_with_the_layout_that_this_one_left() -> None:
    flash = Flash()
    there = Migration(A, B, CHUNKS)
    flash.run(there)
    back = Migration(A, B, CHUNKS, there.layouts)
    flash.run(back)
    assert flash.reads(back) == [["9:0", "9:1", "9:2"], ["4:0", "4:1", "4:2"]]
    with pytest.raises(UsageError):
        _ = Migration(A, B, CHUNKS).layouts


def test_a_journal_that_is_not_its_own_is_refused() -> None:
    with pytest.raises(UsageError, match="switched of chunk 0 after begin"):
        Migration.recover(A, B, CHUNKS, [Record(Kind.SWITCHED, 0)])
    assert list(decode(encode(Record(Kind.COPIED, 0)) + b"rubbish here\n" + encode(Record(Kind.SWITCHED, 0)))) == [
        Record(Kind.COPIED, 0)
    ]


def test_the_pace_holds_its_share() -> None:
    pace = Pace(0.1)
    now = [pace.start_ns(0, 1000) for _ in range(4)]
    assert now == [0, 10_000, 20_000, 30_000]
    assert pace.start_ns(1_000_000, 1000) == 1_000_000
    with pytest.raises(UsageError):
        Pace(0)
