# ruff: noqa: E501 - rows of tables and of cases read best in one line
"""What the flash simulator promises, measured: against the anchor, between classes of isolation, and in speed.

The anchor is MQSim, commit 7ec40e3b, on the validation device; its figures stand beside ours. Where it draws addresses
by lot, ours are drawn by another lot, three times. Prints a page of tables; exits with 1 if a gate does not hold.
"""

from __future__ import annotations

import gzip
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ringfence.flash import workloads
from ringfence.flash.classes import bucket, capacity_of, split
from ringfence.flash.compiled.run import simulate
from ringfence.flash.geometry import Device, Geometry
from ringfence.flash.presets import VD16
from ringfence.flash.scenario import Flow, Lending, Result, Scenario
from ringfence.flash.stats import Figures, Latency, figures, latency
from ringfence.flash.vssd import Bandwidth, Isolation, VirtualSsd, dies_of_channels

ROOT = Path(__file__).parents[1]
TRACE = ROOT / "tests/golden/flash/poisson_rd16k_60kiops.anchor.csv.gz"
ROOMY = VD16._replace(geometry=VD16.geometry._replace(blocks=256))
failed: list[str] = []


def row(*cells: Any) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |")


def head(title: str, *columns: str) -> None:
    print(f"\n## {title}\n")
    row(*columns)
    print("|--" * len(columns) + "|")


def gate(name: str, held: bool) -> str:
    if not held:
        failed.append(name)
    return "holds" if held else "**does not hold**"


def off(found: float, expected: float) -> float:
    return abs(found / expected - 1)


def whole(device: Device, over_provisioning: float = 0.127) -> VirtualSsd:
    geometry = device.geometry
    pages = int(geometry.capacity_bytes * (1 - over_provisioning)) // geometry.page_bytes
    dies = dies_of_channels(geometry, tuple(range(geometry.channels)))
    return VirtualSsd(
        "all", Isolation.CHANNEL, dies, geometry.blocks, pages * geometry.page_bytes, Bandwidth(0, 0)
    )


def uniform(tenant: VirtualSsd, number: int, reads: float, count: int, seed: int, **more: int) -> Flow:
    """Requests of 16 KiB anywhere in the tenant's capacity."""
    rng = np.random.default_rng(seed)
    places = rng.integers(0, tenant.capacity_bytes // 16384, count) * 32
    writes: Any = (rng.random(count) >= reads).astype(np.int64)
    return Flow(number, writes, places, np.full(count, 32), **more)  # type: ignore[arg-type]


def times(result: Result, keep: Any = None) -> Latency:
    took = np.asarray(result.done_ns) - np.asarray(result.arrived_ns)
    return latency((took if keep is None else took[keep]).tolist())


def one_at_a_time() -> None:
    head("Queue depth 1, mean in us (within 0.1 %)", "case", "anchor", "ours", "")
    for name, write, sectors, expected in (
        ("4K read", 0, 8, 88.906),
        ("16K read", 0, 32, 129.514),
        ("16K write", 1, 32, 804.573),
    ):
        tenant = whole(VD16)
        places = np.random.default_rng(1).integers(0, 900_000, 3000) * 32
        flow = Flow(0, [write] * 3000, places, [sectors] * 3000, depth=1)  # type: ignore[arg-type]
        found = times(simulate(Scenario(VD16, (tenant,), (flow,)))).mean_us
        row(name, expected, f"{found:.3f}", gate(name, off(found, expected) <= 0.001))


def poisson() -> None:
    rows = [line.split(",") for line in gzip.decompress(TRACE.read_bytes()).decode().splitlines()[1:]]
    table = np.array(sorted([[int(c[4]), int(c[1] == "W"), int(c[2]), int(c[3]), int(c[6])] for c in rows]))
    arrivals, writes, places, counts, done = table.T
    result = simulate(Scenario(VD16, (whole(VD16),), (Flow(0, writes, places, counts, arrivals),)))  # type: ignore[arg-type]
    theirs, ours = latency((done - arrivals).tolist()), times(result)
    near = float(np.mean(np.abs(np.asarray(result.done_ns) - done) <= 1000))
    same = float(np.mean(np.asarray(result.done_ns) == done))
    head("Poisson trace, 20,000 reads of 16K at 60,000/s", "", "anchor", "ours", "")
    row(
        "mean us (0.5 %)",
        theirs.mean_us,
        ours.mean_us,
        gate("Poisson mean", off(ours.mean_us, theirs.mean_us) <= 0.005),
    )
    row("p99 us (1 %)", theirs.p99_us, ours.p99_us, gate("Poisson p99", off(ours.p99_us, theirs.p99_us) <= 0.01))
    row("within 1 us (95 %)", "", f"{near:.2%}", gate("Poisson requests", near >= 0.95))
    row("to the nanosecond", "", f"{same:.2%}", "")


# Case, share of reads, depth, which to look at, the anchor's mean and p99 for the lot that its results are given for,
# and its p99 over four other lots of 60,000 requests, where these were run: it differs by a seventh between lots
# where it stands on a step of the distribution. The gate is the one lot; the others are there to be seen.
CLOSED = (
    ("read QD4", 1.0, 4, None, 136.7, 243.9, ""),
    ("read QD16", 1.0, 16, None, 168.8, 393.5, ""),
    ("read QD64", 1.0, 64, None, 351.6, 1287.9, "1231.3 to 1298.6"),
    ("read QD256", 1.0, 256, None, 1280.8, 2871.2, "2640.8 to 3031.7"),
    ("write QD16", 0.0, 16, None, 912.0, 1827.0, "1809.0 to 2101.2"),
    ("write QD64", 0.0, 64, None, 1365.3, 4102.0, ""),
    ("70/30 QD64, reads", 0.7, 64, 0, 347.0, 964.1, ""),
    ("70/30 QD64, writes", 0.7, 64, 1, 1263.6, 3796.3, ""),
)


def closed_loops() -> None:
    head("Closed loops, 16K random, 60,000 requests, three lots (mean 3 %, p99 5 %)",
         "case", "anchor mean", "ours", "anchor p99", "in other lots", "ours", "")  # fmt: skip
    tenant = whole(VD16)
    for name, reads, depth, part, mean, p99, others in CLOSED:
        found = []
        for seed in (1, 2, 3):
            flow = uniform(tenant, 0, reads, 60_000, seed, depth=depth)
            keep = None if part is None else np.asarray(flow.writes) == part
            found.append(times(simulate(Scenario(VD16, (tenant,), (flow,))), keep))
        ours = (np.mean([t.mean_us for t in found]), np.mean([t.p99_us for t in found]))
        held = all(off(t.mean_us, mean) <= 0.03 and off(t.p99_us, p99) <= 0.05 for t in found)
        row(name, mean, f"{ours[0]:.1f}", p99, others, f"{ours[1]:.1f}", gate(name, held))


def write_amplification() -> None:
    head("Write amplification: uniform overwriting, written 6 to 12 times over",
         "over-provisioning", "anchor", "ours", "")  # fmt: skip
    device = VD16._replace(geometry=Geometry(2, 2, 1, 1, 512, 64, 16384))
    for share, expected, limit in ((0.127, 4.89, 0.10), (0.28, 2.09, 0.05)):
        tenant = whole(device, share)
        pages = tenant.capacity_bytes // 16384
        written = []
        for fold in (6, 12):
            result = simulate(Scenario(device, (tenant,), (uniform(tenant, 0, 0.0, fold * pages, 3, depth=16),)))
            written.append((sum(result.programs), sum(result.moves)))
        (p0, m0), (p1, m1) = written
        found = 1 + (m1 - m0) / (p1 - p0)
        row(f"{share:.1%}", expected, f"{found:.2f}", gate(f"WA {share}", off(found, expected) <= limit))


def pair(kind: Isolation, device: Device = ROOMY) -> tuple[VirtualSsd, ...]:
    return split(device, kind, ("victim", "aggressor"))


def beside(scenario: Scenario, stop_ns: int) -> tuple[Figures, Result]:
    result = simulate(scenario)
    return figures(scenario, result, stop_ns), result


def victim_and_aggressor() -> None:
    stop = 4_000_000_000
    head("A victim's reads QD4 beside an aggressor's writes QD64, 4 s (us, requests/s)", "class", "victim mean", "p99",
         "IOPS", "aggressor IOPS", "buses", "dies", "anchor")  # fmt: skip
    anchor = {"none": "383.8 / 926.3 / 10,423 / 46,012", "channel": "143.6 / 259.0 / 27,861 / 30,638",
              "alone": "143.6 / 259.0 / 27,862"}  # fmt: skip
    seen: dict[str, Figures] = {}
    for name in ("alone", *(kind.value for kind in Isolation)):
        kind = Isolation.CHANNEL if name == "alone" else Isolation(name)
        tenants = pair(kind)
        flows = (
            uniform(tenants[0], 0, 1.0, 150_000, 5, depth=4, stop_ns=stop),
            uniform(tenants[1], 1, 0.0, 0 if name == "alone" else 260_000, 6, depth=64, stop_ns=stop),
        )
        soft = kind is Isolation.SOFTWARE
        buckets = (bucket(ROOMY, 0.5, tuned=True),) * 2 if soft else ()
        seen[name], _ = beside(Scenario(ROOMY, tenants, flows, buckets, fair=soft), stop)
        victim, noise = seen[name].tenants
        row(name, f"{victim.all.mean_us:.1f}", f"{victim.all.p99_us:.1f}", f"{victim.iops:,.0f}",
            f"{noise.iops:,.0f}", f"{seen[name].channel_use:.0%}", f"{seen[name].die_use:.0%}",
            anchor.get(name, ""))  # fmt: skip
    alone, apart, shared = (seen[name].tenants[0] for name in ("alone", "channel", "none"))
    worst = max(
        off(apart.all.mean_us, alone.all.mean_us),
        off(apart.all.p99_us, alone.all.p99_us),
        off(apart.iops, alone.iops),
    )
    ratio = shared.all.p99_us / apart.all.p99_us
    print(
        f"\nOwn channels differ from alone by at most {worst:.2%} (0.5 %): {gate('channel equals alone', worst <= 0.005)}."
    )
    print(f"p99 shared over own channels: {ratio:.2f} (3): {gate('shared over channel', ratio >= 3)}.")


KINDS = ("ycsb-a", "ycsb-b", "ycsb-c", "ycsb-d", "ycsb-e", "ycsb-f", "tpcc", "tpcb", "tpce", "tatp", "websearch",
         "index", "pagerank", "database")  # fmt: skip


def kinds_of_workload() -> None:
    stop = 1_000_000_000
    head("Fourteen kinds of workload beside random writes QD64, 1 s: p99 of reads in us, software-isolated over own "
         "channels (the paper: up to 3.1)", "victim", "own channels", "software, tuned", "ratio", "software, untuned",
         "ratio", "shared", "ratio", "aggressor IOPS: own, tuned, untuned, shared", "dies: own, tuned, untuned, shared")  # fmt: skip
    capacity = capacity_of(ROOMY, 2)
    for name in KINDS:
        victim = workloads.flow_of(workloads.mix(name), 0, capacity, 130_000, stop_ns=stop, depth=8)
        noise = workloads.flow_of(workloads.mix("randwrite"), 1, capacity, 80_000, stop_ns=stop)
        found = []
        for kind, tuned in ((Isolation.CHANNEL, True), (Isolation.SOFTWARE, True), (Isolation.SOFTWARE, False),
                            (Isolation.NONE, True)):  # fmt: skip
            soft = kind is Isolation.SOFTWARE
            buckets = (bucket(ROOMY, 0.5, tuned=tuned),) * 2 if soft else ()
            found.append(beside(Scenario(ROOMY, pair(kind), (victim, noise), buckets, fair=soft), stop)[0])
        p99 = [one.tenants[0].read.p99_us for one in found]
        row(name, *(f"{p99[0]:.0f}",), *(cell for p in p99[1:] for cell in (f"{p:.0f}", f"{p / p99[0]:.2f}")),
            ", ".join(f"{one.tenants[1].iops:,.0f}" for one in found),
            ", ".join(f"{one.die_use:.0%}" for one in found))  # fmt: skip


def lending() -> None:
    stop = 4_000_000_000
    head("Lending: a lender that reads QD4 and rests, a borrower that writes QD64; 4 s", "lender works", "borrower IOPS: "
         "strict", "lent", "shared", "recovered (80 %)", "lender p99 us: strict", "lent (10 %)", "dies are back within",
         "")  # fmt: skip
    for on_ms, off_ms in ((200, 800), (500, 500), (1000, 1000)):
        found: dict[str, Figures] = {}
        for name, kind in (("strict", Isolation.CHANNEL), ("lent", Isolation.CHANNEL), ("shared", Isolation.NONE)):
            tenants = pair(kind)
            flows = (
                uniform(
                    tenants[0],
                    0,
                    1.0,
                    150_000,
                    5,
                    depth=4,
                    stop_ns=stop,
                    on_ns=on_ms * 10**6,
                    off_ns=off_ms * 10**6,
                ),
                uniform(tenants[1], 1, 0.0, 320_000, 6, depth=64, stop_ns=stop),
            )
            lends = (Lending(0, 1),) if name == "lent" else ()
            found[name], _ = beside(Scenario(ROOMY, tenants, flows, lending=lends), stop)
        strict, lent, shared = (found[name] for name in ("strict", "lent", "shared"))
        stranded = shared.tenants[1].iops - strict.tenants[1].iops
        share = (lent.tenants[1].iops - strict.tenants[1].iops) / stranded
        p99 = (strict.tenants[0].all.p99_us, lent.tenants[0].all.p99_us)
        held = share >= 0.8 and p99[1] <= 1.1 * p99[0]
        row(f"{on_ms} of {on_ms + off_ms} ms", *(f"{one.tenants[1].iops:,.0f}" for one in (strict, lent, shared)),
            f"{share:.0%}", f"{p99[0]:.1f}", f"{p99[1]:.1f}", f"{lent.return_us:.0f} us",
            gate(f"lending {on_ms}/{off_ms}", held))  # fmt: skip


def speed() -> None:
    head("Speed on one core: 16K random reads", "queue depth", "requests/s of wall time", "gate 280,000")
    tenant = whole(VD16)
    for depth in (16, 64, 256):
        flow = uniform(tenant, 0, 1.0, 400_000, 1, depth=depth)
        scenario = Scenario(VD16, (tenant,), (flow,))
        best = 0.0
        for _ in range(3):
            before = time.perf_counter()
            simulate(scenario)
            best = max(best, 400_000 / (time.perf_counter() - before))
        row(depth, f"{best:,.0f}", gate(f"speed QD{depth}", best >= 280_000))


PARTS: tuple[Callable[[], None], ...] = (
    one_at_a_time, poisson, closed_loops, write_amplification, victim_and_aggressor, kinds_of_workload, lending, speed
)  # fmt: skip


def main(wanted: Iterable[str]) -> int:
    print("# Gates of the flash simulator\n\nBy `scripts/flash-gates`.")
    names = set(wanted)
    for part in PARTS:
        if not names or part.__name__ in names:
            part()
    print(f"\n{len(failed)} gates do not hold: {', '.join(failed)}" if failed else "\nAll gates hold.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
