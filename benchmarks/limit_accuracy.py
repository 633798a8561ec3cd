"""How well a disk limit holds: ringfence, libvirt and the host's cgroup, on the same disk of the same guest.

Each limit is set three ways, one after the other: by ringfence (`disk.vda.iops`, `disk.vda.bps`), by
`virsh blkdeviotune`, and by the kernel for the backing device (`blkio.throttle.*` in cgroup v1, `io.max` in v2).
Each time fio reads in the guest, and QEMU's counters are read on the host over the same seconds. The table says by
how much each differs from the limit.

libvirt starts the guest, on a loop device of its own, with QMP sockets for ringfence and for the counters.
The cgroup is a group of our own, made for this and removed at the end. Needs root, losetup, libvirt and the lab's
guest image (made on first use). Writes benchmarks/results/limit_accuracy.md, with --quick only prints.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from control_plane import libvirt_daemon, virsh

import ringfence
from ringfence.core.model import Address
from ringfence.lab.image import Image, ensure_image
from ringfence.lab.workloads import FioJob, FioResult, parse_fio
from ringfence.qemu.agent import AgentSession
from ringfence.qemu.session import Session
from ringfence.units import KIB, MIB, format_value

NAME = "ringfence-accuracy"
RESULTS = Path(__file__).parent / "results" / "limit_accuracy.md"
IOPS = (50, 100, 500, 1000, 2000, 5000)
BPS = tuple(rate * MIB for rate in (1, 5, 20, 50, 100, 200))
QUICK_IOPS, QUICK_BPS = (100, 1000), (5 * MIB,)
CGROUPS = Path("/sys/fs/cgroup")
EDGE_S = 0.3  # at both ends of fio's window the counters are not taken: the two clocks are not one

DOMAIN = """
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name><memory unit='MiB'>512</memory><vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{image.kernel}</kernel><initrd>{image.initrd}</initrd>
    <cmdline>console=ttyS0 quiet panic=-1</cmdline>
  </os>
  <cpu mode='maximum'/>
  <features><acpi/></features>
  <devices>
    <emulator>{qemu}</emulator>
    <disk type='block' device='disk'>
      <driver name='qemu' type='raw' cache='none'/><source dev='{device}'/><target dev='vda' bus='virtio'/>
    </disk>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/><source file='{image.tools}'/><target dev='vdb' bus='virtio'/>
      <readonly/><serial>ringfence-tools</serial>
    </disk>
    <memballoon model='none'/>
  </devices>
  <seclabel type='static' model='dac' relabel='no'><label>+0:+0</label></seclabel>
  <qemu:commandline>
    <qemu:arg value='-qmp'/><qemu:arg value='unix:{folder}/qmp,server=on,wait=off'/>
    <qemu:arg value='-qmp'/><qemu:arg value='unix:{folder}/qmp2,server=on,wait=off'/>
    <qemu:arg value='-chardev'/><qemu:arg value='socket,id=rf,path={folder}/agent,server=on,wait=off'/>
    <qemu:arg value='-device'/><qemu:arg value='virtio-serial-pci,id=rf,addr=0x1d'/>
    <qemu:arg value='-device'/>
    <qemu:arg value='virtserialport,bus=rf.0,chardev=rf,name=org.qemu.guest_agent.0'/>
  </qemu:commandline>
</domain>
"""


class Limit(NamedTuple):
    """:ivar leaf: `iops` or `bps`."""

    leaf: str
    value: int

    def job(self, runtime_s: float) -> FioJob:
        """A load that asks for more than the limit, in requests small enough to count well.

        fio waits for what is under way at its end, and counts the time: so the queue is short where that is long.
        """
        if self.leaf == "iops":
            depth = 4 if self.value < 1000 else 32
            return FioJob(rw="randread", block_size_bytes=4 * KIB, iodepth=depth, runtime_s=runtime_s)
        size = 16 * KIB if self.value < 5 * MIB else 64 * KIB if self.value < 50 * MIB else 256 * KIB
        return FioJob(rw="read", block_size_bytes=size, iodepth=4, runtime_s=runtime_s)

    def of(self, result: FioResult) -> float:
        return result.read_iops if self.leaf == "iops" else result.read_bytes_per_s

    def __str__(self) -> str:
        return f"{self.value} IOPS" if self.leaf == "iops" else format_value("bytes/s", self.value)


class Seen(NamedTuple):
    """What a limit came to, in IOPS or bytes/s, in the guest and by QEMU's counters."""

    guest: float
    host: float


class Bench:
    """The running guest, with the three ways to limit its first disk."""

    def __init__(self, folder: Path, device: str, group: Group, vm: ringfence.OpenVm, counters: Session) -> None:
        self.folder, self.device, self.group, self.vm, self.counters = folder, device, group, vm, counters

    async def measure(self, limit: Limit, runtime_s: float) -> Seen:
        """Run fio, and read the counters while it runs."""
        job = limit.job(runtime_s)
        running = asyncio.create_task(self._fio(job))
        samples: list[tuple[float, int]] = []
        while not running.done():
            samples.append((time.monotonic(), await self._count(limit)))
            await asyncio.sleep(0.1)
        try:
            seen = limit.of(parse_fio(await running))
        except ringfence.RingfenceError as error:
            last = max(when for (when, count), (_, before) in pairwise(reversed(samples)) if count > before)
            raise SystemExit(f"{error}; the last request finished {samples[-1][0] - last:.0f} s ago") from error
        moving = next(i for i, (_, count) in enumerate(samples) if count > samples[0][1])
        start = samples[moving - 1][0] + job.ramp_s + EDGE_S
        window = [sample for sample in samples if start <= sample[0] <= start + runtime_s - 2 * EDGE_S]
        (first_s, first), (last_s, last) = window[0], window[-1]
        return Seen(seen, (last - first) / (last_s - first_s))

    async def _fio(self, job: FioJob) -> str:
        async with await AgentSession.open(Address(str(self.folder / "agent")), timeout_s=10) as agent:
            done = await agent.run(job.arguments(), timeout_s=job.runtime_s + 120)
        if done.exit_code:
            raise SystemExit(f"fio in the guest: {done.stderr.decode()}")
        return done.stdout.decode()

    async def _count(self, limit: Limit) -> int:
        entries = await self.counters.execute("query-blockstats")
        disk = next(e for e in entries if "virtio-disk0" in e["qdev"])
        return int(disk["stats"]["rd_operations" if limit.leaf == "iops" else "rd_bytes"])

    async def by_ringfence(self, limit: Limit, *, lift: bool) -> None:
        (result,) = await self.vm.set({f"disk.vda.{limit.leaf}": None if lift else limit.value})
        if result.verdict != "applied":
            raise SystemExit(f"not applied: {result}")

    async def by_libvirt(self, limit: Limit, *, lift: bool) -> None:
        option = "--total-iops-sec" if limit.leaf == "iops" else "--total-bytes-sec"
        value = "0" if lift else str(limit.value)
        await asyncio.to_thread(virsh, "blkdeviotune", NAME, "vda", option, value, "--live")

    async def by_cgroup(self, limit: Limit, *, lift: bool) -> None:
        self.group.limit(self.device, limit, lift=lift)


class Group:
    """A cgroup of our own that can limit a block device: of v1, else of v2."""

    def __init__(self) -> None:
        self.v1 = (CGROUPS / "blkio/blkio.throttle.read_bps_device").exists()
        self.path = (CGROUPS / "blkio" if self.v1 else CGROUPS) / f"{NAME}-{os.getpid()}"
        self.mechanism = "blkio.throttle (v1)" if self.v1 else "io.max (v2)"

    @contextlib.contextmanager
    def holding(self, pid: int) -> Iterator[None]:
        """The process in the group; back where it was, and the group gone, at the end."""
        root = CGROUPS / "blkio" if self.v1 else CGROUPS
        controller = ":blkio:" if self.v1 else "0::"
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        home = root / next(line for line in lines if controller in line).split(":", 2)[2].strip("/")
        self.path.mkdir()
        try:
            (self.path / "cgroup.procs").write_text(str(pid))
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                (home / "cgroup.procs").write_text(str(pid))
            self.path.rmdir()

    def limit(self, device: str, limit: Limit, *, lift: bool) -> None:
        number = os.stat(device).st_rdev
        name = f"{os.major(number)}:{os.minor(number)}"
        if self.v1:
            file = self.path / f"blkio.throttle.read_{limit.leaf}_device"
            file.write_text(f"{name} {0 if lift else limit.value}")
        else:
            (self.path / "io.max").write_text(f"{name} r{limit.leaf}={'max' if lift else limit.value}")


@contextlib.contextmanager
def loop_device(folder: Path) -> Iterator[str]:
    file = folder / "disk.raw"
    file.write_bytes(b"\0")
    subprocess.run(["fallocate", "-l", str(512 * MIB), str(file)], check=True)
    command = ["losetup", "--find", "--show", "--direct-io=on", str(file)]
    device = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@contextlib.contextmanager
def domain(folder: Path, device: str, image: Image) -> Iterator[None]:
    folder.chmod(0o755)
    xml = folder / "domain.xml"
    qemu = shutil.which("qemu-system-x86_64")
    xml.write_text(DOMAIN.format(name=NAME, qemu=qemu, folder=folder, device=device, image=image))
    virsh("create", str(xml))
    try:
        yield
    finally:
        virsh("destroy", NAME)


async def booted(folder: Path) -> None:
    for _ in range(120):
        with contextlib.suppress(ringfence.RingfenceError):
            async with await AgentSession.open(Address(str(folder / "agent")), timeout_s=1):
                return
        await asyncio.sleep(0.5)
    raise SystemExit("the guest did not boot within two minutes")


Setter = Callable[..., Awaitable[None]]


async def compare(folder: Path, device: str, limits: list[Limit], runtime_s: float, results: Path | None) -> None:
    group = Group()
    await booted(folder)
    async with ringfence.connect() as host:
        vm = await host.vm(NAME)
        counters = await Session.open(Address(str(folder / "qmp2")), timeout_s=10)
        version = (await counters.execute("query-version"))["qemu"]
        with group.holding(vm.info.pid):
            bench = Bench(folder, device, group, vm, counters)
            ways: dict[str, Setter] = {
                "ringfence": bench.by_ringfence,
                "virsh blkdeviotune": bench.by_libvirt,
                group.mechanism: bench.by_cgroup,
            }
            lines = [_header(version, vm.info.accel, runtime_s), *_table_head(ways)]
            print("\n".join(lines), flush=True)
            for limit in limits:
                lines.append(await _row(bench, ways, limit, runtime_s))
                print(lines[-1], flush=True)
                if results:
                    await asyncio.to_thread(results.write_text, "\n".join(lines) + "\n")
        await counters.close()


async def _row(bench: Bench, ways: dict[str, Setter], limit: Limit, runtime_s: float) -> str:
    free = (await bench.measure(limit, min(runtime_s, 3))).guest
    cells = [str(limit), f"{free:.0f} IOPS" if limit.leaf == "iops" else format_value("bytes/s", int(free))]
    for set_limit in ways.values():
        if free < 1.1 * limit.value:
            cells += ["not reached", "not reached"]
            continue
        await set_limit(limit, lift=False)
        seen = await bench.measure(limit, runtime_s)
        await set_limit(limit, lift=True)
        cells += [f"{100 * (rate / limit.value - 1):+.1f} %" for rate in seen]
    return f"| {' | '.join(cells)} |"


def _header(version: dict[str, int], accel: str, runtime_s: float) -> str:
    number = ".".join(str(version[part]) for part in ("major", "minor", "micro"))
    return f"""# How well a disk limit holds

{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, QEMU {number}, accel {accel}, {os.cpu_count()} cores, load average
{os.getloadavg()[0]:.1f} at the start; {runtime_s:g} s a cell, one run. By `benchmarks/limit_accuracy.py`.

Deviation of the rate from the limit: `guest` as fio in the guest measures it, `host` by QEMU's counters
(`query-blockstats`) over the same seconds. `unlimited` is what the same load gets without any limit; where that is
less than a tenth above the limit, the guest cannot show whether the limit holds (`not reached`).
"""


def _table_head(ways: dict[str, Setter]) -> list[str]:
    names = [f"{way}, {side}" for way in ways for side in ("guest", "host")]
    return [f"| limit | unlimited | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three limits, 4 s each, result only printed")
    options = parser.parse_args()
    for program in ("virsh", "losetup", "qemu-system-x86_64"):
        if shutil.which(program) is None:
            raise SystemExit(f"{program} is missing")
    iops, bps, runtime_s = (QUICK_IOPS, QUICK_BPS, 4.0) if options.quick else (IOPS, BPS, 6.0)
    limits = [*(Limit("iops", rate) for rate in iops), *(Limit("bps", rate) for rate in bps)]
    image = ensure_image(print)
    with tempfile.TemporaryDirectory(prefix="rf-accuracy-") as text:
        folder = Path(text)
        with libvirt_daemon(folder), loop_device(folder) as device, domain(folder, device, image):
            RESULTS.parent.mkdir(exist_ok=True)
            asyncio.run(compare(folder, device, limits, runtime_s, None if options.quick else RESULTS))


if __name__ == "__main__":
    main()
