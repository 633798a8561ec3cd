"""What is run inside a lab guest to see whether a limit holds there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ringfence.errors import GuestError
from ringfence.units import MIB

if TYPE_CHECKING:
    from ringfence.lab.guest import Guest
    from ringfence.qemu.agent import AgentRun

_SLACK_S = 60.0  # for fio to be read from its disk and to end, on a machine that is very busy


class FioJob(NamedTuple):
    """One fio job on a disk of the guest.

    :param rw: fio's word: `randread`, `randwrite`, `read`, `write`, `randrw`, ...
    :param runtime_s: how long is measured.
    :param ramp_s: how long it runs before that. QEMU's throttle starts with a full bucket, a tenth of a second's
        worth, and fio with an empty queue: with a second of ramp what is measured is the steady state.
    :param direct: bypass the guest's page cache.
    """

    rw: str = "randread"
    block_size_bytes: int = 4096
    iodepth: int = 4
    runtime_s: float = 10.0
    ramp_s: float = 1.0
    device: str = "/dev/vda"
    direct: bool = True

    def arguments(self) -> list[str]:
        """The command line."""
        return [
            *("fio", "--name=ringfence", "--output-format=json", "--ioengine=libaio", "--time_based=1"),
            *(f"--filename={self.device}", f"--rw={self.rw}", f"--bs={self.block_size_bytes}"),
            *(f"--iodepth={self.iodepth}", f"--direct={int(self.direct)}"),
            *(f"--runtime={round(self.runtime_s * 1000)}ms", f"--ramp_time={round(self.ramp_s * 1000)}ms"),
        ]


class FioResult(NamedTuple):
    """What fio measured.

    :param p50_us: median completion latency; with reads and writes, that of the slower kind. `p99_us` likewise.
    """

    read_iops: float
    write_iops: float
    read_bytes_per_s: float
    write_bytes_per_s: float
    p50_us: float
    p99_us: float


async def fio(guest: Guest, job: FioJob) -> FioResult:
    """Run `job` in `guest`.

    :raise GuestError: fio failed, did not end, or the guest does not answer.
    """
    argv = job.arguments()
    done = _succeeded(argv, await guest.run(argv, timeout_s=job.ramp_s + job.runtime_s + _SLACK_S))
    return parse_fio(done.stdout.decode(errors="replace"))


def parse_fio(text: str) -> FioResult:
    """Read the first job of fio's JSON, which notes and warnings may precede.

    :raise GuestError: there is none in it.
    """
    try:
        measured = json.loads(text[text.index("{") :])["jobs"][0]
        read, write = measured["read"], measured["write"]
        return FioResult(
            read_iops=float(read["iops"]),
            write_iops=float(write["iops"]),
            read_bytes_per_s=float(read["bw_bytes"]),
            write_bytes_per_s=float(write["bw_bytes"]),
            p50_us=max(_percentile_us(read, 50), _percentile_us(write, 50)),
            p99_us=max(_percentile_us(read, 99), _percentile_us(write, 99)),
        )
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise GuestError(f"fio did not answer with its JSON: {text[:200]!r}", hint="run fio by hand") from error


async def meminfo(guest: Guest) -> dict[str, int]:
    """The guest's /proc/meminfo in bytes: `MemTotal`, `MemAvailable`, ...; counts of pages are left as they are.

    :raise GuestError: the guest does not answer.
    """
    argv = ["cat", "/proc/meminfo"]
    done = _succeeded(argv, await guest.run(argv))
    found = {}
    for line in done.stdout.decode().splitlines():
        name, _, value = line.partition(":")
        number, *unit = value.split()
        found[name] = int(number) * (1024 if unit == ["kB"] else 1)
    return found


async def online_cpus(guest: Guest) -> tuple[int, ...]:
    """The numbers of the CPUs that the guest's kernel uses, in order.

    :raise GuestError: the guest does not answer.
    """
    return await _cpus(guest, "online")


async def possible_cpus(guest: Guest) -> tuple[int, ...]:
    """The numbers of the CPUs that the guest's kernel made room for when it booted; it takes no others.

    Newer ones (6.18, and 6.12 of the same age) make none for CPUs to be plugged unless they know the hypervisor
    that they run under; they know no TCG (arch/x86/kernel/acpi/boot.c, `acpi_is_processor_usable`).

    :raise GuestError: the guest does not answer.
    """
    return await _cpus(guest, "possible")


async def _cpus(guest: Guest, kind: str) -> tuple[int, ...]:
    argv = ["cat", f"/sys/devices/system/cpu/{kind}"]
    return parse_cpu_list(_succeeded(argv, await guest.run(argv)).stdout.decode())


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """Read the kernel's `0-2,4`."""
    cpus: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            cpus += range(int(first), int(last or first) + 1)
    return tuple(cpus)


async def touch_memory(guest: Guest, size_bytes: int) -> None:
    """Fill memory in the guest and free it again, so that the host has given pages for it.

    What the guest has never touched costs the host nothing, and a balloon over it gives nothing back.

    :raise GuestError: the guest has not that much to spare, or does not answer.
    """
    count = size_bytes // MIB
    fill = f"dd if=/dev/zero of=/dev/shm/touched bs=1M count={count}"
    argv = ["sh", "-c", f"{fill}; code=$?; rm /dev/shm/touched; exit $code"]
    _succeeded(argv, await guest.run(argv, timeout_s=120.0))


def _succeeded(argv: Sequence[str], done: AgentRun) -> AgentRun:
    if done.exit_code != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise GuestError(f"{argv[0]} in the guest ended with {done.exit_code}: {lines[-1]}", hint="run it by hand")
    return done


def _percentile_us(direction: Mapping[str, Any], percent: int) -> float:
    """Of the completion latencies; 0 when nothing was done in this direction."""
    return float(direction["clat_ns"].get("percentile", {}).get(f"{percent}.000000", 0)) / 1000
