"""The main job in half a minute, on the installed QEMU and on another one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable

import pytest

import ringfence
from ringfence.core.knob import Verdict
from ringfence.lab.guest import Guest
from ringfence.lab.workloads import FioJob, fio, online_cpus
from ringfence.qemu.launch import installed_qemu
from ringfence.units import GIB, KIB, MIB

pytestmark = pytest.mark.measures


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.smoke
async def test_the_limits_of_a_guest_change_while_it_runs(lab_guest: Callable[..., Awaitable[Guest]]) -> None:
    guest = await lab_guest(memory_bytes=GIB, vcpus=2, vcpus_max=4, disks_bytes=(256 * MIB,))
    async with ringfence.connect() as host:
        vm = await host.vm(guest.name)
        version = (await vm.edges.session.execute("query-version"))["qemu"]
        assert re.findall(r"version (\d+\.\d+\.\d+)", output(installed_qemu(), "--version")) == [
            "{major}.{minor}.{micro}".format(**version)
        ]

        async def applied(key: str, value: str | int | None) -> object:
            (result,) = await vm.set({key: value})
            assert result.verdict is Verdict.APPLIED, result
            return result.actual

        await applied("disk.vda.iops", 100)
        seen = await fio(guest, FioJob(rw="randread", block_size_bytes=4 * KIB, runtime_s=5))
        assert seen.read_iops == pytest.approx(100, rel=0.05)
        assert await applied("memory.target", "512MiB") == 512 * MIB
        assert await applied("memory.target", "1GiB") == GIB
        assert await applied("vcpus", 3) == 3
        assert await online_cpus(guest) == (0, 1, 2)
        assert await applied("vcpus", 1) == 1
        assert await online_cpus(guest) == (0,)

    said = output(sys.executable, "-m", "ringfence", "monitor", guest.name, "--qmp", "query-balloon")
    assert json.loads(said) == {"actual": GIB}
