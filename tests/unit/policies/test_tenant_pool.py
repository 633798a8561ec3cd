"""The tenant pool, played against throttles that behave as QEMU's: leaky buckets that a change empties."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import pytest

from ringfence.policies.tenant_pool import BUCKET_S, TenantPool, Use

TICK_S = 0.125
STEP_S = 0.001
Demand = Callable[[float], float]


class Bucket:
    """A member's throttle and its appetite: `demand(t)` requests per second, as many as it may."""

    def __init__(self, limit_per_s: int, demand: Demand) -> None:
        self.limit, self.demand = limit_per_s, demand
        self.level = self.backlog = 0.0
        self.done = 0

    def set(self, limit_per_s: int) -> None:
        """QEMU's block_set_io_throttle empties the bucket; what is not sent changes nothing."""
        if limit_per_s != self.limit:
            self.limit, self.level = limit_per_s, 0.0

    def step(self, now_s: float) -> int:
        self.level = max(0.0, self.level - self.limit * STEP_S)
        self.backlog = min(64.0, self.backlog + self.demand(now_s) * STEP_S)  # no queue is endless
        served = 0
        while self.backlog >= 1 and self.level <= self.limit * BUCKET_S:
            self.level += 1
            self.backlog -= 1
            served += 1
        self.done += served
        return served


def play(quota: int, demands: Mapping[str, tuple[float, Demand]], seconds: float) -> dict[str, list[int]]:
    """Run the loop; gives each member's requests by millisecond."""
    pool = TenantPool(quota, {name: weight for name, (weight, _) in demands.items()})
    shares = pool.begin(0.0)
    buckets = {name: Bucket(shares[name].limit_per_s, demand) for name, (_, demand) in demands.items()}
    served: dict[str, list[int]] = {name: [] for name in demands}
    seen = dict.fromkeys(demands, 0)
    per_tick = round(TICK_S / STEP_S)
    for index in range(round(seconds / STEP_S)):
        for name, bucket in buckets.items():
            served[name].append(bucket.step(index * STEP_S))
        if (index + 1) % per_tick:
            continue
        uses = []
        for name, bucket in buckets.items():
            uses.append(Use(name, bucket.limit, (bucket.done - seen[name]) / TICK_S))
            seen[name] = bucket.done
        for name, share in pool.step(index * STEP_S, uses).items():
            buckets[name].set(share.limit_per_s)
    return served


def worst_second(served: Mapping[str, list[int]]) -> int:
    """The most requests of all members together in any second, whenever it begins."""
    total = [sum(column) for column in zip(*served.values(), strict=True)]
    window = round(1 / STEP_S)
    now = worst = sum(total[:window])
    for index in range(window, len(total)):
        now += total[index] - total[index - window]
        worst = max(worst, now)
    return worst


def rate(requests: list[int], start_s: float, end_s: float) -> float:
    return sum(requests[round(start_s / STEP_S) : round(end_s / STEP_S)]) / (end_s - start_s)


def always(per_s: float) -> Demand:
    return lambda _: per_s


def between(start_s: float, end_s: float, per_s: float) -> Demand:
    return lambda now: per_s if start_s <= now < end_s else 0.0


def on_and_off(period_s: float, per_s: float) -> Demand:
    return lambda now: per_s if int(now / period_s) % 2 else 0.0


SCENES: dict[str, dict[str, tuple[float, Demand]]] = {
    "all hungry": {"a": (1, always(9000)), "b": (2, always(9000)), "c": (1, always(9000))},
    "alone": {"a": (1, always(9000))},
    "one hungry": {"a": (1, always(9000)), "b": (1, always(0)), "c": (2, always(0))},
    "one wakes": {"a": (1, always(9000)), "b": (1, between(5, 15, 9000))},
    "all wake at once": {"a": (1, between(3, 20, 9000)), "b": (1, between(3, 20, 9000))},
    "on and off": {"a": (1, always(9000)), "b": (1, on_and_off(1.7, 9000)), "c": (3, on_and_off(0.7, 9000))},
    "modest and hungry": {"a": (1, always(150)), "b": (1, always(9000))},
}


@cache
def scene_at(scene: str, quota: int) -> dict[str, list[int]]:
    return play(quota, SCENES[scene], 20)


@pytest.mark.parametrize("quota", [500, 1000])
@pytest.mark.parametrize("scene", SCENES, ids=str)
def test_no_second_is_above_the_quota_by_more_than_two_percent(scene: str, quota: int) -> None:
    assert worst_second(scene_at(scene, quota)) <= quota * 1.02


@pytest.mark.parametrize(
    ("scene", "least"),
    [
        ("all hungry", 980),
        ("alone", 980),
        ("one hungry", 970),
        ("modest and hungry", 955),
        ("one wakes", 940),
        ("on and off", 700),
    ],
)
def test_little_is_idle_while_somebody_wants_it(scene: str, least: int) -> None:
    served = scene_at(scene, 1000)
    assert sum(rate(requests, 4, 20) for requests in served.values()) >= least


def test_the_hungry_share_by_weight() -> None:
    served = scene_at("all hungry", 1000)
    rates = {name: rate(requests, 2, 12) for name, requests in served.items()}
    assert rates["b"] / rates["a"] == pytest.approx(2, rel=0.05)
    assert rates["c"] / rates["a"] == pytest.approx(1, rel=0.05)


def test_who_wakes_has_its_share_within_two_seconds_and_it_goes_back_when_it_sleeps() -> None:
    served = scene_at("one wakes", 1000)
    assert rate(served["b"], 7, 15) == pytest.approx(490, rel=0.05)
    assert rate(served["a"], 17, 20) >= 970


def test_who_wants_little_gets_what_it_wants() -> None:
    served = scene_at("modest and hungry", 1000)
    assert rate(served["a"], 2, 12) == pytest.approx(150, rel=0.03)


@pytest.mark.parametrize("used", [0, 10, 300, 1000])
def test_limits_never_add_up_to_more_than_the_quota(used: int) -> None:
    pool = TenantPool(1000, {str(n): n + 1 for n in range(4)})
    pool.begin(-TICK_S)
    uses = [Use(str(n), 250, used * n / 4) for n in range(4)]
    for tick in range(20):
        assert sum(share.limit_per_s for share in pool.step(tick * TICK_S, uses).values()) <= 1000


@pytest.mark.parametrize(("quota", "weights"), [(1, {"a": 1, "b": 1}), (100, {"a": 0, "b": 1})])
def test_a_pool_that_cannot_be(quota: int, weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="pool needs"):
        TenantPool(quota, weights)
