"""net.<if>: what a real guest sends and receives through its tap device, measured on the host, within 5 %."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from ringfence.core.knob import Verdict
from ringfence.engine.api import OpenVm, open_tenant
from ringfence.lab.guest import Guest, GuestSpec, up
from ringfence.qemu.discovery import find_vm
from ringfence.units import MIB

NETNS = f"rfnet-g{os.getpid()}"
GOODPUT = 0.9564
"""Of a rate in Ethernet frames, what TCP's payload is with an MTU of 1500 and timestamps: 1448 of 1514."""
_SERVER = """
import socket, sys, time
way = sys.argv[1]
server = socket.create_server(("10.98.0.1", 5301))
print("ready", flush=True)
peer, _ = server.accept()
if way == "ingress":
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
done, start, end = 0, None, time.monotonic() + 5
while (now := time.monotonic()) < end:
    if start is None and now > end - 3.5:
        start, done = now, 0
    done += len(peer.recv(65536)) if way == "egress" else peer.send(bytes(16384))
print(done * 8 / (now - start) / 1e6)
"""

pytestmark = [
    pytest.mark.measures,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(not os.access("/dev/net/tun", os.R_OK), reason="there is no /dev/net/tun here"),
]


def ran(line: str) -> str:
    return subprocess.run(line.split(), capture_output=True, text=True, check=True).stdout


@pytest_asyncio.fixture
async def guest(tmp_path: Path) -> AsyncIterator[Guest]:
    """A guest whose QEMU, and whose tap, are in a namespace of their own."""
    ran(f"ip netns add {NETNS}")
    qemu = tmp_path / "qemu-in-a-namespace"
    qemu.write_text(f'#!/bin/sh\nexec ip netns exec {NETNS} {shutil.which("qemu-system-x86_64")} "$@"\n')
    qemu.chmod(0o755)
    extra = (
        *("-netdev", "tap,id=n0,ifname=rftapg,script=no,downscript=no"),
        *("-device", "virtio-net-pci,id=net0,netdev=n0"),
    )
    started: Guest | None = None
    try:
        started = await up(GuestSpec(f"rfnet{os.getpid()}", memory_bytes=256 * MIB, qemu=str(qemu), extra=extra))
        for line in ("addr add 10.98.0.1/24 dev rftapg", "link set rftapg up"):
            ran(f"ip -n {NETNS} {line}")
        assert (await started.run("ip addr add 10.98.0.2/24 dev eth0 && ip link set eth0 up")).exit_code == 0
        yield started
    finally:
        if started is not None:
            await started.down()
        ran(f"ip netns del {NETNS}")


async def megabits(guest: Guest, way: str) -> float:
    """TCP payload in Mbit/s, from 1.5 s after the start on."""
    line = ["ip", "netns", "exec", NETNS, sys.executable, "-c", _SERVER, way]
    server = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220 - it is waited for below
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        pipe = "dd if=/dev/zero bs=64k | nc 10.98.0.1 5301" if way == "egress" else "nc 10.98.0.1 5301 >/dev/null"
        await guest.run(f"timeout 8 sh -c '{pipe}' 2>/dev/null; true", timeout_s=60)
        return float(server.stdout.readline())
    finally:
        server.kill()
        server.communicate()


async def holds(guest: Guest, way: str, limit_mbit: float) -> bool:
    """Within 5 %; a measurement on a host that had no CPU for the guest, or for the clock, is made again."""
    for _ in range(3):
        if await megabits(guest, way) == pytest.approx(GOODPUT * limit_mbit, rel=0.05):
            return True
    return False


async def test_a_guest_is_held_both_ways_and_changed_while_it_runs(guest: Guest) -> None:
    vm: OpenVm
    async with open_tenant(find_vm(guest.name)) as vm:
        for egress, ingress in ((4, 10), (8, 5)):
            wants = {"net.net0.egress": f"{egress}Mbit", "net.net0.ingress": f"{ingress}Mbit"}
            assert {result.verdict for result in await vm.set(wants)} == {Verdict.APPLIED}
            assert await holds(guest, "egress", egress)
            assert await holds(guest, "ingress", ingress)
        await vm.set({"net.net0.egress": None, "net.net0.ingress": None})
        assert await megabits(guest, "egress") > 1.1 * 8
