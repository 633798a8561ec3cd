"""Ctrl-C while a real guest gives up memory: it keeps what it has reached, and nothing stays switched on."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable

import ringfence
from ringfence.lab.guest import Guest
from ringfence.units import GIB, MIB

Boot = Callable[..., Awaitable[Guest]]
BALLOON = "/machine/peripheral/balloon0"


async def actual_bytes(vm: ringfence.OpenVm) -> int:
    return int((await vm.edges.session.execute("query-balloon"))["actual"])


async def test_ctrl_c_in_the_middle_of_a_shrink(lab_guest: Boot) -> None:
    guest = await lab_guest(memory_bytes=2 * GIB)
    async with ringfence.connect() as host:
        vm = await host.vm(guest.name)
        program = await asyncio.create_subprocess_exec(
            *(
                sys.executable,
                "-X",
                "dev",
                "-m",
                "ringfence",
                "set",
                guest.name,
                "memory.target=400MiB",
                "vcpus=2",
            ),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        for _ in range(1000):
            if await actual_bytes(vm) < 2 * GIB - 100 * MIB:
                break
            await asyncio.sleep(0.01)
        program.send_signal(signal.SIGINT)
        out, err = (data.decode() for data in await program.communicate())
        assert program.returncode == 130, out + err
        memory, vcpus = out.splitlines()
        assert " interrupted, asked for 400 MiB" in memory
        assert vcpus.endswith("not attempted")
        assert "which is its target now" in err
        assert "Traceback" not in err
        reached = await actual_bytes(vm)
        assert 400 * MIB < reached < 2 * GIB
        polling = {"path": BALLOON, "property": "guest-stats-polling-interval"}
        assert await vm.edges.session.execute("qom-get", polling) == 0
        await asyncio.sleep(1.5)
        assert abs(await actual_bytes(vm) - reached) < 64 * MIB
