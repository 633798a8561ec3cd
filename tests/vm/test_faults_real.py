"""What goes wrong in the middle of a change of a real guest: it ends in a verdict, and `show` tells the truth.

A guest of 2 GiB takes about three seconds to give most of it back: that is the middle.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable

import pytest

import ringfence
from ringfence.core.knob import Verdict
from ringfence.engine.changes import Result
from ringfence.lab.guest import Guest
from ringfence.lab.workloads import FioJob, fio
from ringfence.qemu import sockets
from ringfence.units import GIB, MIB

Boot = Callable[..., Awaitable[Guest]]
TARGET = 400 * MIB


async def shrink(vm: ringfence.OpenVm, in_the_middle: Callable[[], Awaitable[None]], **options: float) -> Result:
    """Take memory away, and do something to the guest when it has given up a first part of it."""
    moving = asyncio.Event()

    def progress(step: object) -> None:
        if getattr(step, "done", 0) > 50 * MIB:
            moving.set()

    changing = asyncio.ensure_future(vm.set({"memory.target": TARGET}, progress=progress, **options))  # type: ignore[arg-type]
    await moving.wait()
    await in_the_middle()
    (result,) = await changing
    return result


async def target_of(vm: ringfence.OpenVm) -> int:
    return int({o.key: o.target for o in await vm.show()}["memory.target"] or 0)


async def migrated(vm: ringfence.OpenVm) -> None:
    for _ in range(300):
        if (await vm.edges.session.execute("query-migrate"))["status"] == "completed":
            return
        await asyncio.sleep(0.2)
    raise AssertionError("the migration did not end")


async def test_qemu_is_killed(lab_guest: Boot) -> None:
    guest = await lab_guest(memory_bytes=2 * GIB)
    async with ringfence.connect() as host:
        vm = await host.vm(guest.name)

        async def kill() -> None:
            os.kill(guest.pid or 0, signal.SIGKILL)

        result = await shrink(vm, kill)
    assert (result.verdict, result.actual) == (Verdict.FAILED, None)
    assert "not known" in result.state
    assert result.exit_code == 4


async def test_the_vm_is_paused_and_goes_on_later(lab_guest: Boot) -> None:
    guest = await lab_guest(memory_bytes=2 * GIB)
    async with ringfence.connect() as host:
        vm = await host.vm(guest.name)

        async def pause() -> None:
            await vm.edges.session.execute("stop")

        result = await shrink(vm, pause)
        assert (result.verdict, result.by) == (Verdict.PARTIAL, "guest")
        assert TARGET < int(result.actual or 0) < 2 * GIB
        refused = (await vm.set({"memory.target": TARGET}))[0]
        assert refused.verdict is Verdict.REFUSED
        assert "paused" in refused.detail
        await vm.edges.session.execute("cont")
        again = (await vm.set({"memory.target": TARGET}))[0]
        assert (again.verdict, again.actual) == (Verdict.APPLIED, TARGET)


async def test_qemu_is_stopped_as_a_process(lab_guest: Boot) -> None:
    guest = await lab_guest(memory_bytes=2 * GIB)
    async with ringfence.connect() as host:
        vm = await host.vm(guest.name)

        async def stop() -> None:
            os.kill(guest.pid or 0, signal.SIGSTOP)

        try:
            result = await shrink(vm, stop)
        finally:
            os.kill(guest.pid or 0, signal.SIGCONT)
        assert (result.verdict, result.actual) == (Verdict.FAILED, None)
        assert "no answer" in result.detail
    async with ringfence.connect() as host:
        assert await target_of(await host.vm(guest.name)) < 2 * GIB


async def test_the_vm_migrates_away(lab_guest: Boot) -> None:
    guest = await lab_guest(memory_bytes=2 * GIB)
    async with ringfence.connect() as host:
        vm = await host.vm(guest.name)

        async def migrate() -> None:
            await vm.edges.session.execute("migrate", {"uri": "exec:cat >/dev/null"})

        result = await shrink(vm, migrate)
        # It may have been met while pages were still being copied: then that is the truth.
        assert result.verdict in (Verdict.PARTIAL, Verdict.APPLIED)
        assert await target_of(vm) == result.target
        await migrated(vm)
        refused = (await vm.set({"memory.target": 2 * GIB}))[0]
        assert refused.verdict is Verdict.REFUSED
        assert "postmigrate" in refused.detail


async def test_another_client_takes_the_socket(lab_guest: Boot) -> None:
    guest = await lab_guest(memory_bytes=2 * GIB)
    async with ringfence.connect() as host:
        vm = await host.vm(guest.name)
        session = vm.edges.session
        other = await sockets.connect(session.address)  # type: ignore[arg-type]  # next in the queue

        async def take() -> None:
            session._socket.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]

        try:
            result = await shrink(vm, take)
            assert (result.verdict, result.actual) == (Verdict.FAILED, None)
            assert "not known" in result.state
            assert "may still move" in result.state
            # The VM has a second socket, and what is so can be seen and set through that.
            again = await host.vm(guest.name)
            assert again.edges.session.address != session.address
            back = (await again.set({"memory.target": 2 * GIB}))[0]
            assert (back.verdict, back.actual) == (Verdict.APPLIED, 2 * GIB)
        finally:
            other.close()


async def test_the_guest_is_rebooted(lab_guest: Boot) -> None:
    guest = await lab_guest(memory_bytes=2 * GIB)
    async with ringfence.connect() as host:
        vm = await host.vm(guest.name)
        if "set-action" not in {c["name"] for c in await vm.edges.session.execute("query-commands")}:
            pytest.skip("this QEMU ends where it was started to do so when its guest reboots")
        await vm.edges.session.execute("set-action", {"reboot": "reset"})

        async def reboot() -> None:
            await vm.edges.session.execute("system_reset")

        result = await shrink(vm, reboot, timeout_s=20)
        # The guest that comes up has its memory again, and may have given it up by then.
        assert result.verdict in (Verdict.PARTIAL, Verdict.REFUSED, Verdict.APPLIED)
        assert result.took_ms < 30_000
        await booted(guest)
        now = (await vm.edges.session.execute("query-balloon"))["actual"]
        assert await target_of(vm) == now
        back = (await vm.set({"memory.target": GIB}))[0]
        assert (back.verdict, back.actual) == (Verdict.APPLIED, GIB)


async def booted(guest: Guest) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                await guest.run("true", timeout_s=2)
                return
            except ringfence.RingfenceError:
                await asyncio.sleep(0.2)


async def reads(vm: ringfence.OpenVm) -> int:
    blocks = await vm.edges.session.execute("query-blockstats")
    return next(int(b["stats"]["rd_operations"]) for b in blocks if "/d/" in b.get("qdev", ""))


async def test_a_busy_disk_that_stops_is_told_and_what_frees_it(lab_guest: Boot) -> None:
    extra = []
    for name, latency_ns in (("fast", 0), ("stuck", 6 * 10**9)):
        extra += [
            "-blockdev",
            f"driver=null-co,node-name={name},size={64 * MIB},read-zeroes=on,latency-ns={latency_ns}",
        ]
    guest = await lab_guest(memory_bytes=256 * MIB, extra=[*extra, "-device", "virtio-blk-pci,id=d,drive=fast"])
    async with ringfence.connect() as host:
        vm = await host.vm(guest.name)
        if (await vm.edges.session.execute("query-version"))["qemu"]["major"] < 7:
            pytest.skip("this QEMU moves no running disk")
        load = asyncio.ensure_future(fio(guest, FioJob(runtime_s=5, ramp_s=0)))
        async with asyncio.timeout(30):
            while await reads(vm) < 100:  # noqa: ASYNC110  asks QEMU
                await asyncio.sleep(0.05)
        (goes_on,) = await vm.set({"disk.d.iops": 5000}, watch=True)
        assert (goes_on.verdict, goes_on.notes) == (Verdict.APPLIED, ())
        stuck = {"path": "/machine/peripheral/d", "property": "drive", "value": "stuck"}
        await vm.edges.session.execute("qom-set", stuck)
        start = time.monotonic()
        (stops,) = await vm.set({"disk.d.iops": 4000}, watch=True)
        assert time.monotonic() - start < 6
        assert "has finished no request since" in " ".join(stops.notes)
        assert "disk.vda.iops=unlimited" in " ".join(stops.notes)
        await load


async def test_the_agent_hangs(lab_guest: Boot) -> None:
    guest = await lab_guest(memory_bytes=256 * MIB, vcpus_max=3)
    await guest.run("(sleep 0.3; kill -STOP $(pidof qemu-ga)) >/dev/null 2>&1 &")
    await asyncio.sleep(1)
    async with ringfence.connect() as host:
        vm = await host.vm(guest.name)
        result = (await vm.set({"vcpus": 2}))[0]
        assert (result.verdict, result.target) == (Verdict.APPLIED, 2)
        assert "not known" in " ".join(result.notes)
