"""A VM whose only monitor libvirtd holds, with a real libvirtd."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringfence.engine.api import open_vm
from ringfence.errors import MonitorGoneError
from ringfence.qemu import discovery
from ringfence.qemu.launch import find_qemu
from ringfence.qemu.libvirt import LibvirtSession
from ringfence.qemu.libvirt_events import LibvirtListener

URI = "qemu:///system"
PATIENCE_S = 60
_CREATE_S = 300  # libvirt may want to find out first what this QEMU can: a minute without KVM

DOMAIN = """<domain type='qemu'><name>{name}</name><memory unit='MiB'>128</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type></os>
<devices><emulator>{qemu}</emulator><memballoon model='virtio'/>
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{disk}'/>
<target dev='vda' bus='virtio'/></disk></devices></domain>"""


def virsh(*words: str, timeout_s: float = PATIENCE_S) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["virsh", "-q", "-c", URI, *words], capture_output=True, text=True, timeout=timeout_s, check=False
    )


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that libvirt's QEMU, another user, gets to; pytest's own are private."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def domain(folder: Path) -> Iterator[str]:
    qemu = find_qemu() or pytest.skip("no QEMU here")
    try:
        answered = virsh("version")
    except FileNotFoundError:
        pytest.skip("libvirt is not installed: no virsh")
    if answered.returncode:
        pytest.skip(f"libvirt does not answer: {answered.stderr.strip()}")
    name = f"rf-test-{os.getpid()}"
    disk = folder / "disk.raw"
    disk.write_bytes(bytes(1 << 20))
    (folder / "domain.xml").write_text(DOMAIN.format(name=name, qemu=qemu, disk=disk))
    created = virsh("create", str(folder / "domain.xml"), "--paused", timeout_s=_CREATE_S)
    if created.returncode:
        pytest.skip(f"libvirt cannot start a domain here: {created.stderr.strip()}")
    yield name
    virsh("destroy", name)


async def drain(listener: LibvirtListener) -> None:
    while await listener.get(PATIENCE_S):
        pass


def ringfence(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ringfence", *words],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def test_limits_of_a_vm_that_libvirt_holds(domain: str) -> None:
    ran = ringfence("set", domain, "disk.vda.iops=25", "disk.vda.bps=1MiB")
    assert ran.returncode == 0, ran.stderr
    tuned = virsh("blkdeviotune", domain, "vda").stdout.replace(":", " ").split()
    for name, value in (("total_iops_sec", 25), ("total_bytes_sec", 1 << 20)):
        assert tuned[tuned.index(name) + 1] == str(value)
    shown = ringfence("show", domain)
    assert shown.returncode == 0, shown.stderr
    assert "25" in next(line for line in shown.stdout.splitlines() if line.startswith("disk.vda.iops"))


def test_monitor_of_a_vm_that_libvirt_holds(domain: str) -> None:
    assert ringfence("monitor", domain, "info balloon").stdout == "balloon: actual=128\n"
    assert '"status": "paused"' in ringfence("monitor", domain, "--qmp", "cont", "stop", "query-status").stdout
    refused = ringfence("monitor", domain, "--qmp", "nosuch")
    assert (refused.returncode, refused.stdout) == (4, "")
    # libvirtd still has its monitor.
    assert "paused" in virsh("domstate", domain).stdout


async def test_events_and_then_the_end(domain: str) -> None:
    vm = await open_vm(discovery.find_vm(domain))
    async with vm:
        assert isinstance(vm.edges.session, LibvirtSession)
        with vm.edges.session.listen(["RESUME"]) as listener:
            event = None
            while event is None:  # virsh has to tell libvirtd first that it listens
                await vm.edges.session.execute_all([("cont", None), ("stop", None)])
                event = await listener.get(0.2)
            assert event["event"] == "RESUME"
            await asyncio.to_thread(virsh, "destroy", domain)
            with pytest.raises(MonitorGoneError):
                await drain(listener)
            with pytest.raises(MonitorGoneError):
                await vm.edges.session.execute("query-status")
