"""One quota over the disks of two VMs: kept, shared by weight, lent, measured on the host and in the guests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest

import ringfence
from ringfence.engine.tenant_pool import Member, PoolLoop
from ringfence.lab.guest import Guest
from ringfence.lab.workloads import FioJob, fio
from ringfence.units import MIB

pytestmark = pytest.mark.measures

Boot = Callable[..., Awaitable[Guest]]
QUOTA = 300


async def requests_by_second(vms: list[ringfence.OpenVm], seconds: int) -> list[list[float]]:
    """Requests per second on each VM's first disk, second by second, by QEMU's own counters."""
    counts: list[list[float]] = []
    loop = asyncio.get_running_loop()
    start = loop.time()
    for second in range(seconds + 1):
        await asyncio.sleep(max(0.0, start + second - loop.time()))
        row = [loop.time()]
        for vm in vms:
            blocks = await vm.edges.session.execute("query-blockstats")
            stats = next(b["stats"] for b in blocks if "disk0" in b.get("qdev", ""))
            row.append(stats["rd_operations"] + stats["wr_operations"])
        counts.append(row)
    return [[(b - a) / (y[0] - x[0]) for a, b in zip(x[1:], y[1:], strict=True)] for x, y in pairwise(counts)]


async def test_a_quota_over_two_vms(lab_guest: Boot) -> None:
    light = await lab_guest(memory_bytes=256 * MIB, disks_bytes=(256 * MIB,))
    heavy = await lab_guest(memory_bytes=256 * MIB, disks_bytes=(256 * MIB,))
    async with ringfence.connect() as host:
        vms = [await host.vm(light.name), await host.vm(heavy.name)]
        pool = PoolLoop([Member(vms[0], "vda", 1), Member(vms[1], "vda", 2)], "iops", QUOTA)
        await pool.start()
        ticks: list[object] = []
        running = asyncio.ensure_future(pool.run(ticks.append))
        try:
            both = [fio(guest, FioJob(iodepth=32, runtime_s=10, ramp_s=6)) for guest in (light, heavy)]
            first = asyncio.gather(*both)
            await asyncio.sleep(7)
            by_second = await requests_by_second(vms, 6)
            seen = await first
            assert seen[1].read_iops / seen[0].read_iops == pytest.approx(2, rel=0.25)
            # The 2 % of a single second are shown by the simulation and by benchmarks/tenant_pool.py: here a
            # process that shares two cores with both asks one after the other.
            assert max(sum(row) for row in by_second) <= QUOTA * 1.1
            assert sum(map(sum, by_second)) / len(by_second) <= QUOTA * 1.02 + 2
            assert sum(map(sum, by_second)) / len(by_second) >= QUOTA * 0.93

            alone = await fio(light, FioJob(iodepth=32, runtime_s=6, ramp_s=4))
            assert QUOTA * 0.93 <= alone.read_iops <= QUOTA * 1.02
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        assert len(ticks) > 20
        limits = [{o.key: o.actual for o in await vm.show()}["disk.vda.iops"] for vm in vms]
        assert limits[1] == pytest.approx(2 * limits[0], abs=1)
        assert QUOTA * 0.95 <= sum(limits) <= QUOTA
