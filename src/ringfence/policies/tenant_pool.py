"""One quota over several QEMU processes: shared by weight, lent to whoever uses it.

QEMU's throttles know nothing of each other, so the quota is kept by moving each member's own limit a few times a
second such that the limits never add up to more than the quota. Who uses less than its share lends the rest; who
is at its limit wants more.

A throttle is a leaky bucket that holds a tenth of a second's worth of its rate (QEMU util/throttle.c,
docs/throttle.txt). A raised limit, and a member that wakes, bring that much credit on top of the rate. The loop
keeps an account of it: what was granted is held back from everybody's limits for the second that follows, so that
in no second the sum of what all get passes the quota.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

BUCKET_S = 0.1
"""What a throttle without a burst holds, in seconds of its rate."""

WANTING = 0.9
"""Who uses this much of its limit is held back by it: requests come in whole ones, and a tick holds few."""

HEADROOM = 1.15
"""A member that is not at its limit may grow by this factor in one tick before it counts as wanting."""

RESERVE = 0.02
"""Part of the quota that those who want no more keep together, so that they can show when they do."""

_WINDOW_S = 1.0


class Use(NamedTuple):
    """What a member did in the last tick: `limit_per_s` is what it was allowed, `used_per_s` what it did."""

    name: str
    limit_per_s: int
    used_per_s: float

    @property
    def wants_more(self) -> bool:
        """Whether its limit held it back."""
        return self.used_per_s >= WANTING * self.limit_per_s


class Share(NamedTuple):
    """What a member gets, and why."""

    limit_per_s: int
    reason: str


class _Grant(NamedTuple):
    until_s: float
    credit: float


class TenantPool:
    """The loop's state between ticks.

    :param weights: members by name; what they get of the quota is in proportion when all want more.
    :raise ValueError: the quota is too small to give every member one, or a weight is not positive.
    """

    def __init__(self, quota_per_s: int, weights: Mapping[str, float]) -> None:
        if quota_per_s < len(weights) or any(weight <= 0 for weight in weights.values()):
            raise ValueError("a pool needs positive weights, and a quota of at least one for each member")
        self._quota = quota_per_s
        self._weights = dict(weights)
        self._grants: list[_Grant] = []
        self._wanted: frozenset[str] = frozenset()

    def split(self) -> dict[str, Share]:
        """The shares by weight alone: before anything is known of the members' use, and when the loop ends."""
        total = sum(self._weights.values())
        return {
            name: Share(max(1, int(self._quota * weight / total)), "its weight")
            for name, weight in self._weights.items()
        }

    def step(self, now_s: float, uses: Sequence[Use]) -> dict[str, Share]:
        """The members' next limits; they add up to the quota at most.

        Weighted max-min fair: nobody gets more than it wants while another wants more.
        """
        wanting = frozenset(use.name for use in uses if use.wants_more)
        kept = RESERVE * self._quota / max(1, len(uses) - len(wanting))
        needs = {use.name: use.used_per_s * HEADROOM + kept for use in uses if use.name not in wanting}
        targets = _fill(self._quota, self._weights, needs)
        # Somebody who did not want more in the last tick has its bucket to itself: all of its limit brings credit.
        before = sum(use.limit_per_s for use in uses if use.name in wanting & self._wanted)
        ceiling = sum(targets[name] for name in wanting)
        scale = self._less_credit(now_s, ceiling, before) / ceiling if ceiling else 1.0
        targets.update((name, targets[name] * scale) for name in wanting)
        limits = _raise_by_what_is_free(self._quota, uses, targets)
        given = sum(limits[name] for name in wanting)
        if given > before:
            self._grants.append(_Grant(now_s + _WINDOW_S, BUCKET_S * (given - before)))
        self._wanted = wanting
        return {use.name: self._share(use.name, limits[use.name], wanting) for use in uses}

    def _less_credit(self, now_s: float, ceiling: float, before: float) -> float:
        """What those who want more may get together, less the credit of the last second and that of this raise."""
        self._grants = [grant for grant in self._grants if grant.until_s > now_s]
        left = max(0.0, ceiling - sum(grant.credit for grant in self._grants))
        return left if left <= before else (left + BUCKET_S * before) / (1 + BUCKET_S)

    def _share(self, name: str, limit: float, wanting: Collection[str]) -> Share:
        if name not in wanting:
            return Share(max(1, int(limit)), "uses less than its share, lends the rest")
        lent = len(wanting) < len(self._weights)
        return Share(max(1, int(limit)), "wants more, and gets what others lend" if lent else "its weight")


def _raise_by_what_is_free(quota: float, uses: Sequence[Use], targets: Mapping[str, float]) -> dict[str, float]:
    """Lower at once, raise only by what nobody had in the last tick.

    Whose limit is lowered has to work its bucket off first, which takes a moment; whose limit is raised takes its
    credit in that very moment.
    """
    free = max(0.0, quota - sum(use.limit_per_s for use in uses))
    rising = sum(max(0.0, targets[use.name] - use.limit_per_s) for use in uses)
    part = min(1.0, free / rising) if rising else 1.0
    return {
        use.name: min(targets[use.name], use.limit_per_s + part * max(0.0, targets[use.name] - use.limit_per_s))
        for use in uses
    }


def _fill(quota: float, weights: Mapping[str, float], needs: Mapping[str, float]) -> dict[str, float]:
    """Water-filling: who needs less than its part of what is left gets its need, the others share by weight."""
    left, open_names = quota, set(weights)
    shares: dict[str, float] = {}
    while open_names:
        total = sum(weights[name] for name in open_names)
        small = {n for n in open_names if n in needs and needs[n] <= left * weights[n] / total}
        if not small:
            shares.update((name, left * weights[name] / total) for name in open_names)
            break
        shares.update((name, needs[name]) for name in small)
        left -= sum(needs[name] for name in small)
        open_names -= small
    return shares
