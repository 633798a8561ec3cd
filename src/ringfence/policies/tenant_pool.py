"""One quota over several QEMU processes: shared by weight, lent to whoever uses it.

QEMU's throttles know nothing of each other, so the quota is kept by moving each member's own limit: who uses less
than its share lends the rest; who is at its limit wants more.

A throttle is a leaky bucket that holds a tenth of a second's worth of its rate, and setting a limit, any limit,
empties it (QEMU util/throttle.c, `throttle_config`; measured: a member set to 98 requests per second did 30 in the
0.2 s that followed). So whoever is set is given a tenth of a second's worth on top of its rate. That credit cannot
be avoided, but it can be counted on: a member that is to have R per second is limited to R / 1.1, and set anew as
soon as the last second has room for it, which is about once in a second. Then it does R in any second, and nearly
R on the average: nothing is above, and next to nothing idle.

Moving a limit down takes effect at once, but what was done before still counts within the same second. So what one
gives up another is given only as far as both fit into one second.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

BUCKET_S = 0.1
"""What a throttle without a burst holds, in seconds of its rate."""

WINDOW_S = 1.0
"""In any time so long the quota holds."""

HEADROOM = 0.1
"""By this part of its use a lender may grow at once; all of them together by `_SPARE` of the quota."""

_SPARE = 0.03
_RESERVE = 0.01
"""Part of the quota that those who want no more keep together, so that they can show when they do."""

_WORTH_IT = 0.02
"""Part of the quota that the limit of somebody idle must be off by before it is moved."""

_NOISE, _TICK_NOISE = 0.01, 0.1
"""By these parts what is counted in a second, and in a tick, may be off."""

_AT_LIMIT, _ALL_OF_IT = 0.9, 0.97
"""Parts of a limit: from here on it holds its member back, or its member uses all of it."""


class Use(NamedTuple):
    """What a member did in the last tick: `limit_per_s` is what it was allowed, `used_per_s` what it did.

    :param grain: what one request counts, such as its bytes: nothing is finer.
    """

    name: str
    limit_per_s: int
    used_per_s: float
    grain: float = 1.0


class Share(NamedTuple):
    """What a member gets, and why."""

    limit_per_s: int
    reason: str


class _Tick(NamedTuple):
    """What a member did in a tick.

    :param passed: as much of it as QEMU can have let pass. :param surged: some was credit that was saved up.
    """

    begin_s: float
    end_s: float
    done: float
    passed: float
    surged: bool

    def since(self, start_s: float) -> float:
        """What of it counts in a second that begins then, which may be in the middle of it."""
        return self.passed if self.surged else self.passed * self.part(start_s)

    def part(self, start_s: float) -> float:
        """How much of it is later than that."""
        return min(1.0, max(0.0, self.end_s - start_s) / (self.end_s - self.begin_s))

    def leaves_s(self) -> float:
        """When a second that begins now no longer holds all of it: credit that is given goes at its beginning."""
        return self.end_s if self.surged else self.begin_s


class _Member:
    """What is remembered of one: what it did in the last second, by tick, and the limits that it had."""

    def __init__(self) -> None:
        self.counts: deque[_Tick] = deque()
        self.limits: deque[tuple[float, int]] = deque()  # since when, per second
        self.at_limit = self.wants = False
        self.set_s = float("-inf")

    def note(self, now_s: float, tick_s: float, use: Use) -> None:
        """Take in a tick."""
        count, full = use.used_per_s * tick_s, use.limit_per_s * (1 + BUCKET_S) * _ALL_OF_IT
        most = use.limit_per_s * tick_s
        # Credit that is given goes at once, at the beginning of a tick; what was saved up, at any time in it.
        given = self.set_s > now_s - 1.5 * tick_s
        surged = not given and count > (1 + _TICK_NOISE) * most + use.grain
        passed = count if given or surged else min(count, most)  # the rest is our clock's
        self.counts.append(_Tick(now_s - tick_s, now_s, count, passed, surged))
        while self.counts[0].end_s <= now_s - WINDOW_S:
            self.counts.popleft()
        self._limit(now_s - tick_s, use.limit_per_s)
        self.at_limit = count > 0 and count + use.grain >= _AT_LIMIT * most
        surges = count - use.grain >= full * tick_s or self.used_per_s() + use.grain >= full
        self.wants = self.at_limit and (self.wants or surges)

    def set(self, now_s: float, limit_per_s: int) -> None:
        """Its limit is set to this now."""
        if limit_per_s != self.limits[-1][1]:
            self.set_s = now_s
        self._limit(now_s, limit_per_s)

    def _limit(self, now_s: float, limit_per_s: int) -> None:
        if not self.limits or self.limits[-1][1] != limit_per_s:
            self.limits.append((now_s, limit_per_s))
        while len(self.limits) > 1 and self.limits[1][0] <= now_s - WINDOW_S:
            self.limits.popleft()

    def used_per_s(self) -> float:
        """Over the last second."""
        since_s = self.counts[-1].end_s - WINDOW_S
        return sum(tick.done * tick.part(since_s) for tick in self.counts) / WINDOW_S

    def most(self, now_s: float, limit_per_s: float) -> float:
        """The most it can do in any second that is not over yet."""
        if all(held <= limit_per_s + 1 for _, held in self.limits):
            return limit_per_s * (1 + BUCKET_S)
        return self.when_set(now_s, limit_per_s)

    def when_set(self, now_s: float, limit_per_s: float) -> float:
        """As `most`, when this limit is set now.

        Each second from now on holds a part of what was done, and what may be done in the rest of it.
        """
        done, peak = 0.0, limit_per_s * (1 + BUCKET_S)
        for tick in reversed(self.counts):
            done += tick.since(now_s - WINDOW_S)
            left_s = min(WINDOW_S, max(0.0, tick.leaves_s() + WINDOW_S - now_s))
            peak = max(peak, done + limit_per_s * (BUCKET_S + left_s))
        return peak

    def may_be_set(self, now_s: float, limit_per_s: int, grain: float) -> bool:
        """Whether it then does no more in any second than the higher of its limits, old and new, allows."""
        allowed = max(limit_per_s, self.limits[-1][1]) * (1 + BUCKET_S)
        return self.when_set(now_s, limit_per_s) <= allowed * (1 + _NOISE) + grain


class TenantPool:
    """The loop's state between ticks.

    :param weights: members by name; what they get of the quota is in proportion when all want more.
    :raise ValueError: the quota is too small to give every member one, or a weight is not positive.
    """

    def __init__(self, quota_per_s: int, weights: Mapping[str, float]) -> None:
        self._quota, self._weights = _checked(quota_per_s, weights)
        self._members = {name: _Member() for name in weights}
        self._ticked_s = 0.0

    def drop(self, name: str, quota_per_s: int) -> None:
        """Go on without a member, with this quota for the others.

        :raise ValueError: it is too small to give every one of them one.
        """
        left = {other: weight for other, weight in self._weights.items() if other != name}
        self._quota, self._weights = _checked(quota_per_s, left)
        del self._members[name]

    def begin(self, now_s: float) -> dict[str, Share]:
        """The first limits, by weight: nothing is known of the members' use."""
        self._ticked_s = now_s
        return {name: Share(_limit(part), "its weight") for name, part in self._by_weight().items()}

    def split(self) -> dict[str, Share]:
        """The limits that can be left alone: by weight, without what a limit that is set anew is worth."""
        return {name: Share(max(1, int(part)), "its weight") for name, part in self._by_weight().items()}

    def step(self, now_s: float, uses: Sequence[Use]) -> dict[str, Share]:
        """The members' next limits; one that is as it was need not be set.

        Weighted max-min fair: nobody gets more than it wants while another wants more.
        """
        tick_s = now_s - self._ticked_s
        self._ticked_s = now_s
        for use in uses:
            self._members[use.name].note(now_s, tick_s, use)
        wanting = frozenset(use.name for use in uses if self._members[use.name].wants)
        wanted = {name: _limit(part) for name, part in self._parts(uses, wanting).items()}
        limits = {use.name: use.limit_per_s for use in uses}
        for use in sorted(uses, key=lambda use: use.limit_per_s - wanted[use.name], reverse=True):
            limits[use.name] = self._next(use, wanted[use.name], limits, now_s)
            self._members[use.name].set(now_s, limits[use.name])
        return {name: Share(limit, self._reason(name, wanting)) for name, limit in limits.items()}

    def _by_weight(self) -> dict[str, float]:
        return _fill(self._quota, self._weights, {})

    def _parts(self, uses: Iterable[Use], wanting: frozenset[str]) -> dict[str, float]:
        """What each may do in a second. What nobody wants is kept ready by weight."""
        lenders = [use.name for use in uses if use.name not in wanting]
        spare, kept = _SPARE * self._quota / max(1, len(lenders)), _RESERVE * self._quota / max(1, len(lenders))
        needs = {}
        for name in lenders:
            used = self._members[name].used_per_s()
            needs[name] = used + min(HEADROOM * used, spare) + kept
        parts = _fill(self._quota, self._weights, needs)
        left, weight = self._quota - sum(parts.values()), sum(self._weights.values())
        return {name: part + max(0.0, left) * self._weights[name] / weight for name, part in parts.items()}

    def _next(self, use: Use, wanted: int, limits: Mapping[str, int], now_s: float) -> int:
        """Lowered, raised as far as there is room, or set anew, when a second has room for what that gives.

        A limit that is so already is not sent, so one that is set anew goes down by one, and up again.
        """
        now, member = use.limit_per_s, self._members[use.name]
        worth_it = member.wants or abs(wanted - now) > _WORTH_IT * self._quota
        limit = now
        if worth_it and wanted < now:
            limit = wanted
        elif worth_it and wanted > now:
            others = (self._members[name].most(now_s, held) for name, held in limits.items() if name != use.name)
            room = self._quota - sum(others)
            limit = min(wanted, int(room / (1 + BUCKET_S)))
            limit -= int(max(0.0, member.when_set(now_s, limit) - room * (1 + _NOISE)) / (1 + BUCKET_S))
            limit = max(limit, now)
        if limit == now and member.at_limit and now_s >= member.set_s + WINDOW_S:
            limit = now + 1 if now < wanted else max(1, now - 1)
        return limit if member.may_be_set(now_s, limit, use.grain) else now

    def _reason(self, name: str, wanting: frozenset[str]) -> str:
        if name not in wanting:
            return "uses less than its share, lends the rest"
        return "its weight: all want more" if len(wanting) == len(self._weights) else "gets what others lend"


def _checked(quota_per_s: int, weights: Mapping[str, float]) -> tuple[int, dict[str, float]]:
    if quota_per_s < len(weights) or any(weight <= 0 for weight in weights.values()):
        raise ValueError("a pool needs positive weights, and a quota of at least one for each member")
    return quota_per_s, dict(weights)


def _limit(part: float) -> int:
    """The limit of who may do `part` in a second, its credit in it."""
    return max(1, int(part / (1 + BUCKET_S)))


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
