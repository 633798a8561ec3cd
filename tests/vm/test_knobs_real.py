"""Each knob on a real guest: what QEMU was told, what the guest did, and whether the limit holds inside it.

Rates are measured for ten seconds, which resolves five percent.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

import ringfence
from ringfence.core.knob import Verdict
from ringfence.core.model import Address
from ringfence.engine.api import open_vm
from ringfence.engine.changes import Result
from ringfence.errors import TenantError, UsageError
from ringfence.lab.guest import Guest
from ringfence.lab.workloads import FioJob, fio, meminfo, online_cpus, parse_fio
from ringfence.qemu.discovery import vm_at
from ringfence.qemu.launch import find_qemu
from ringfence.qemu.session import Session
from ringfence.units import GIB, KIB, MIB

pytestmark = pytest.mark.measures

Boot = Callable[..., Awaitable[Guest]]
Check = Callable[[Session], Awaitable[None]]


@asynccontextmanager
async def opened(guest: Guest) -> AsyncIterator[ringfence.OpenVm]:
    async with ringfence.connect() as host:
        yield await host.vm(guest.name)


async def set_one(vm: ringfence.OpenVm, key: str, value: str | int | None, **options: object) -> Result:
    (result,) = await vm.set({key: value}, **options)  # type: ignore[arg-type]
    return result


async def measured(guest: Guest, job: FioJob, of: str, want: float) -> float:
    """What fio measures; up to three times, since a busy host disturbs the clock of a guest without KVM."""
    seen = 0.0
    for _ in range(3):
        seen = getattr(await fio(guest, job), of)
        if seen == pytest.approx(want, rel=0.05):
            break
    return seen


async def ballooned_bytes(guest: Guest) -> int:
    """What the guest's kernel says it has given to the balloon."""
    lines = (await guest.run("cat /proc/vmstat")).stdout.decode().splitlines()
    counters = dict(line.split() for line in lines)
    return (int(counters["balloon_inflate"]) - int(counters["balloon_deflate"])) * 4 * KIB


async def test_disk_limits_hold_inside_the_guest(lab_guest: Boot) -> None:
    guest = await lab_guest(memory_bytes=256 * MIB, disks_bytes=(256 * MIB, 256 * MIB))
    async with opened(guest) as vm:
        assert (await set_one(vm, "disk.vda.iops", 100)).verdict is Verdict.APPLIED
        seen_per_s = await measured(
            guest, FioJob(rw="randread", block_size_bytes=4 * KIB, runtime_s=10), "read_iops", 100
        )
        assert seen_per_s == pytest.approx(100, rel=0.05)

        results = await vm.set({"disk.vda.iops": None, "disk.vda.bps": "5MiB/s"})
        assert [r.verdict for r in results] == [Verdict.APPLIED] * 2
        seen_per_s = await measured(
            guest, FioJob(rw="write", block_size_bytes=64 * KIB, runtime_s=10), "write_bytes_per_s", 5 * MIB
        )
        assert seen_per_s == pytest.approx(5 * MIB, rel=0.05)

        results = await vm.set({"disk.vda.bps": None, "disk.vda.iops.read": 50, "disk.vda.iops.write": 200})
        assert [r.verdict for r in results] == [Verdict.APPLIED] * 3
        seen_per_s = await measured(guest, FioJob(rw="randread", runtime_s=6), "read_iops", 50)
        assert seen_per_s == pytest.approx(50, rel=0.05)
        seen_per_s = await measured(guest, FioJob(rw="randwrite", runtime_s=6), "write_iops", 200)
        assert seen_per_s == pytest.approx(200, rel=0.05)

        both = {"disk.vda.iops.read": None, "disk.vda.iops.write": None}
        await vm.set({**both, "disk.vda.iops": 100, "disk.vda.io_size": "4KiB"})
        seen_per_s = await measured(
            guest, FioJob(rw="randread", block_size_bytes=16 * KIB, runtime_s=8), "read_iops", 25
        )
        assert seen_per_s == pytest.approx(25, rel=0.05)

        await set_one(vm, "disk.vda.iops", None)
        seen = await fio(guest, FioJob(rw="randread", runtime_s=2))
        assert seen.read_iops > 300


async def test_a_group_shares_one_limit_and_a_burst_lasts_its_length(lab_guest: Boot) -> None:
    guest = await lab_guest(memory_bytes=256 * MIB, disks_bytes=(256 * MIB, 256 * MIB))
    async with opened(guest) as vm:
        await vm.set({"disk.vda.iops": 200, "disk.vda.group": "shared"})
        result = await set_one(vm, "disk.vdb.group", "shared")
        assert result.verdict is Verdict.APPLIED
        assert "vda" in " ".join(result.notes)
        together = [await iops_of_both(guest)]
        while together[-1] != pytest.approx(200, rel=0.05) and len(together) < 3:
            together.append(await iops_of_both(guest))
        assert together[-1] == pytest.approx(200, rel=0.05), together

        result = await set_one(vm, "disk.vdb.group", None)
        assert result.verdict is Verdict.APPLIED
        await vm.set({"disk.vda.iops.burst": 500, "disk.vda.iops.burst_length": "3s"})
        burst = await fio(guest, FioJob(rw="randread", runtime_s=2, ramp_s=0))
        after_per_s = await measured(guest, FioJob(rw="randread", runtime_s=6, ramp_s=8), "read_iops", 200)
        assert burst.read_iops == pytest.approx(500, rel=0.25)  # the bucket starts full: more in the first moment
        assert after_per_s == pytest.approx(200, rel=0.05)
        by_key = {o.key: o.actual for o in await vm.show()}
        assert (by_key["disk.vdb.iops"], by_key["disk.vdb.iops.burst"]) == (200, None)


async def iops_of_both(guest: Guest) -> float:
    """Both disks read at the same time, by one fio: what they get together."""
    first, *settings = FioJob(rw="randread", runtime_s=10).arguments()
    shared = [s for s in settings if not s.startswith(("--name", "--filename"))]
    jobs = ["--name=a", "--filename=/dev/vda", "--name=b", "--filename=/dev/vdb"]
    done = await guest.run([first, *shared, "--group_reporting", *jobs], timeout_s=120)
    assert done.exit_code == 0, done.stderr
    return parse_fio(done.stdout.decode()).read_iops


async def test_memory_follows_the_balloon_both_ways(lab_guest: Boot) -> None:
    guest = await lab_guest(memory_bytes=GIB)
    async with opened(guest) as vm:
        down = await set_one(vm, "memory.target", "512MiB")
        assert (down.verdict, down.actual) == (Verdict.APPLIED, 512 * MIB)
        assert GIB - await ballooned_bytes(guest) == pytest.approx(512 * MIB, rel=0.02)
        assert (await meminfo(guest))["MemAvailable"] < 512 * MIB
        up = await set_one(vm, "memory.target", "1GiB")
        assert (up.verdict, up.actual) == (Verdict.APPLIED, GIB)
        assert await ballooned_bytes(guest) < 0.02 * GIB


async def test_less_than_the_guest_needs_is_refused_and_forced_it_is_partial(lab_guest: Boot) -> None:
    guest = await lab_guest(memory_bytes=384 * MIB)
    async with opened(guest) as vm:
        # Whether that is known at once hangs on whether the guest has given statistics lately.
        with suppress(UsageError):
            refused = await set_one(vm, "memory.target", "32MiB")
            assert (refused.verdict, refused.by) == (Verdict.REFUSED, "ringfence")
        assert {o.key: o.target for o in await vm.show()}["memory.target"] == 384 * MIB
        forced = await set_one(vm, "memory.target", "32MiB", force=True, timeout_s=30)
        assert (forced.verdict, forced.by) == (Verdict.PARTIAL, "guest")
        assert forced.actual == forced.target
        assert 32 * MIB < int(forced.actual or 0) < 384 * MIB
        back = await set_one(vm, "memory.target", "384MiB")
        assert back.verdict is Verdict.APPLIED


async def test_a_guest_without_a_balloon_driver_is_refused_and_keeps_its_memory(lab_guest: Boot) -> None:
    guest = await lab_guest(memory_bytes=256 * MIB, kernel_options=("ringfence.balloon=0",))
    async with opened(guest) as vm:
        result = await set_one(vm, "memory.target", "200MiB")
        assert (result.verdict, result.by, result.actual) == (Verdict.REFUSED, "guest", 256 * MIB)
        assert "driver" in result.detail


async def test_where_cpus_cannot_be_plugged_that_is_said_before_and_seen_when_forced(lab_guest: Boot) -> None:
    guest = await lab_guest(memory_bytes=256 * MIB, vcpus=2, vcpus_max=4)
    async with opened(guest) as vm:
        reports = await vm.edges.session.execute("query-acpi-ospm-status")
        if any(report["slot-type"] == "CPU" for report in reports):
            pytest.skip("a guest of this QEMU takes over CPU hot-plug: query-acpi-ospm-status lists CPUs")
        with pytest.raises(TenantError, match="has not taken over CPU hot-plug"):
            await set_one(vm, "vcpus", 3)
        shrunk = await set_one(vm, "vcpus", 1, force=True)
        assert (shrunk.verdict, shrunk.by, shrunk.target, shrunk.actual) == (Verdict.REFUSED, "QEMU", 2, 2)
        await offline_and_back(guest, vm)
        grown = await set_one(vm, "vcpus", 3, force=True)
        assert (grown.verdict, grown.by, grown.target, grown.actual) == (Verdict.PARTIAL, "guest", 3, 2)


def threads_of(pid: int) -> set[int]:
    return {int(name) for name in os.listdir(f"/proc/{pid}/task")}


async def offline_and_back(guest: Guest, vm: ringfence.OpenVm) -> None:
    """With two CPUs that QEMU cannot unplug: what the agent does is told apart from what QEMU has."""
    shrunk = await set_one(vm, "vcpus", 1)
    assert (shrunk.verdict, shrunk.by, shrunk.target, shrunk.actual) == (Verdict.APPLIED, "guest", 2, 1)
    assert "QEMU keeps 2" in " ".join(shrunk.notes)
    assert await online_cpus(guest) == (0,)
    back = await set_one(vm, "vcpus", 2)
    assert (back.verdict, back.target, back.actual) == (Verdict.APPLIED, 2, 2)
    assert await online_cpus(guest) == (0, 1)


async def test_cpus_that_share_a_thread_are_taken_offline_by_the_agent(lab_guest: Boot) -> None:
    guest = await lab_guest(memory_bytes=256 * MIB, vcpus=2, extra=("-accel", "tcg,thread=single"))
    async with opened(guest) as vm:
        await offline_and_back(guest, vm)


async def test_slots_are_filled_by_threads_then_cores_then_sockets(tmp_path: Path) -> None:
    qemu = find_qemu() or pytest.skip("no QEMU here")
    topology = "-smp 1,sockets=2,cores=2,threads=2,maxcpus=8 -m 128 -object memory-backend-ram,id=m0,size=64M"
    numa = "-object memory-backend-ram,id=m1,size=64M -numa node,memdev=m0,cpus=0-3 -numa node,memdev=m1,cpus=4-7"
    words = f"-S -nodefaults -display none -machine q35 -accel tcg {topology} {numa}".split()
    process = await asyncio.create_subprocess_exec(qemu, *words, "-qmp", f"unix:{tmp_path}/q,server=on,wait=off")
    try:
        while not (tmp_path / "q").exists():
            assert process.returncode is None
            await asyncio.sleep(0.02)
        async with await open_vm(vm_at(Address(f"{tmp_path}/q"))) as vm:
            (step,) = await vm.plan({"vcpus": 8})
            places = [request.arguments for request in step.requests()]
            names = ("socket-id", "core-id", "thread-id", "node-id")
            seen = [tuple(int(str(place.get(name, 0))) for name in names) for place in places]
            assert seen == [(n >> 2, n >> 1 & 1, n & 1, n >> 2) for n in range(1, 8)]
            results = await vm.apply(await vm.plan({"vcpus": 2}), timeout_s=5)
            assert results[0].target == 2  # nobody in it could answer yet
            assert any("new vCPU threads: 1=" in note for note in results[0].notes)
    finally:
        process.kill()
        await process.wait()


async def test_vcpus_come_and_go_with_the_agents_help(
    cpu_hotplug: None, lab_guest: Boot, needs_cpu_hotplug: Check
) -> None:
    guest = await lab_guest(memory_bytes=256 * MIB, vcpus=2, vcpus_max=4)
    async with opened(guest) as vm:
        await needs_cpu_hotplug(vm.edges.session)
        grown = await set_one(vm, "vcpus", 4)
        assert (grown.verdict, grown.target, grown.actual) == (Verdict.APPLIED, 4, 4)
        assert len(await online_cpus(guest)) == 4
        threads = [int(pair.partition("=")[2]) for pair in grown.notes[0].partition(": ")[2].split(", ")]
        assert set(threads) < threads_of(vm.info.pid)
        assert len(threads) == 2
        shrunk = await set_one(vm, "vcpus", 1)
        assert (shrunk.verdict, shrunk.target, shrunk.actual) == (Verdict.APPLIED, 1, 1)
        assert await online_cpus(guest) == (0,)
        with pytest.raises(ringfence.RingfenceError, match="was unplugged before"):
            await set_one(vm, "vcpus", 2)


async def test_vcpus_without_an_agent_are_applied_by_the_guests_own_policy(
    cpu_hotplug: None, lab_guest: Boot, needs_cpu_hotplug: Check
) -> None:
    guest = await lab_guest(
        memory_bytes=256 * MIB, vcpus_max=2, kernel_options=("ringfence.agent=0", "ringfence.cpu_online=1")
    )
    async with opened(guest) as vm:
        await needs_cpu_hotplug(vm.edges.session)
        result = await set_one(vm, "vcpus", 2)
        assert (result.verdict, result.target) == (Verdict.APPLIED, 2)
        assert "not known" in " ".join(result.notes)
