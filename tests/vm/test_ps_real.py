"""`ringfence ps` over real QEMU processes: paused, without a guest, one of them with its only socket taken."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ringfence.core.model import Address
from ringfence.errors import UsageError
from ringfence.qemu import discovery

QEMU = shutil.which("qemu-system-x86_64")
pytestmark = pytest.mark.skipif(QEMU is None, reason="needs qemu-system-x86_64")
MIB = 1 << 20

LINES = {
    "limited": (
        "-name ps-twin -M q35 -m 64,slots=2,maxmem=256M -smp 1,maxcpus=3 -device virtio-balloon-pci "
        "-qmp unix:first.qmp,server=on,wait=off -monitor unix:first.hmp,server=on,wait=off "
        "-drive driver=null-co,if=virtio,id=d1,throttling.iops-total=123 "
        "-object throttle-group,id=tg0,x-bps-read=1048576 -blockdev driver=null-co,node-name=n2 "
        "-blockdev driver=throttle,throttle-group=tg0,file=n2,node-name=t2 -device virtio-blk-pci,id=d2,drive=t2 "
        "-netdev user,id=n0 -device virtio-net-pci,netdev=n0,id=net0"
    ),
    "twin": "-name ps-twin -M pc -smp 2 -qmp tcp:127.0.0.1:{port},server=on,wait=off -drive driver=null-co",
    "held": "-name ps-held -M q35 -m 96 -qmp unix:held.qmp,server=on,wait=off -drive driver=null-co,if=virtio",
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def vms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """Three QEMU processes by what they are for; a client is served on the socket of `held`."""
    folder = tmp_path_factory.mktemp("vms")
    port = free_port()
    started: dict[str, subprocess.Popen[bytes]] = {}
    usual = "-S -accel tcg -display none -nodefaults"
    try:
        for name, line in LINES.items():
            argv = [str(QEMU), *usual.split(), *line.format(port=port).split()]
            started[name] = subprocess.Popen(argv, cwd=folder, stderr=subprocess.PIPE)
        with greeted(folder / "held.qmp"):
            greeted(folder / "first.qmp").close()
            greeted(("127.0.0.1", port)).close()
            yield {name: process.pid for name, process in started.items()}
    finally:
        for process in started.values():
            process.kill()
            process.communicate()


def greeted(where: Path | tuple[str, int]) -> socket.socket:
    """A connection on which QEMU has sent its greeting."""
    deadline = time.monotonic() + 20
    while True:
        client = socket.socket(socket.AF_UNIX if isinstance(where, Path) else socket.AF_INET)
        client.settimeout(5)
        try:
            client.connect(str(where) if isinstance(where, Path) else where)
            assert b"QMP" in client.recv(4096)
        except OSError:
            client.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return client


def run_ps(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ringfence", "ps", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )


@pytest.fixture(scope="module")
def listed(vms: dict[str, int]) -> dict[str, dict[str, Any]]:
    by_pid = {entry["pid"]: entry for entry in json.loads(run_ps("-o", "json").stdout)}
    return {name: by_pid[pid] for name, pid in vms.items()}


def test_what_qemu_says_of_a_free_vm(listed: dict[str, dict[str, Any]]) -> None:
    entry = listed["limited"]
    assert (entry["name"], entry["manager"], entry["source"], entry["problem"]) == (
        "ps-twin",
        "plain",
        "qmp",
        None,
    )
    assert entry["vcpus"] == {"now": 1, "max": 3}
    assert entry["memory"] == {"now_bytes": 64 * MIB, "max_bytes": 256 * MIB}
    disks = {disk["name"]: (disk["limits"], disk["filters"]) for disk in entry["disks"]}
    assert sorted(disks) == ["vda", "vdb"]
    assert ({"iops": 123}, []) in disks.values()
    assert ({}, [{"group": "tg0", "limits": {"bps.read": MIB}}]) in disks.values()
    assert [(nic["id"], nic["backend"]) for nic in entry["nics"]] == [("net0", "user")]
    assert [(monitor["kind"], monitor["state"]) for monitor in entry["monitors"]] == [
        ("qmp", "free"),
        ("hmp", "free"),
    ]
    assert all(monitor["address"].startswith("/") for monitor in entry["monitors"])


def test_a_monitor_on_tcp(listed: dict[str, dict[str, Any]]) -> None:
    entry = listed["twin"]
    assert (entry["name"], entry["source"], entry["monitors"][0]["state"]) == ("ps-twin", "qmp", "free")
    assert entry["vcpus"] == {"now": 2, "max": 2}
    assert [disk["limits"] for disk in entry["disks"]] == [{}]


def test_a_vm_whose_only_socket_is_held_is_listed_as_started(listed: dict[str, dict[str, Any]]) -> None:
    entry = listed["held"]
    assert entry["source"] == "command line"
    assert entry["monitors"][0]["state"] == "busy"
    assert entry["monitors"][0]["holder"]["pid"] == os.getpid()
    assert f"(pid {os.getpid()})" in entry["problem"]
    assert entry["memory"]["now_bytes"] == 96 * MIB
    assert [(disk["name"], disk["limits"]) for disk in entry["disks"]] == [("virtio0", None)]


def test_the_table(vms: dict[str, int]) -> None:
    ran = run_ps()
    for pid in vms.values():
        assert f" {pid} " in ran.stdout
    assert " iops=123\n" in ran.stdout
    assert f"monitor busy: held by {Path('/proc/self/comm').read_text().strip()} (pid {os.getpid()})" in ran.stdout


def test_after_a_look_the_sockets_are_free_again(listed: dict[str, dict[str, Any]]) -> None:
    for name in ("limited", "twin"):
        address = listed[name]["monitors"][0]["address"]
        host, _, port = address.rpartition(":")
        greeted((host, int(port)) if host else Path(address)).close()


def test_two_of_one_name_are_told_apart(vms: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="2 VMs are called 'ps-twin'") as caught:
        discovery.find_vm("ps-twin")
    assert all(str(vms[name]) in caught.value.message for name in ("limited", "twin"))
    assert discovery.find_vm(f"pid:{vms['twin']}").vcpus == 2


def test_a_vm_is_found_by_its_socket(vms: dict[str, int], listed: dict[str, dict[str, Any]]) -> None:
    path = listed["held"]["monitors"][0]["address"]
    assert discovery.vm_at(Address(path)).pid == vms["held"]


def test_a_daemon_with_a_relative_socket_is_found(tmp_path: Path) -> None:
    argv = [
        str(QEMU), "-daemonize", "-S", "-display", "none", "-nodefaults", "-name", f"ps-{tmp_path.name}",
        "-pidfile", str(tmp_path / "pid"), "-qmp", "unix:own.qmp,server=on,wait=off",
    ]  # fmt: skip
    subprocess.run(argv, cwd=tmp_path, env={**os.environ, "PWD": str(tmp_path)}, check=True)
    pid = int((tmp_path / "pid").read_text())
    try:
        vm = discovery.find_vm(f"ps-{tmp_path.name}")
        assert (vm.pid, vm.qmp_addresses) == (pid, (Address(str(tmp_path / "own.qmp")),))
        greeted(tmp_path / "own.qmp").close()
    finally:
        os.kill(pid, 9)
