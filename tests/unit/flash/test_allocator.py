"""Who gets which flash."""

from __future__ import annotations

import pytest

from ringfence import units
from ringfence.errors import UsageError
from ringfence.flash.allocator import Allocator, Request
from ringfence.flash.presets import preset
from ringfence.flash.scenario import Scenario, lay_out
from ringfence.flash.vssd import Bandwidth, Isolation, VirtualSsd

FLASHBLOX = preset("flashblox")
GIB = units.GIB


def ask(name: str, isolation: Isolation, gib: int, *, write: int = 0, weight: int = 1) -> Request:
    return Request(name, isolation, gib * GIB, Bandwidth(0, write), weight)


def disjoint(tenants: tuple[VirtualSsd, ...]) -> bool:
    return sum(len(t.dies) for t in tenants) == len({die for t in tenants for die in t.dies})


def test_channels_are_whole_and_as_many_as_the_capacity_takes() -> None:
    allocator = Allocator(FLASHBLOX)
    one = allocator.allocate(ask("db", Isolation.CHANNEL, 50))
    two = allocator.allocate(ask("web", Isolation.CHANNEL, 100))
    assert (one.channels, two.channels) == ((0,), (1, 2))
    assert disjoint(allocator.tenants)


def test_a_bandwidth_takes_more_channels_than_the_capacity() -> None:
    tenant = Allocator(FLASHBLOX).allocate(ask("db", Isolation.CHANNEL, 10, write=200_000_000))
    assert len(tenant.channels) == 3
    assert tenant.bandwidth.write >= 200_000_000


def test_single_dies_come_from_divided_channels_first() -> None:
    allocator = Allocator(FLASHBLOX)
    allocator.allocate(ask("a", Isolation.DIE, 10))
    allocator.allocate(ask("b", Isolation.DIE, 10))
    assert len(allocator.free_channels()) == 15
    assert disjoint(allocator.tenants)
    allocator.allocate(ask("c", Isolation.CHANNEL, 10))
    assert disjoint(allocator.tenants)


@pytest.mark.parametrize("isolation", [Isolation.SOFTWARE, Isolation.NONE])
def test_sharers_use_the_same_dies_until_these_are_full(isolation: Isolation) -> None:
    allocator = Allocator(FLASHBLOX)
    tenants = [allocator.allocate(ask(f"t{i}", isolation, 20)) for i in range(4)]
    assert tenants[0].dies == tenants[1].dies
    assert {channel for t in tenants for channel in t.channels} == {0, 1}
    lay_out(Scenario(FLASHBLOX, allocator.tenants, ()))


def test_every_class_together_can_be_laid_out() -> None:
    allocator = Allocator(FLASHBLOX)
    for number, isolation in enumerate(Isolation):
        allocator.allocate(ask(f"t{number}", isolation, 70))
    lay_out(Scenario(FLASHBLOX, allocator.tenants, ()))


def test_growth_keeps_what_is_there() -> None:
    allocator = Allocator(FLASHBLOX)
    old = allocator.allocate(ask("db", Isolation.CHANNEL, 50))
    allocator.allocate(ask("web", Isolation.CHANNEL, 50))
    new = allocator.grow("db", 100 * GIB)
    assert set(old.dies) < set(new.dies)
    assert new.channels == (0, 2)


def test_a_refusal_changes_nothing() -> None:
    allocator = Allocator(FLASHBLOX)
    allocator.allocate(ask("db", Isolation.CHANNEL, 50))
    before = allocator.tenants
    for request in (
        ask("db", Isolation.CHANNEL, 1),
        ask("big", Isolation.CHANNEL, 900),
        ask("x", Isolation.DIE, 0),
    ):
        with pytest.raises(UsageError):
            allocator.allocate(request)
    with pytest.raises(UsageError, match="not enough"):
        allocator.grow("db", 2000 * GIB)
    with pytest.raises(UsageError, match="already"):
        allocator.grow("db", GIB)
    assert allocator.tenants == before


def test_what_is_released_can_be_had_again() -> None:
    allocator = Allocator(FLASHBLOX)
    first = allocator.allocate(ask("db", Isolation.CHANNEL, 800))
    allocator.release("db")
    assert allocator.allocate(ask("web", Isolation.CHANNEL, 800)).dies == first.dies
    with pytest.raises(UsageError, match="no virtual SSD"):
        allocator.release("db")


def test_promised_bandwidth_is_not_promised_twice() -> None:
    allocator = Allocator(FLASHBLOX)
    allocator.allocate(ask("a", Isolation.SOFTWARE, 10, write=60_000_000))
    other = allocator.allocate(ask("b", Isolation.SOFTWARE, 10, write=60_000_000))
    assert 1 in other.channels


def test_the_preferred_channels_are_given_first() -> None:
    allocator = Allocator(FLASHBLOX, prefer=[7, 3, *range(3), *range(4, 7), *range(8, 16)])
    assert allocator.allocate(ask("db", Isolation.CHANNEL, 100)).channels == (3, 7)
