"""What goes wrong in the middle of a change of a real guest: it ends in a verdict, and `show` tells the truth.

A guest of 2 GiB takes about three seconds to give most of it back: that is the middle.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable

import ringfence
from ringfence.core.knob import Verdict
from ringfence.engine.changes import Result
from ringfence.lab.guest import Guest
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


async def test_the_agent_hangs(lab_guest: Boot) -> None:
    guest = await lab_guest(memory_bytes=256 * MIB, vcpus_max=3)
    await guest.run("(sleep 0.3; kill -STOP $(pidof qemu-ga)) >/dev/null 2>&1 &")
    await asyncio.sleep(1)
    async with ringfence.connect() as host:
        vm = await host.vm(guest.name)
        result = (await vm.set({"vcpus": 2}))[0]
        assert (result.verdict, result.target) == (Verdict.APPLIED, 2)
        assert "not known" in " ".join(result.notes)
