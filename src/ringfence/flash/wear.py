"""When to swap the contents of two channels, and which two, so that an SSD wears evenly though its tenants do not.

Isolation gives each tenant channels of its own, and so its own rate of wear. Levelling between channels cannot be
continuous without mixing the tenants again; it is done coarsely: now and then the contents of a channel that wears
fast and those of one that is little worn change places (Huang et al., "FlashBlox", FAST'17).

Wear is in erases per block, as a mean over a channel; a rate is erases per block per second; the imbalance is the
wear of the most worn channel over the mean.

What is bounded is the imbalance at the end of life. Early in life it is larger by nature: whichever channel is
written first is infinitely more worn than the rest. No schedule bounds tenants that conspire: each time that a
swap moves the worn channel away, another of them, which got it, starts to write.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from ringfence.errors import UsageError

TIE_ERASES = 1.0
"""Channels that differ by less than one erase of each block are equally worn: that is what a swap itself costs."""


class Swap(NamedTuple):
    """Two physical channels whose contents change places: `hot` holds what will wear it out."""

    hot: int
    cold: int


class Schedule(NamedTuple):
    """How often a swap may be made.

    :param swaps: at most, over the whole life.
    :param period_s: one chance in each.
    :param excess: by how much the most worn channel may pass the mean at the end of life: 0.1 is 10 %.
    """

    swaps: int
    period_s: float
    excess: float


def schedule(channels: int, life_s: float, excess: float = 0.1) -> Schedule:
    """The fewest swaps that hold `excess` at the end of life, whoever wears what.

    The worst case: all erases hit one channel at a time, and the hot tenant moves on. When every one of N channels
    was hot M times, and one of them once more, the imbalance is (M+1)/(M+1/N). So M >= (1-(1+d)/N)/d for an excess
    d, and there are N*M swaps.

    :raise UsageError: fewer than two channels, no life, or an excess outside 0 to 1.
    """
    if channels < 2 or life_s <= 0 or not 0 < excess <= 1:
        raise UsageError(
            f"no schedule for {channels} channels, {life_s:g} s of life and an excess of {excess:g}",
            hint="two channels at least, a life of some time, and an excess such as 0.1 for 10 %",
        )
    # N*M, rounded first: 149.00000000000003 swaps are 149.
    swaps = max(1, math.ceil(round((channels - (1 + excess)) / excess, 6)))
    return Schedule(swaps, life_s / swaps, excess)


def imbalance(wear: Sequence[float]) -> float:
    """The wear of the most worn channel over the mean; 1 while nothing is worn."""
    total = sum(wear)
    return max(wear) * len(wear) / total if total > 0 else 1.0


def is_due(wear: Sequence[float], rate: Sequence[float], remaining_s: float, excess: float) -> bool:
    """Whether levelling is needed at all: where do the present rates lead by the end of life?

    Half of the allowed excess is kept for tenants that change their ways.
    """
    at_the_end = [w + r * remaining_s for w, r in zip(wear, rate, strict=True)]
    return imbalance(at_the_end) > 1 + excess / 2


def choose_swap(wear: Sequence[float], rate: Sequence[float], horizon_s: float) -> Swap | None:
    """The swap that lowers the most worn channel's wear one horizon from now; None when none does.

    To swap the channel that *is* most worn with the one whose tenant writes least does not converge: a cold tenant
    is found again and again on a channel that is worn already. So the channel that *will be* most worn gives its
    tenant to the one that *is* least worn. Of channels that are equal within one erase, the one that is written
    most counts as hot, and the one that is written least as cold; those equal in that too are taken in an order
    that tenants cannot foresee by their numbers, or tenants that take turns might fall into step with it.

    :param wear: of each physical channel.
    :param rate: what is expected of the tenant that is on it now.
    :param horizon_s: until the next chance to swap, or the end of life if that is sooner.
    """
    projected = [w + r * horizon_s for w, r in zip(wear, rate, strict=True)]
    most, least = max(projected), min(wear)
    grain = max(rate) * _SAME_RATE or 1.0
    salt = round(sum(wear))

    def warmth(channel: int) -> tuple[int, int]:
        return round(rate[channel] / grain), _mixed(channel, salt)

    hot = max((i for i, p in enumerate(projected) if p > most - TIE_ERASES), key=warmth)
    cold = min((i for i, w in enumerate(wear) if w < least + TIE_ERASES), key=warmth)
    after = TIE_ERASES + max(wear[hot] + rate[cold] * horizon_s, wear[cold] + rate[hot] * horizon_s)
    return Swap(hot, cold) if after < projected[hot] else None


_SAME_RATE = 1e-3  # rates that differ by less than this share of the largest are equal


def _mixed(number: int, salt: int) -> int:
    """A number without visible order (the finaliser of MurmurHash3, in 32 bits)."""
    value = (number * 0x9E3779B1 + salt) & 0xFFFFFFFF
    value = (value ^ value >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    value = (value ^ value >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return value ^ value >> 16
