"""The main job, end to end: limits of a real guest changed while it runs, and measured inside it.

One guest, one knob after the other. Every figure is measured; a row holds when the change was applied and what was
measured is as near to what was asked as SPECIFICATION.md promises.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

from ringfence import units
from ringfence.core.knob import Value
from ringfence.engine.api import OpenVm, open_vm
from ringfence.engine.changes import Result
from ringfence.lab import workloads
from ringfence.lab.guest import Guest, GuestSpec, up
from ringfence.lab.workloads import FioJob
from ringfence.qemu.discovery import find_vm
from ringfence.units import GIB, KIB, MIB

_RATE_TOLERANCE_PCT = 5.0  # what ten seconds of I/O can resolve
_MEMORY_TOLERANCE_PCT = 2.0
_VCPUS = 3

Say = Callable[[str], None]


class Row(NamedTuple):
    """One change and its proof.

    :param measured: in the guest, in `unit`; `evidence` says how, and what it was.
    :param tolerance_pct: how far `measured` may be from `asked`.
    """

    knob: str
    before: Value | None
    asked: Value | None
    actual: Value | None
    measured: float
    unit: str
    verdict: str
    took_ms: float
    evidence: str
    tolerance_pct: float

    @property
    def error_pct(self) -> float:
        """How far what was measured is from what was asked, in percent of that."""
        asked = float(self.asked or 0)
        return 100 * abs(self.measured - asked) / asked

    @property
    def holds(self) -> bool:
        """Whether it was applied, QEMU says so, and the measurement agrees."""
        return self.verdict == "applied" and self.actual == self.asked and self.error_pct <= self.tolerance_pct


class Demo(NamedTuple):
    """What the demo found.

    :param qemu: its version; `accel` what the guest ran under.
    :param left_out: what this guest cannot show, and why.
    """

    rows: tuple[Row, ...]
    qemu: str
    accel: str
    left_out: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether every row holds."""
        return bool(self.rows) and all(row.holds for row in self.rows)

    def as_data(self) -> dict[str, object]:
        """The demo as one JSON document."""
        rows = [
            {
                "knob": row.knob,
                "before": row.before,
                "asked": row.asked,
                "actual": row.actual,
                "measured": round(row.measured, 3),
                "unit": row.unit,
                "error_pct": round(row.error_pct, 3),
                "verdict": row.verdict,
                "took_ms": round(row.took_ms, 2),
                "evidence": row.evidence,
                "holds": row.holds,
            }
            for row in self.rows
        ]
        left_out = list(self.left_out)
        return {"rows": rows, "left_out": left_out, "qemu": self.qemu, "accel": self.accel, "ok": self.ok}


async def run(say: Say, *, accel: str = "auto") -> Demo:
    """Boot a guest, run every row, take the guest down again, also after an error.

    :param say: takes one line before each step.
    :raise RingfenceError: the guest cannot be had, or cannot be talked to.
    """
    async with _guest(say, accel) as (guest, vm):
        version = (await vm.edges.session.execute("query-version"))["qemu"]
        rows = [
            await _memory(guest, vm, say),
            await _iops(guest, vm, say),
            await _bps(guest, vm, say),
        ]
        left_out = []
        if len(await workloads.possible_cpus(guest)) < _VCPUS:
            left_out.append(f"vcpus: this guest's kernel takes no further ones under {guest.accel}")
        else:
            rows += [await _vcpus(guest, vm, count, say) for count in (_VCPUS, 1)]
        text = ".".join(str(version[part]) for part in ("major", "minor", "micro"))
        return Demo(tuple(rows), text, guest.accel, tuple(left_out))


@asynccontextmanager
async def _guest(say: Say, accel: str) -> AsyncIterator[tuple[Guest, OpenVm]]:
    # Without deflate-on-oom the guest's own MemTotal follows the balloon: a plainer proof than a counter.
    spec = GuestSpec(
        name=f"demo-{os.getpid()}",
        memory_bytes=GIB,
        disks_bytes=(GIB,),
        accel=accel,
        deflate_on_oom=False,
    )
    guest = await up(spec, say=say)
    try:
        async with await open_vm(find_vm(f"pid:{guest.pid}")) as vm:
            yield guest, vm
    finally:
        await guest.down()


async def _set(vm: OpenVm, key: str, value: Value | None) -> Result:
    return (await vm.set({key: value}))[0]


def _row(result: Result, measured: float, evidence: str, tolerance_pct: float) -> Row:
    return Row(
        knob=result.key,
        before=result.before,
        asked=result.asked,
        actual=result.target,
        measured=measured,
        unit=result.row.unit,
        verdict=str(result.verdict),
        took_ms=result.took_ms,
        evidence=evidence,
        tolerance_pct=tolerance_pct,
    )


async def _memory(guest: Guest, vm: OpenVm, say: Say) -> Row:
    say("memory.target: 1 GiB to 512 MiB; first the guest touches its memory, so that the host can get some back")
    await workloads.touch_memory(guest, 600 * MIB)
    total_before = (await workloads.meminfo(guest))["MemTotal"]
    rss_before = vm.edges.rss_bytes() or 0
    result = await _set(vm, "memory.target", 512 * MIB)
    total_after = (await workloads.meminfo(guest))["MemTotal"]
    rss_after = vm.edges.rss_bytes() or 0
    # The kernel keeps some memory for itself from the start, so what counts is by how much its total fell.
    size = int(result.before or 0) - (total_before - total_after)
    total, rss = (
        f"{a // MIB} -> {b // MIB} MiB" for a, b in ((total_before, total_after), (rss_before, rss_after))
    )
    evidence = f"MemTotal {total}, host RSS {rss}"
    return _row(result, size, evidence, _MEMORY_TOLERANCE_PCT)


async def _iops(guest: Guest, vm: OpenVm, say: Say) -> Row:
    say("disk.vda.iops: unlimited to 100; 10 s of 4 KiB random reads, direct")
    result = await _set(vm, "disk.vda.iops", 100)
    seen = await workloads.fio(guest, FioJob(rw="randread", block_size_bytes=4 * KIB, runtime_s=10))
    await _set(vm, "disk.vda.iops", None)
    evidence = f"{seen.read_iops:.1f} IOPS (4 KiB random read, direct, 10 s)"
    return _row(result, seen.read_iops, evidence, _RATE_TOLERANCE_PCT)


async def _bps(guest: Guest, vm: OpenVm, say: Say) -> Row:
    say("disk.vda.bps: unlimited to 5 MiB/s; 10 s of 64 KiB sequential reads, direct")
    result = await _set(vm, "disk.vda.bps", 5 * MIB)
    seen = await workloads.fio(guest, FioJob(rw="read", block_size_bytes=64 * KIB, runtime_s=10))
    await _set(vm, "disk.vda.bps", None)
    evidence = f"{seen.read_bytes_per_s / MIB:.2f} MiB/s (64 KiB sequential read, direct, 10 s)"
    return _row(result, seen.read_bytes_per_s, evidence, _RATE_TOLERANCE_PCT)


async def _vcpus(guest: Guest, vm: OpenVm, count: int, say: Say) -> Row:
    say(f"vcpus: to {count}")
    result = await _set(vm, "vcpus", count)
    online = await workloads.online_cpus(guest)
    evidence = f"{len(online)} online in the guest ({', '.join(str(cpu) for cpu in online)})"
    return _row(result, len(online), evidence, 0.0)


def shown(row: Row, value: Value | None) -> str:
    """A value of the row as people read it."""
    return "unlimited" if value is None else units.format_value(row.unit, value)
