"""What changing one disk limit costs, beside libvirt, on the same VM, in one run.

Two ratios of medians, each with its promise:

    process   `ringfence set VM disk.vda.iops=N`          /  `virsh blkdeviotune`     at most 5
    session   `vm.set({"disk.vda.iops": N})`, open session /  libvirt's setBlockIoTune  at most 0.5

One paused QEMU started by libvirt serves both: it has a second QMP socket for ringfence. The two sides take
turns, so that a machine whose speed drifts bears on both. What else the machine does can only add to a time, and
adds more to who is woken more often: the ratio of the first deciles is printed beside it. Needs root, libvirt and
its Python binding (`scripts/benchmark` installs them). Exit status 1 when a promise is not kept.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import ringfence

NAME = "ringfence-bench"
URI = "qemu:///system"
RINGFENCE = str(Path(sys.executable).parent / "ringfence")
SYSTEM_PYTHON = "/usr/bin/python3"  # Debian builds the libvirt binding for this one only

DOMAIN = """
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    <emulator>{qemu}</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/><source file='{disk}'/><target dev='vda' bus='virtio'/>
    </disk>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-qmp'/><qemu:arg value='unix:{socket},server=on,wait=off'/>
  </qemu:commandline>
</domain>
"""

LIBVIRT_LOOP = """
import json, libvirt, sys, time
domain = libvirt.open(sys.argv[1]).lookupByName(sys.argv[2])
for line in sys.stdin:
    first, count = json.loads(line)
    times = []
    for number in range(first, first + count):
        start = time.perf_counter()
        domain.setBlockIoTune("vda", {"total_iops_sec": number}, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        times.append(time.perf_counter() - start)
    print(json.dumps(times), flush=True)
"""


def virsh(*arguments: str) -> None:
    subprocess.run(["virsh", "-q", "-c", URI, *arguments], check=True, stdout=subprocess.DEVNULL)


@contextmanager
def libvirt_daemon(folder: Path) -> Iterator[None]:
    """Libvirt's daemons: those that run already, else our own until the end."""
    if subprocess.run(["virsh", "-q", "-c", URI, "list"], capture_output=True, check=False).returncode == 0:
        yield
        return
    log = (folder / "libvirtd.log").open("w")
    daemons = [subprocess.Popen([name], stdout=log, stderr=log) for name in ("virtlogd", "libvirtd")]
    try:
        for _ in range(100):
            time.sleep(0.1)
            if (
                subprocess.run(["virsh", "-q", "-c", URI, "list"], capture_output=True, check=False).returncode
                == 0
            ):
                break
        yield
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(timeout=20)
        log.close()


@contextmanager
def domain(folder: Path) -> Iterator[None]:
    folder.chmod(0o711)
    shared = folder / "shared"  # libvirt's QEMU runs as a user of its own, and makes its socket here
    shared.mkdir()
    shared.chmod(0o1777)
    disk = shared / "disk.raw"
    disk.touch()
    os.truncate(disk, 64 * 1024 * 1024)
    disk.chmod(0o666)
    qemu = shutil.which("qemu-system-x86_64")
    xml = folder / "domain.xml"
    xml.write_text(DOMAIN.format(name=NAME, qemu=qemu, disk=disk, socket=shared / "qmp.sock"))
    virsh("create", str(xml), "--paused")
    try:
        yield
    finally:
        virsh("destroy", NAME)


def timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def run_ringfence(iops: int) -> None:
    subprocess.run([RINGFENCE, "set", NAME, f"disk.vda.iops={iops}"], check=True, stdout=subprocess.DEVNULL)


def run_virsh(iops: int) -> None:
    virsh("blkdeviotune", NAME, "vda", "--total-iops-sec", str(iops), "--live")


def compare_processes(runs: int) -> tuple[list[float], list[float]]:
    run_ringfence(1)
    run_virsh(2)
    ours, theirs = [], []
    for n in range(runs):
        sides = [
            (ours, lambda n=n: run_ringfence(100 + n)),
            (theirs, lambda n=n: run_virsh(1000 + n)),
        ]
        for times, side in sides if n % 2 else reversed(sides):
            times.append(timed(side))
    return ours, theirs


def bare_start_ms(runs: int = 10) -> float:
    """What of a process is the interpreter's own."""
    bare = [sys.executable, "-c", "pass"]
    return statistics.median(timed(lambda: subprocess.run(bare, check=True)) for _ in range(runs)) * 1e3


async def our_calls(vm: ringfence.OpenVm, first: int, count: int) -> list[float]:
    times = []
    for number in range(first, first + count):
        start = time.perf_counter()
        (result,) = await vm.set({"disk.vda.iops": number})
        times.append(time.perf_counter() - start)
        if result.verdict != "applied":
            raise SystemExit(f"not applied: {result}")
    return times


class LibvirtLoop:
    """Libvirt's side of the session comparison, in the Python that its binding is built for."""

    def __init__(self) -> None:
        command = [SYSTEM_PYTHON, "-c", LIBVIRT_LOOP, URI, NAME]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def calls(self, first: int, count: int) -> list[float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([first, count]) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


async def compare_sessions(theirs: LibvirtLoop, rounds: int, calls: int) -> tuple[list[float], list[float]]:
    our_times, their_times = [], []
    async with ringfence.connect() as host:
        vm = await host.vm(NAME)
        await our_calls(vm, 1, calls)
        theirs.calls(1, calls)
        for n in range(rounds):
            our_times += await our_calls(vm, 1000 + n * calls, calls)
            their_times += theirs.calls(100_000 + n * calls, calls)
    return our_times, their_times


def report(name: str, ours: list[float], theirs: list[float], promise: float) -> dict[str, object]:
    our_ms, their_ms = (statistics.median(times) * 1e3 for times in (ours, theirs))
    our_low, their_low = (statistics.quantiles(times, n=10)[0] for times in (ours, theirs))
    return {
        "what": name,
        "ringfence_ms": round(our_ms, 3),
        "libvirt_ms": round(their_ms, 3),
        "ratio": round(our_ms / their_ms, 3),
        "ratio_of_first_deciles": round(our_low / their_low, 3),
        "promise": promise,
        "kept": our_ms <= promise * their_ms,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40, help="whole processes on each side")
    parser.add_argument("--rounds", type=int, default=30, help="rounds of 25 calls on each side")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if shutil.which("virsh") is None:
        raise SystemExit("virsh is missing: run scripts/benchmark, which installs it")
    with tempfile.TemporaryDirectory(prefix="rf-bench-") as text:
        folder = Path(text)
        with libvirt_daemon(folder), domain(folder):
            theirs = LibvirtLoop()
            rows = [
                report("process", *compare_processes(options.runs), promise=5.0),
                report("session", *asyncio.run(compare_sessions(theirs, options.rounds, 25)), promise=0.5),
            ]
            theirs.close()
    rows[0]["python_alone_ms"] = round(bare_start_ms(), 3)
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        for row in rows:
            print("  ".join(f"{key}={value}" for key, value in row.items()))
    return 0 if all(row["kept"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
