"""One quota over the disks of two VMs: how much passes in the worst second, and how much of it is idle.

Two real guests read as fast as they may: first one under a plain limit of the quota's size, for comparison, then
both in the pool, then one alone. QEMU's own counters are read twenty times a second beside the pool; a second is
any window of that length. Writes benchmarks/results/tenant_pool.md, with --quick only prints.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import os
import time
from pathlib import Path
from typing import NamedTuple

import ringfence
from ringfence.core.model import Address
from ringfence.engine.tenant_pool import Member, PoolLoop
from ringfence.lab import workloads
from ringfence.lab.guest import Guest, GuestSpec, up
from ringfence.lab.workloads import FioJob
from ringfence.qemu.session import Session
from ringfence.units import KIB, MIB, format_value

RESULTS = Path(__file__).parent / "results" / "tenant_pool.md"
SAMPLE_S = 0.05
SETTLING_S = 3.0
KINDS = {"iops": (300, FioJob("randread", 4 * KIB, 32)), "bps": (20 * MIB, FioJob("randread", 64 * KIB, 32))}
"""At random: of requests that follow each other the guest makes larger ones, and no limit is finer than those."""
COUNTERS = {"iops": ("rd_operations", "wr_operations"), "bps": ("rd_bytes", "wr_bytes")}


class Row(NamedTuple):
    kind: str
    quota: int
    who: str
    mean: float
    worst: float
    idle_share: float
    samples: int


async def count(session: Session, kind: str) -> tuple[float, int]:
    blocks = await session.execute("query-blockstats")
    stats = next(b["stats"] for b in blocks if "disk0" in b.get("qdev", ""))
    return time.monotonic(), sum(stats[name] for name in COUNTERS[kind])


async def watch(sessions: list[Session], kind: str, seconds: float) -> list[tuple[float, int]]:
    """Time, and what all have done together, again and again."""
    seen = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = await asyncio.gather(*(count(session, kind) for session in sessions))
        seen.append((sum(at for at, _ in found) / len(found), sum(done for _, done in found)))
        await asyncio.sleep(SAMPLE_S)
    return seen


def worst_second(seen: list[tuple[float, int]]) -> float:
    """The highest rate over a window of a second or a little more."""
    worst, last = 0.0, 0
    for at, done in seen:
        while last < len(seen) and seen[last][0] < at + 1:
            last += 1
        if last == len(seen):
            break
        worst = max(worst, (seen[last][1] - done) / (seen[last][0] - at))
    return worst


async def row(kind: str, who: str, busy: list[Guest], sessions: list[Session], seconds: float) -> Row:
    """Let some guests read as fast as they may, and watch both."""
    quota, job = KINDS[kind]
    wanted = job._replace(runtime_s=seconds + SETTLING_S, ramp_s=0)
    load = asyncio.gather(*(workloads.fio(guest, wanted) for guest in busy))
    await asyncio.sleep(SETTLING_S + 1)
    seen = await watch(sessions, kind, seconds - 2)
    await load
    mean = (seen[-1][1] - seen[0][1]) / (seen[-1][0] - seen[0][0])
    return Row(kind, quota, who, mean, worst_second(seen), 1 - mean / quota, len(seen))


async def measure(kind: str, guests: list[Guest], seconds: float) -> list[Row]:
    quota, rows = KINDS[kind][0], []
    async with ringfence.connect() as host:
        vms = [await host.vm(guest.name) for guest in guests]
        sessions = [await Session.open(Address(str(guest.files.qmp_tools.path))) for guest in guests]
        (limited,) = await vms[0].set({f"disk.vda.{kind}": quota})
        assert limited.verdict == "applied", limited
        rows.append(await row(kind, "one, by a plain limit", guests[:1], sessions, seconds))
        await vms[0].set({f"disk.vda.{kind}": None})
        pool = PoolLoop([Member(vm, "vda", weight) for vm, weight in zip(vms, (1, 2), strict=True)], kind, quota)
        await pool.start()
        running = asyncio.ensure_future(pool.run(lambda _: None))
        rows.append(await row(kind, "both", guests, sessions, seconds))
        rows.append(await row(kind, "one alone", guests[:1], sessions, seconds))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        for vm, session in zip(vms, sessions, strict=True):
            await vm.set({f"disk.vda.{kind}": None})
            await session.close()
    return rows


def table(rows: list[Row]) -> str:
    lines = [
        "| quota | who wants it | mean | worst second | above the quota | idle |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        unit = "iops" if row.kind == "iops" else "bytes/s"
        shown = [format_value(unit, round(value)) for value in (row.quota, row.mean, row.worst)]
        above = 100 * (row.worst / row.quota - 1)
        cells = (shown[0], row.who, shown[1], shown[2], f"{above:+.1f} %", f"{100 * row.idle_share:.1f} %")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


async def main(seconds: float, quick: bool) -> None:
    load = os.getloadavg()[0]
    guests = []
    try:
        for number in range(2):
            spec = GuestSpec(f"pool-{os.getpid()}-{number}", memory_bytes=256 * MIB, disks_bytes=(256 * MIB,))
            guests.append(await up(spec, say=print))
        rows = [row for kind in KINDS for row in await measure(kind, guests, seconds)]
        async with await Session.open(guests[0].files.qmp_tools) as session:
            version = (await session.execute("query-version"))["qemu"]
    finally:
        for guest in guests:
            await guest.down()
    print(table(rows))
    if not quick:
        number = ".".join(str(version[part]) for part in ("major", "minor", "micro"))
        where = f"{datetime.date.today()}, QEMU {number}, accel {guests[0].accel}, {os.cpu_count()} cores"
        head = (
            f"# One quota over two VMs\n\n{where}, load average {load:.1f} at the start;\n{seconds:.0f} s a row. "
            "By `benchmarks/tenant_pool.py`: two guests with weights 1 and 2 read as fast as\nthey may, and "
            "QEMU's counters are read twenty times a second.\n\n"
        )
        RESULTS.write_text(head + table(rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10 s a row, and only print")
    quick = parser.parse_args().quick
    asyncio.run(main(10 if quick else 18, quick))
