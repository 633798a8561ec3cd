"""One quota over several QEMU processes: shared by weight, lent to whoever uses it.

QEMU's throttles know nothing of each other, so the quota is kept by moving each member's own limit: who uses less
than its share lends the rest; who is at its limit wants more.

A throttle is a leaky bucket that holds a tenth of a second's worth of its rate, and setting a limit empties it
(QEMU util/throttle.c; measured: a member set to 98 requests per second did 30 in the 0.2 s that followed). So
every change, up or down, hands out a tenth of a second on top of the rate. That is why limits are moved only when
it is worth it, why only one member that wants more is moved in any second, and why room for its credit is always
left: the limits, and a tenth of the largest of them, stay within what the quota allows. What that leaves idle is
1 % where four or more members want more, 5 % where two do, and 8 % where a single one does: less cannot be had
without passing the quota in the second after a change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

BUCKET_S = 0.1
"""What a throttle without a burst holds, in seconds of its rate."""

OVER = 0.02
"""By how much all together may pass the quota in any one second."""

WANTING = 0.9
"""Who uses this much of its limit is held back by it: requests come in whole ones, and a tick holds few."""

HEADROOM = 1.2
"""A member that is not at its limit may grow by this factor in one tick before it counts as wanting."""

RESERVE = 0.01
"""Part of the quota that those who want no more keep together, so that they can show when they do."""

WORTH_IT = 0.02
"""Part of the quota that a limit must be off by before it is moved."""

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
        self._moved_s = float("-inf")

    def split(self) -> dict[str, Share]:
        """The shares by weight alone: before anything is known of the members' use, and when the loop ends."""
        shares = self._fitting(_fill(self._quota, self._weights, {}), frozenset(self._weights))
        return {name: Share(max(1, int(share)), "its weight") for name, share in shares.items()}

    def step(self, now_s: float, uses: Sequence[Use]) -> dict[str, Share]:
        """The members' next limits. Most of them are what they were.

        Weighted max-min fair: nobody gets more than it wants while another wants more.
        """
        wanting = frozenset(use.name for use in uses if use.wants_more)
        kept = RESERVE * self._quota / max(1, len(uses) - len(wanting))
        needs = {use.name: use.used_per_s * HEADROOM + kept for use in uses if use.name not in wanting}
        targets = self._fitting(_fill(self._quota, self._weights, needs), wanting)
        limits = {use.name: float(use.limit_per_s) for use in uses}
        for use in uses:
            if use.name not in wanting and targets[use.name] < use.limit_per_s and self._off(use, targets):
                limits[use.name] = targets[use.name]
        moved = self._move_one(now_s, [use for use in uses if use.name in wanting], targets, limits)
        return {name: self._share(name, limit, moved, wanting) for name, limit in limits.items()}

    def _fitting(self, targets: Mapping[str, float], wanting: frozenset[str]) -> dict[str, float]:
        """Targets of those who want more, scaled so that the credit of the largest still fits in a second."""
        hungry = [targets[name] for name in wanting]
        if not hungry:
            return dict(targets)
        room = self._quota * (1 + OVER) - sum(share for name, share in targets.items() if name not in wanting)
        part = min(1.0, room / (sum(hungry) + BUCKET_S * max(hungry)))
        return {name: share * part if name in wanting else share for name, share in targets.items()}

    def _off(self, use: Use, targets: Mapping[str, float]) -> bool:
        return abs(targets[use.name] - use.limit_per_s) > WORTH_IT * self._quota

    def _move_one(
        self, now_s: float, hungry: Sequence[Use], targets: Mapping[str, float], limits: dict[str, float]
    ) -> str:
        """Move the one that is furthest off, when a second has passed since the last; the largest first down.

        It is raised only by what nobody else holds: whoever is to give it up does so first.
        """
        if now_s < self._moved_s + _WINDOW_S:
            return ""
        off = [use for use in hungry if self._off(use, targets)]
        for use in sorted(off, key=lambda use: targets[use.name] - use.limit_per_s):
            others = sum(limit for name, limit in limits.items() if name != use.name)
            room = (self._quota * (1 + OVER) - others) / (1 + BUCKET_S)
            limit = min(targets[use.name], room)
            if limit < use.limit_per_s or limit > use.limit_per_s + WORTH_IT * self._quota:
                limits[use.name] = limit
                self._moved_s = now_s
                return use.name
        return ""

    def _share(self, name: str, limit: float, moved: str, wanting: frozenset[str]) -> Share:
        if name not in wanting:
            return Share(max(1, int(limit)), "uses less than its share, lends the rest")
        if len(wanting) == len(self._weights):
            return Share(max(1, int(limit)), "its weight: all want more")
        return Share(max(1, int(limit)), "wants more" + (", gets what others lend" if name == moved else ""))


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
