"""PURE: which ways of a cache a group gets.

A way is a bit of a mask; Intel's masks are runs of ones, AMD's need not be. A group that shares its ways may
overlap anybody but an exclusive group; an exclusive one may overlap nobody, and not the ways that devices
write to. Masks of others do not move: a group is put where it disturbs them least, and where its own data
lies already. Source: the kernel's Documentation/arch/x86/resctrl.rst.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple


class Cache(NamedTuple):
    """One cache as resctrl describes it.

    :param length: its ways.
    :param min_ways: the fewest that a mask may have.
    :param hardware: ways that devices write to as well (`shareable_bits`).
    :param sparse: whether a mask may have gaps.
    """

    length: int
    min_ways: int = 1
    hardware: int = 0
    sparse: bool = False

    @property
    def full(self) -> int:
        """Every way."""
        return (1 << self.length) - 1


def is_run(mask: int) -> bool:
    """Whether the ones of a mask stand side by side; none at all do not."""
    return mask > 0 and not (mask + (mask & -mask)) & mask


def ways(mask: int) -> int:
    """How many ways a mask has."""
    return mask.bit_count()


def longest_run(mask: int, near: int = 0) -> int:
    """The longest run in a mask; of equals the one that has most of `near`, then the highest."""
    runs: list[int] = []
    left = mask
    while left:
        low = left & -left
        run = left & ~(left + low)
        runs.append(run)
        left &= ~run
    return max(runs, key=lambda run: (ways(run), ways(run & near), run), default=0)


def rest(cache: Cache, mask: int, taken: int) -> int:
    """What a group that had `mask` keeps when `taken` is another's; with gaps only where the cache allows them."""
    left = mask & ~taken
    return left if cache.sparse else longest_run(left)


def share(cache: Cache, width: int, *, now: int, exclusive_of_others: int, others: Iterable[int]) -> int:
    """A mask for a group that shares its ways.

    :param now: its mask so far: what lies there is kept as far as possible.
    :param others: masks of the groups beside it: ways that fewer of them use are better.
    :return: 0 when there is no room.
    """
    crowd = _crowd(cache, others)

    def cost(mask: int) -> tuple[int, int, int]:
        # High ways first, so that low ones are left to who wants some for itself.
        return (-ways(mask & now), _sum(mask & ~now, crowd) + ways(mask & cache.hardware), -mask)

    return _best(cache, width, now, exclusive_of_others, cost, crowd)


def exclude(cache: Cache, width: int, *, now: int, others: Iterable[int], default: int) -> int:
    """A mask for a group that shares with nobody.

    :param others: masks that it must not touch.
    :param default: the mask of everybody else, which will lose what the group takes and must keep some.
    :return: 0 when there is no room.
    """
    blocked = cache.hardware
    for mask in others:
        blocked |= mask
    least = max(cache.min_ways, 1)

    def cost(mask: int) -> tuple[int, int, int]:
        kept = ways(rest(cache, default, mask))
        return (-ways(mask & now), -kept, mask)

    def leaves_some(mask: int) -> bool:
        return ways(rest(cache, default, mask)) >= least

    windows = [mask for mask in _windows(cache, width, now, blocked) if leaves_some(mask)]
    if windows:
        return min(windows, key=cost)
    if not cache.sparse:
        return 0
    scattered = _scattered(cache, width, blocked, now, [0] * cache.length)
    return scattered if scattered and leaves_some(scattered) else 0


def _best(
    cache: Cache,
    width: int,
    now: int,
    blocked: int,
    cost: Callable[[int], tuple[int, int, int]],
    crowd: Sequence[int],
) -> int:
    if ways(now) == width and not now & blocked and (cache.sparse or is_run(now)):
        return now
    windows = list(_windows(cache, width, now, blocked))
    if windows:
        return min(windows, key=cost)
    return _scattered(cache, width, blocked, now, crowd) if cache.sparse else 0


def _windows(cache: Cache, width: int, now: int, blocked: int) -> Iterable[int]:
    if ways(now) == width and not now & blocked and (cache.sparse or is_run(now)):
        yield now
    for start in range(cache.length - width + 1):
        mask = ((1 << width) - 1) << start
        if not mask & blocked:
            yield mask


def _scattered(cache: Cache, width: int, blocked: int, now: int, crowd: Sequence[int]) -> int:
    """Ways with gaps between them: those it has, then those that fewest others use."""
    free = [way for way in range(cache.length) if not blocked >> way & 1]
    if len(free) < width:
        return 0
    free.sort(key=lambda way: (not now >> way & 1, crowd[way], -way))
    return sum(1 << way for way in free[:width])


def _crowd(cache: Cache, others: Iterable[int]) -> list[int]:
    """How many groups use each way."""
    masks = list(others)
    return [sum(mask >> way & 1 for mask in masks) for way in range(cache.length)]


def _sum(mask: int, crowd: Sequence[int]) -> int:
    return sum(count for way, count in enumerate(crowd) if mask >> way & 1)
