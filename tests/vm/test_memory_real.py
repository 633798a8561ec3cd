"""memory.target by each mechanism on real guests: what QEMU holds and what the guest's kernel sees agree."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

import ringfence
from ringfence.core.knob import Verdict
from ringfence.core.requests import Progress
from ringfence.engine.changes import Result
from ringfence.lab.guest import Guest
from ringfence.lab.workloads import meminfo
from ringfence.units import GIB, MIB

pytestmark = pytest.mark.measures

Boot = Callable[..., Awaitable[Guest]]


@asynccontextmanager
async def opened(guest: Guest) -> AsyncIterator[ringfence.OpenVm]:
    async with ringfence.connect() as host:
        yield await host.vm(guest.name)


async def target(vm: ringfence.OpenVm, value: str, via: str = "", **options: object) -> Result:
    values = {"memory.target": value} | ({"memory.target.via": via} if via else {})
    results = await vm.set(values, **options)  # type: ignore[arg-type]
    return results[0]


async def figures(vm: ringfence.OpenVm) -> dict[str, int]:
    """Every key of memory that is a number, by its last word."""
    return {o.key.rpartition(".")[2]: o.actual for o in await vm.show() if isinstance(o.actual, int)}


async def total(guest: Guest) -> int:
    return (await meminfo(guest))["MemTotal"]


async def hold(guest: Guest, megabytes: int) -> None:
    """Keep memory in a tmpfs, where no kernel can reclaim it."""
    fill = f"mount -o remount,size=4g /dev/shm && dd if=/dev/zero of=/dev/shm/held bs=1M count={megabytes}"
    assert (await guest.run(fill)).exit_code == 0


async def test_virtio_mem_grows_and_shrinks_by_a_gib(lab_guest: Boot) -> None:
    guest = await lab_guest(memory_bytes=512 * MIB, virtio_mem_bytes=2 * GIB)
    reserved = 512 * MIB - await total(guest)
    async with opened(guest) as vm:
        up = await target(vm, "1536MiB")
        assert (up.verdict, up.actual) == (Verdict.APPLIED, 1536 * MIB)
        assert "by virtio-mem" in " ".join(up.notes)
        assert await total(guest) + reserved == pytest.approx(1536 * MIB, rel=0.02)
        down = await target(vm, "512MiB")
        assert (down.verdict, down.actual) == (Verdict.APPLIED, 512 * MIB)
        assert "by virtio-mem" in " ".join(down.notes)
        assert await total(guest) + reserved == pytest.approx(512 * MIB, rel=0.02)


async def test_a_guest_that_holds_memory_keeps_it_and_lives(lab_guest: Boot) -> None:
    guest = await lab_guest(memory_bytes=512 * MIB, virtio_mem_bytes=GIB)
    async with opened(guest) as vm:
        assert (await target(vm, "1536MiB")).verdict is Verdict.APPLIED
        await hold(guest, 700)
        refused = await target(vm, "600MiB", via="virtio-mem")
        assert (refused.verdict, refused.by, refused.actual) == (Verdict.REFUSED, "ringfence", 1536 * MIB)
        await guest.run("rm /dev/shm/held")
        assert (await target(vm, "512MiB")).actual == 512 * MIB


async def test_a_shrink_met_in_part_is_partial_and_not_asked_for_any_longer(lab_guest: Boot) -> None:
    options = ("memhp_default_state=online_kernel",)
    guest = await lab_guest(memory_bytes=512 * MIB, virtio_mem_bytes=GIB, kernel_options=options)
    async with opened(guest) as vm:
        assert (await target(vm, "1536MiB")).verdict is Verdict.APPLIED
        # What a kernel has for its directories it cannot move, and takes from this zone first.
        made = await guest.run("cd /dev/shm && seq 4000 | xargs mkdir")
        assert made.exit_code == 0
        await hold(guest, 200)
        part = await target(vm, "512MiB", via="virtio-mem", timeout_s=30)
        assert (part.verdict, part.by) == (Verdict.PARTIAL, "guest")
        assert part.target == part.actual
        assert 512 * MIB < int(part.actual or 0) < 1536 * MIB
        assert (await guest.run("true")).exit_code == 0


async def test_a_dimm_comes_and_goes_and_the_ledgers_add_up(lab_guest: Boot) -> None:
    guest = await lab_guest(memory_bytes=512 * MIB)
    reserved = 512 * MIB - await total(guest)
    async with opened(guest) as vm:
        up = await target(vm, "768MiB")
        assert (up.verdict, up.actual) == (Verdict.APPLIED, 768 * MIB)
        assert "by pc-dimm" in " ".join(up.notes)
        assert await total(guest) + reserved == pytest.approx(768 * MIB, rel=0.02)

        assert (await target(vm, "640MiB")).verdict is Verdict.APPLIED
        now = await figures(vm)
        assert (now["boot"], now["plugged"], now["ballooned"]) == (512 * MIB, 256 * MIB, 128 * MIB)
        assert now["boot"] + now["plugged"] - now["ballooned"] == now["target"] == 640 * MIB

        # The DIMM leaves under an inflated balloon, which is emptied for it and holds the same afterwards.
        down = await target(vm, "384MiB", via="pc-dimm")
        assert (down.verdict, down.actual) == (Verdict.APPLIED, 384 * MIB)
        now = await figures(vm)
        assert (now["plugged"], now["ballooned"]) == (0, 128 * MIB)
        assert await backends(vm) == []
        assert (await target(vm, "512MiB")).verdict is Verdict.APPLIED
        assert await total(guest) + reserved == pytest.approx(512 * MIB, rel=0.02)


async def backends(vm: ringfence.OpenVm) -> list[str]:
    objects = await vm.edges.session.execute("qom-list", {"path": "/objects"})
    return [entry["name"] for entry in objects if entry["name"].startswith("ringfence-")]


async def test_a_dimm_in_use_by_the_kernel_is_refused_by_the_guest(lab_guest: Boot) -> None:
    guest = await lab_guest(memory_bytes=512 * MIB, kernel_options=("memhp_default_state=online_kernel",))
    async with opened(guest) as vm:
        assert (await target(vm, "768MiB")).verdict is Verdict.APPLIED
        await hold(guest, 300)
        refused = await target(vm, "512MiB", via="pc-dimm", force=True)
        assert (refused.verdict, refused.by, refused.actual) == (Verdict.REFUSED, "guest", 768 * MIB)
        assert refused.took_ms < 10_000
        assert await backends(vm) == ["ringfence-mem-0"]


async def test_a_guest_that_leaves_new_memory_offline_is_helped_by_its_agent(lab_guest: Boot) -> None:
    options = ("memhp_default_state=offline",)
    guest = await lab_guest(memory_bytes=512 * MIB, virtio_mem_bytes=GIB, kernel_options=options)
    before = await total(guest)
    async with opened(guest) as vm:
        assert (await target(vm, "768MiB", via="pc-dimm")).verdict is Verdict.APPLIED
        assert await total(guest) - before == 256 * MIB
        assert (await target(vm, "1792MiB", via="virtio-mem")).verdict is Verdict.APPLIED
        assert await total(guest) - before == 1280 * MIB


async def test_without_an_agent_memory_left_offline_is_partial(lab_guest: Boot) -> None:
    options = ("memhp_default_state=offline", "ringfence.agent=0")
    guest = await lab_guest(memory_bytes=512 * MIB, kernel_options=options)
    async with opened(guest) as vm:
        result = await target(vm, "768MiB")
        assert (result.verdict, result.by) == (Verdict.PARTIAL, "guest")
        assert "the guest uses 0 B" in result.detail


async def test_a_ramp_has_steps_in_between_whatever_moves(lab_guest: Boot) -> None:
    guest = await lab_guest(memory_bytes=512 * MIB, virtio_mem_bytes=GIB)
    async with opened(guest) as vm:
        for value, via in (("1GiB", "virtio-mem"), ("768MiB", "balloon"), ("1GiB", "pc-dimm")):
            seen: list[Progress] = []
            values = {"memory.target": value, "memory.target.via": via, "memory.ramp": "256MiB/s"}
            results = await vm.set(values, progress=seen.append)
            assert [r.verdict for r in results] == [Verdict.APPLIED] * 3
            assert len({p.done for p in seen}) > 1
            assert results[0].took_ms >= 0.9 * seen[-1].total / (256 * MIB) * 1000


async def test_a_stopped_guest_is_asked_for_nothing(lab_guest: Boot) -> None:
    guest = await lab_guest(memory_bytes=256 * MIB, virtio_mem_bytes=GIB)
    async with opened(guest) as vm:
        await vm.edges.session.execute("stop")
        for value in ("200MiB", "768MiB", "2GiB"):
            result = await target(vm, value)
            assert (result.verdict, result.by, result.actual) == (Verdict.REFUSED, "guest", 256 * MIB)
        assert await backends(vm) == []
        await vm.edges.session.execute("cont")
        assert (await target(vm, "768MiB")).verdict is Verdict.APPLIED


async def test_an_unplug_that_ends_late_leaves_no_backend_behind(lab_guest: Boot) -> None:
    guest = await lab_guest(memory_bytes=512 * MIB)
    async with opened(guest) as vm:
        assert (await target(vm, "768MiB")).verdict is Verdict.APPLIED
        # As a change that was interrupted leaves it: the device goes, nobody is there to remove the backend.
        await vm.edges.session.execute("device_del", {"id": "ringfence-dimm-0"})
        async with asyncio.timeout(10):
            while await vm.edges.session.execute("query-memory-devices"):  # noqa: ASYNC110
                await asyncio.sleep(0.05)  # asks QEMU
        notes = next(o.notes for o in await vm.show() if o.key == "memory.target")
        assert "ringfence-mem-0" in " ".join(notes)
        result = await target(vm, "512MiB")
        assert "removed backend ringfence-mem-0" in " ".join(result.notes)
        assert await backends(vm) == []
