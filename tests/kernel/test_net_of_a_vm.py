"""net on a real QEMU: its tap devices found from its process, in any namespace, by any of their names."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringfence.core.knob import Verdict
from ringfence.core.model import Vm
from ringfence.engine.api import open_tenant
from ringfence.errors import TenantError
from ringfence.qemu.discovery import find_vms

NETNS = f"rfnet-v{os.getpid()}"
NAME = f"rfnet-vm-{os.getpid()}"
QEMU = shutil.which("qemu-system-x86_64")

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(not QEMU, reason="QEMU is not installed"),
    pytest.mark.skipif(not os.access("/dev/net/tun", os.R_OK), reason="there is no /dev/net/tun here"),
]


def ran(line: str) -> str:
    return subprocess.run(line.split(), capture_output=True, text=True, check=True).stdout


@pytest.fixture
def vm(tmp_path: Path) -> Iterator[Vm]:
    """One NIC on a tap with two queues, one on a tap that QEMU names itself, one without any interface."""
    ran(f"ip netns add {NETNS}")
    line = (
        f"ip netns exec {NETNS} {QEMU} -S -name {NAME} -machine q35 -accel tcg -m 64 -nodefaults -display none "
        f"-qmp unix:{tmp_path}/qmp,server=on,wait=off "
        "-netdev tap,id=n0,ifname=rftap0,script=no,downscript=no,queues=2 "
        "-device virtio-net-pci,id=net0,netdev=n0,mq=on,mac=52:54:00:00:00:01 "
        "-netdev tap,id=n1,script=no,downscript=no -device virtio-net-pci,id=net1,netdev=n1 "
        "-netdev user,id=n2 -device virtio-net-pci,id=net2,netdev=n2"
    )
    process = subprocess.Popen(line.split())
    try:
        for _ in range(600):
            assert process.poll() is None
            found = [vm for vm in find_vms() if vm.name == NAME]
            if found and (tmp_path / "qmp").exists() and "tap0" in ran(f"ip -n {NETNS} -br link"):
                break
            asyncio.run(asyncio.sleep(0.05))
        (only,) = found
        yield only
    finally:
        process.kill()
        process.wait()
        ran(f"ip netns del {NETNS}")


async def test_by_the_guests_name_the_netdevs_and_the_hosts(vm: Vm) -> None:
    before = ran(f"tc -n {NETNS} qdisc")
    async with open_tenant(vm) as tenant:
        wants = {"net.net0.egress": "20Mbit", "net.rftap0.ingress": "30Mbit", "net.n1.ingress": "40Mbit"}
        assert {result.verdict for result in await tenant.set(wants)} == {Verdict.APPLIED}
        seen = {o.key: o for o in await tenant.show() if o.key.startswith("net.")}
        assert seen["net.net0.egress"].actual == 20_000_000
        assert seen["net.net0.ingress"].actual == 30_000_000
        assert seen["net.net1.ingress"].actual == 40_000_000
        assert "slirp" in seen["net.net2.egress"].unavailable
        with pytest.raises(TenantError, match="slirp") as refused:
            await tenant.set({"net.net2.egress": "1Mbit"})
        assert "-netdev tap" in refused.value.hint
        queues = ran(f"tc -n {NETNS} class show dev rftap0")
        assert "class htb 7266:1 root" in queues
        assert "rate 30Mbit" in queues
        lifted = {"net.52:54:00:00:00:01.egress": None, "net.net0.ingress": None, "net.tap0.ingress": None}
        assert {result.verdict for result in await tenant.set(lifted)} == {Verdict.APPLIED}
    assert ran(f"tc -n {NETNS} qdisc") == before
    assert "rf-i" not in ran(f"ip -n {NETNS} -br link")


async def test_without_its_monitor_the_command_line_tells(vm: Vm) -> None:
    deaf = vm._replace(monitors=())
    async with open_tenant(deaf) as tenant:
        (result,) = await tenant.set({"net.net0.egress": "20Mbit"})
        assert result.verdict is Verdict.APPLIED
