"""Shared pools on a real guest: they hold beside the disks' own limits, come and go under load, leave no trace."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import ringfence
from ringfence.core.knob import Verdict
from ringfence.lab.guest import Guest
from ringfence.lab.workloads import FioJob
from ringfence.units import MIB

pytestmark = pytest.mark.measures

Boot = Callable[..., Awaitable[Guest]]


async def read_iops(guest: Guest, *disks: str, runtime_s: float = 7) -> dict[str, float]:
    """Read several disks at the same time, by one fio, which must meet no error.

    The queue is deep, so that a throttle always has a request to let go, however late the guest is served.
    """
    fio, *settings = FioJob(rw="randread", iodepth=32, runtime_s=runtime_s).arguments()
    shared = [s for s in settings if not s.startswith(("--name", "--filename"))]
    jobs = [word for disk in disks for word in (f"--name={disk}", f"--filename=/dev/{disk}")]
    done = await guest.run([fio, *shared, *jobs], timeout_s=120)
    assert done.exit_code == 0, done.stderr
    text = done.stdout.decode()
    found = json.loads(text[text.index("{") :])["jobs"]
    assert [job["error"] for job in found] == [0] * len(disks)
    return {job["jobname"]: float(job["read"]["iops"]) for job in found}


async def nodes(vm: ringfence.OpenVm) -> Any:
    return await vm.edges.session.execute("query-named-block-nodes", {"flat": True})


async def left_over(vm: ringfence.OpenVm) -> None:
    """What a change leaves that is killed between two requests is told, and can be removed."""
    blocks = await vm.edges.session.execute("query-block")
    image = next(b["inserted"]["node-name"] for b in blocks if "disk0" in b.get("qdev", ""))
    pool = {"qom-type": "throttle-group", "id": "ringfence-pool-cut", "limits": {"iops-total": 100}}
    await vm.edges.session.execute("object-add", pool)
    filter_ = {"driver": "throttle", "node-name": "ringfence-filter-7", "throttle-group": pool["id"]}
    await vm.edges.session.execute("blockdev-add", {**filter_, "file": image})
    notes = next(o.notes for o in await vm.show() if o.key == "pool.cut.iops")
    assert "ringfence-filter-7" in " ".join(notes)
    (result,) = await vm.set({"pool.cut.iops": None})
    assert result.verdict is Verdict.APPLIED


async def test_disks_keep_their_own_limits_under_a_shared_one(lab_guest: Boot) -> None:
    guest = await lab_guest(memory_bytes=256 * MIB, disks_bytes=(64 * MIB, 64 * MIB))
    async with ringfence.connect() as host:
        vm = await host.vm(guest.name)
        before = await nodes(vm)
        wanted = {
            "disk.vda.iops": 300,
            "disk.vdb.iops": 300,
            "disk.vda.pool": "bronze",
            "disk.vdb.pool": "bronze",
            "pool.bronze.iops": 400,
            "disk.vda.latency_histogram": "on",
        }
        results = await vm.set(wanted)
        assert [r.verdict for r in results] == [Verdict.APPLIED] * 6
        for disk in ("vda", "vdb"):
            assert (await read_iops(guest, disk, runtime_s=6))[disk] == pytest.approx(300, rel=0.05)
        together = await read_iops(guest, "vda", "vdb")
        assert sum(together.values()) == pytest.approx(400, rel=0.05)
        assert min(together.values()) > 100

        shown = {o.key: o for o in await vm.show()}
        assert "vda, vdb" in " ".join(shown["pool.bronze.iops"].notes)
        assert "reads: p50" in " ".join(shown["disk.vda.latency_histogram"].notes)
        assert (shown["disk.vda.pool"].actual, shown["disk.vda.iops"].actual) == ("bronze", 300)

        none = {"disk.vda.pool": None, "disk.vdb.pool": None}
        assert [r.verdict for r in await vm.set(none)] == [Verdict.APPLIED] * 2
        assert await nodes(vm) == before
        await left_over(vm)
        assert await nodes(vm) == before
        objects = await vm.edges.session.execute("qom-list", {"path": "/objects"})
        assert not [o["name"] for o in objects if o["type"] == "child<throttle-group>"]


async def test_filters_come_and_go_under_load_without_an_error_in_the_guest(lab_guest: Boot) -> None:
    guest = await lab_guest(memory_bytes=256 * MIB, disks_bytes=(64 * MIB, 64 * MIB))
    async with ringfence.connect() as host:
        vm = await host.vm(guest.name)
        before = await nodes(vm)
        load = asyncio.create_task(read_iops(guest, "vda", "vdb", runtime_s=8))
        await asyncio.sleep(2)
        for number in range(10):
            pool = f"p{number}"
            join = {f"pool.{pool}.iops": 500, "disk.vda.pool": pool, "disk.vdb.pool": pool}
            results = await vm.set(join)
            assert [r.verdict for r in results] == [Verdict.APPLIED] * 3
            assert "finished no request" not in " ".join(note for r in results for note in r.notes)
        await vm.set({"disk.vda.pool": None, "disk.vdb.pool": None})
        assert await nodes(vm) == before
        assert min((await load).values()) > 0


async def test_a_filter_from_the_start_is_limited_even_in_an_iothread(lab_guest: Boot, tmp_path: Path) -> None:
    with (tmp_path / "disk").open("wb") as file:
        file.truncate(64 * MIB)
    extra = (
        "-object iothread,id=io0 -object throttle-group,id=ringfence-pool-bronze "
        f"-blockdev driver=raw,node-name=image,file.driver=file,file.filename={tmp_path}/disk "
        "-blockdev driver=throttle,node-name=filter,file=image,throttle-group=ringfence-pool-bronze "
        "-device virtio-blk-pci,id=disk,drive=filter,iothread=io0"
    ).split()
    guest = await lab_guest(memory_bytes=256 * MIB, extra=extra)
    async with ringfence.connect() as host:
        vm = await host.vm(guest.name)
        (result,) = await vm.set({"pool.bronze.iops": 200})
        assert result.verdict is Verdict.APPLIED
        assert (await read_iops(guest, "vda", runtime_s=6))["vda"] == pytest.approx(200, rel=0.05)
        with pytest.raises(ringfence.RingfenceError, match="QEMU crashes"):
            await vm.set({"disk.vda.pool": None})
