"""Small devices, tenants and requests drawn by lot, for holding the two simulators against each other."""

from __future__ import annotations

import random

from ringfence.flash.geometry import Device, Die, Geometry, HostLink, Timing
from ringfence.flash.scenario import Bucket, Collector, Flow, Lending, Scenario
from ringfence.flash.vssd import Bandwidth, Isolation, VirtualSsd


def device(rng: random.Random) -> Device:
    geometry = Geometry(
        rng.choice([2, 4]), rng.choice([1, 2]), rng.choice([1, 2]), rng.choice([1, 2]), 24, 8, 16384
    )
    kinds = rng.choice([1, 2, 3])
    timing = Timing(
        tuple(rng.randrange(20_000, 90_000) for _ in range(kinds)),
        tuple(rng.randrange(200_000, 900_000) for _ in range(kinds)),
        3_000_000,
        rng.choice([2, 6]),
    )
    return Device(
        "drawn", geometry, timing, "by lot", HostLink(), gc_free_blocks=rng.choice([4, 6]), gc_parallel=4
    )


def tenants(rng: random.Random, on: Device) -> tuple[VirtualSsd, ...]:
    """Two tenants: with halves of the channels, or together on all of them."""
    geometry = on.geometry
    dies = [geometry.die_at(i) for i in range(geometry.die_count)]
    isolation = rng.choice(list(Isolation))

    def make(name: str, own: list[Die], blocks: int, share: float) -> VirtualSsd:
        pages = int(len(own) * geometry.planes * geometry.blocks * geometry.pages * share)
        return VirtualSsd(name, isolation, tuple(own), blocks, pages * 16384, Bandwidth(0, 0), rng.choice([1, 3]))

    if isolation in (Isolation.CHANNEL, Isolation.DIE):
        half = len(dies) // 2
        return make("a", dies[:half], 24, 0.4), make("b", dies[half:], 24, 0.5)
    if isolation is Isolation.SOFTWARE:
        return make("a", dies, 12, 0.15), make("b", dies, 12, 0.18)
    return make("a", dies, 0, 0.2), make("b", dies, 0, 0.2)


def flow(rng: random.Random, tenant: int, capacity_bytes: int, count: int) -> Flow:
    sectors = capacity_bytes // 512
    writes = [int(rng.random() < rng.choice([0.0, 0.5, 1.0])) for _ in range(count)]
    counts = [rng.choice([8, 32, 32, 96, 3]) for _ in range(count)]
    starts = [rng.randrange(0, sectors - size) for size in counts]
    if rng.random() < 0.5:
        arrivals = sorted(rng.randrange(0, count * 40_000) for _ in range(count))
        return Flow(tenant, writes, starts, counts, arrivals)
    on = rng.choice([0, 2_000_000])
    return Flow(tenant, writes, starts, counts, depth=rng.choice([1, 8, 24]), on_ns=on, off_ns=3_000_000)


def scenario(seed: int, count: int = 120) -> Scenario:
    rng = random.Random(seed)
    on = device(rng)
    both = tenants(rng, on)
    lends = both[0].isolation in (Isolation.CHANNEL, Isolation.DIE) and rng.random() < 0.6
    bucket = Bucket(rng.randrange(1, 200), rng.randrange(1, 900), rng.randrange(100, 2000), rng.randrange(0, 5000))
    return Scenario(
        on,
        both,
        tuple(flow(rng, number, tenant.capacity_bytes, count) for number, tenant in enumerate(both)),
        buckets=rng.choice([(), (None, bucket), (bucket, bucket)]),
        lending=(Lending(0, 1, rng.choice([0, 50_000]), rng.choice([2, 8])),) if lends else (),
        collector=rng.choice(list(Collector)),
        fair=rng.random() < 0.5,
        urgent=rng.random() < 0.5,
        fetch_limit=rng.choice([4, 512]),
    )
