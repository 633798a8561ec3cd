"""VMs whose only monitor a manager uses in its manner: Proxmox in bursts, Incus without end. The QEMUs are real.

The command lines are as recorded from the managers; what they do on the socket is done here in their place.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from ringfence.qemu.launch import find_qemu

PATIENCE_S = 60
MACHINE = "-S -nodefaults -no-user-config -display none -machine q35 -accel tcg -m 128"
DISK = "-drive if=none,id=d,driver=null-co -device virtio-blk-pci,id=disk,drive=d"


@contextmanager
def running(words: str, socket_path: Path) -> Iterator[None]:
    qemu = find_qemu() or pytest.skip("no QEMU here")
    process = subprocess.Popen([qemu, *words.split()])
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not socket_path.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield
    finally:
        process.kill()
        process.wait()


def ringfence(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ringfence", *words]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE_S, check=False, stdin=subprocess.DEVNULL
    )


def burst(path: Path) -> object:
    """What Proxmox's status daemon does every few seconds: connect, ask, leave."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(path))
        lines = client.makefile("rw")
        lines.readline()
        for command in ("qmp_capabilities", "query-blockstats"):
            lines.write(json.dumps({"execute": command}) + "\n")
            lines.flush()
            answer = json.loads(lines.readline())
        return answer["return"]


@contextmanager
def again_and_again(work: Callable[[], object]) -> Iterator[list[object]]:
    """In a thread beside; gives what came of it, errors among them."""
    came: list[object] = []
    end = threading.Event()

    def loop() -> None:
        while not end.is_set():
            try:
                came.append(work())
            except OSError as error:
                came.append(error)
            time.sleep(0.02)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield came
    finally:
        end.set()
        thread.join()


def test_beside_proxmox_both_come_to_their_turn(tmp_path: Path) -> None:
    folder = tmp_path / "qemu-server"
    folder.mkdir()
    qmp, name = folder / "100.qmp", f"pve-{os.getpid()}"
    monitor = f"-chardev socket,id=qmp,path={qmp},server=on,wait=off -mon chardev=qmp,mode=control"
    with running(f"-name {name},debug-threads=on {monitor} {MACHINE} {DISK}", qmp):
        with again_and_again(lambda: burst(qmp)) as came:
            for iops in range(100, 104):
                ran = ringfence("set", name, f"disk.disk.iops={iops}")
                assert ran.returncode == 0, ran.stderr
        assert len(came) > 3
        assert not [error for error in came if isinstance(error, OSError)]
        vms = json.loads(ringfence("ps", "-o", "json").stdout)
        assert [vm["manager"] for vm in vms if vm["name"] == name] == ["proxmox"]


def test_incus_keeps_its_monitor_and_a_second_one_lets_us_in(tmp_path: Path) -> None:
    folder = tmp_path / "incus" / "u1"
    folder.mkdir(parents=True)
    own, ours, name = folder / "qemu.monitor", folder / "ringfence.qmp", f"incus-{os.getpid()}"
    (folder / "qemu.conf").write_text(
        f'[chardev "monitor"]\nbackend = "socket"\npath = "{own}"\nserver = "on"\nwait = "off"\n\n'
        '[mon]\nchardev = "monitor"\nmode = "control"\n'
    )
    words = f"-name {name} -readconfig {folder}/qemu.conf -pidfile {folder}/qemu.pid {MACHINE} {DISK}"
    with running(words, own), socket.socket(socket.AF_UNIX) as incusd:
        incusd.connect(str(own))
        incusd.recv(1)
        start = time.monotonic()
        ran = ringfence("set", name, "disk.disk.iops=100")
        assert ran.returncode == 4
        assert f"incus config set {name} raw.qemu=" in ran.stderr
        assert f"(pid {os.getpid()})" in ran.stderr
        # Nobody was queued behind it, to be served when it reconnects.
        incusd.close()
        with suppress(BlockingIOError), socket.socket(socket.AF_UNIX) as anew:
            anew.settimeout(5)
            anew.connect(str(own))
            assert anew.recv(1) == b"{"
        assert time.monotonic() - start < PATIENCE_S
    own.unlink(missing_ok=True)
    with running(f"{words} -qmp unix:{ours},server=on,wait=off", ours), socket.socket(socket.AF_UNIX) as incusd:
        incusd.connect(str(own))
        incusd.recv(1)
        assert ringfence("set", name, "disk.disk.iops=100").returncode == 0
