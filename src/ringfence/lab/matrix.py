"""Every knob of a VM on one QEMU: each key is set on a real guest, read back, and judged by what became of it.

`CASES` is what is tried. A case holds when its changes were applied, QEMU holds what was asked, and where the
guest can show it, the guest shows it. Anything else is told with the reason that was given.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import NamedTuple

from ringfence.core.knob import Row, Value, Verdict
from ringfence.engine.api import OpenVm, open_vm
from ringfence.engine.changes import Result
from ringfence.errors import MonitorGoneError, RingfenceError
from ringfence.knobs import registry
from ringfence.lab import workloads
from ringfence.lab.guest import Guest, GuestSpec, up
from ringfence.lab.workloads import FioJob
from ringfence.qemu.discovery import find_vm
from ringfence.units import BYTES, KIB, MIB

_RATE_TOLERANCE = 0.1  # what three seconds of I/O can resolve
_MEMORY_TOLERANCE_BYTES = 16 * MIB
_BOOT_BYTES, _VIRTIO_MEM_BYTES = 512 * MIB, 512 * MIB
_VCPUS, _VCPUS_MAX = 2, 4
_OF_QEMU = ("memory", "vcpus", "disk")  # modules of knobs, below ringfence.knobs

Say = Callable[[str], None]
Values = Mapping[str, Value | None]
_NONE: Values = MappingProxyType({})


class Cell(NamedTuple):
    """What became of a case on one QEMU. :param reason: why it does not work, empty when it does."""

    works: bool
    reason: str = ""


class Vm(NamedTuple):
    """A case's guest, its monitor, and what the guest's kernel keeps of its boot memory for itself."""

    guest: Guest
    vm: OpenVm
    reserved_bytes: int


Proof = Callable[[Vm], Awaitable[str]]
"""Looks at the guest; gives what is wrong there, empty when nothing is."""


class Case(NamedTuple):
    """One change, and how it is judged.

    :param row: the key of the row it is about; `what` tells it from other cases of that row.
    :param key: whose value is to be what was asked; empty when the row can only be read.
    :param values: what is set; `before` what is set first, `after` what puts the guest back.
    :param shown_by: how the guest shows it, for the page.
    """

    row: str
    what: str
    key: str
    values: Values
    before: Values = _NONE
    after: Values = _NONE
    proof: Proof | None = None
    shown_by: str = "read back"


def rows() -> tuple[Row, ...]:
    """Every row that QEMU and the guest make true, in the order of the docs; not those of the host alone."""
    listed = [entry for entry in registry.LISTED if entry.module.partition(".")[0] in _OF_QEMU]
    return tuple(row for entry in listed for row in registry.load(entry).rows)


async def run(spec: GuestSpec, cases: Sequence[Case], say: Say) -> list[Cell]:
    """Try the cases in order, on one guest as long as it lives. It is gone afterwards.

    :param spec: the QEMU, the machine and the name; what the cases need is added.
    :raise RingfenceError: a guest cannot be had.
    """
    spec = spec._replace(
        memory_bytes=_BOOT_BYTES,
        virtio_mem_bytes=_VIRTIO_MEM_BYTES,
        vcpus=_VCPUS,
        vcpus_max=_VCPUS_MAX,
        disks_bytes=(64 * MIB, 64 * MIB),
        deflate_on_oom=False,  # so that the guest's own MemTotal follows the balloon
    )
    cells: list[Cell] = []
    while len(cells) < len(cases):
        async with _guest(spec, say) as vm:
            for case in cases[len(cells) :]:
                say(f"{case.row} {case.what}")
                cells.append(await _try(case, vm))
                if vm.guest.pid is None:
                    break
    return cells


@asynccontextmanager
async def _guest(spec: GuestSpec, say: Say) -> AsyncIterator[Vm]:
    guest = await up(spec, say=say)
    try:
        async with await open_vm(find_vm(f"pid:{guest.pid}")) as vm:
            reserved = _BOOT_BYTES - (await workloads.meminfo(guest))["MemTotal"]
            yield Vm(guest, vm, reserved)
    finally:
        await guest.down()


async def _try(case: Case, vm: Vm) -> Cell:
    try:
        if case.before:
            await vm.vm.set(case.before)
        wrong = _judged(await vm.vm.set(case.values)) if case.values else ""
        if not wrong and case.key:
            held = {o.key: o.actual for o in await vm.vm.show()}.get(case.key)
            wrong = "" if held == case.values[case.key] else f"it is {held} in place of {case.values[case.key]}"
        if not wrong and case.proof:
            wrong = await case.proof(vm)
        if case.after:
            await vm.vm.set(case.after)
    except MonitorGoneError as gone:
        wrong = f"QEMU ended: {gone.message}"
    except RingfenceError as error:
        wrong = error.message
    return Cell(not wrong, wrong)


def _judged(results: Sequence[Result]) -> str:
    """Why not all of it was applied, empty when it was."""
    bad = next((r for r in results if r.verdict is not Verdict.APPLIED), None)
    return f"{bad.verdict}{f' by {bad.by}' if bad.by else ''}: {bad.detail}" if bad else ""


def _guest_has(size_bytes: int) -> Proof:
    async def look(vm: Vm) -> str:
        seen = (await workloads.meminfo(vm.guest))["MemTotal"] + vm.reserved_bytes
        if abs(seen - size_bytes) <= _MEMORY_TOLERANCE_BYTES:
            return ""
        return f"the guest has {seen // MIB} MiB in place of {size_bytes // MIB}"

    return look


def _guest_runs(count: int) -> Proof:
    async def look(vm: Vm) -> str:
        online = len(await workloads.online_cpus(vm.guest))
        return "" if online == count else f"the guest has {online} CPUs online"

    return look


async def _threads_run(vm: Vm) -> str:
    shown = next(str(o.actual) for o in await vm.vm.show() if o.key == "vcpus.threads")
    there = await asyncio.to_thread(os.listdir, f"/proc/{vm.guest.pid}/task")
    wrong = {pair.partition("=")[2] for pair in shown.split(", ")} - set(there)
    return f"no threads: {wrong}" if wrong else ""


def _guest_does(job: FioJob, limit: float, of: str) -> Proof:
    """Up to three times, since a busy host disturbs what a guest without KVM measures."""

    async def look(vm: Vm) -> str:
        seen = 0.0
        for _ in range(3):
            seen = getattr(await workloads.fio(vm.guest, job._replace(iodepth=32, runtime_s=3)), of)
            if abs(seen - limit) <= _RATE_TOLERANCE * limit:
                return ""
        return f"the guest does {seen:.0f} in place of {limit:.0f}"

    return look


async def _ledgers_add_up(vm: Vm) -> str:
    seen = {o.key: int(o.actual or 0) for o in await vm.vm.show() if o.row.unit == BYTES and o.actual}
    total = seen["memory.boot"] + seen.get("memory.plugged", 0) - seen.get("memory.ballooned", 0)
    return "" if total == seen["memory.target"] else f"they add up to {total}"


async def _histogram_counts(vm: Vm) -> str:
    await workloads.fio(vm.guest, FioJob(runtime_s=1, ramp_s=0))
    notes = [note for o in await vm.vm.show() if o.key == "disk.vda.latency_histogram" for note in o.notes]
    return "" if any("p99" in note for note in notes) else "it counts nothing"


async def _both_share(vm: Vm) -> str:
    held = {o.key: o.actual for o in await vm.vm.show()}
    return "" if held["disk.vda.iops"] == held["disk.vdb.iops"] == 400 else "the disks have different limits"


def _memory() -> Iterator[Case]:
    def case(row: str, what: str, size: int, **values: Value) -> Case:
        named = {f"memory.{name.replace('_', '.')}": value for name, value in values.items()}
        wanted = {"memory.target": size * MIB, **named}
        return Case(row, what, "memory.target", wanted, {}, {}, _guest_has(size * MIB), "MemTotal in the guest")

    yield case("memory.target", "512 MiB to 384 MiB (balloon)", 384)
    yield case("memory.ramp", "384 MiB to 512 MiB at 128 MiB/s", 512, ramp=128 * MIB)
    yield case("memory.target.via", "512 MiB to 768 MiB by virtio-mem", 768, target_via="virtio-mem")
    yield case("memory.target.via", "768 MiB to 512 MiB by virtio-mem", 512, target_via="virtio-mem")
    yield case("memory.target.via", "512 MiB to 640 MiB by pc-dimm", 640, target_via="pc-dimm")
    for name in ("boot", "plugged", "ballooned"):
        yield Case(f"memory.{name}", "", "", {}, proof=_ledgers_add_up, shown_by="adds up to memory.target")
    yield case("memory.target.via", "640 MiB to 512 MiB by pc-dimm", 512, target_via="pc-dimm")
    for leaf, what, value in (("deflate_on_oom", "on", "on"), ("free_page_reporting", "off", None)):
        yield Case(f"memory.{leaf}", what, f"memory.{leaf}", {f"memory.{leaf}": value})


def _vcpus() -> Iterator[Case]:
    for what, count in (("to 4", 4), ("to 1, those of -smp among them", 1), ("and back to 2", 2)):
        proof = _guest_runs(count)
        yield Case("vcpus", what, "vcpus", {"vcpus": count}, {}, {}, proof, "CPUs online in the guest")
        if count == _VCPUS_MAX:
            yield Case("vcpus.threads", "", "", {}, proof=_threads_run, shown_by="/proc/PID/task")


def _limits(part: str, prefix: str) -> Iterator[Case]:
    """Each limit of a disk or pool, by the rule of what must stand with it."""
    for kind, size in (("iops", 400), ("bps", 4 * MIB)):
        for direction in ("", ".read", ".write"):
            rate = f"{part}.{kind}{direction}"
            row, off = f"{prefix}.{kind}{direction}", {rate: None}
            burst, length = {f"{rate}.burst": 3 * size}, {f"{rate}.burst_length": 5}
            yield Case(row, "", rate, {rate: size}, {}, off)
            yield Case(f"{row}.burst", "", f"{rate}.burst", {rate: size, **burst}, {}, off)
            values = {rate: size, **burst, **length}
            yield Case(f"{row}.burst_length", "", f"{rate}.burst_length", values, {}, off)
    values = {f"{part}.iops": 400, f"{part}.io_size": 8 * KIB}
    yield Case(f"{prefix}.io_size", "", f"{part}.io_size", values, {}, {f"{part}.iops": None})


def _disks() -> Iterator[Case]:
    reads = {
        "iops": (FioJob("randread"), 400, "read_iops"),
        "bps": (FioJob("read", 64 * KIB), 4 * MIB, "read_bytes_per_s"),
    }
    for case in _limits("disk.vda", "disk.<disk>"):
        measured = reads.get(case.row.removeprefix("disk.<disk>."))
        if measured:
            yield case._replace(proof=_guest_does(*measured), shown_by="fio in the guest, 3 s")
        else:
            yield case
    group: Values = {"disk.vda.iops": 400, "disk.vda.group": "matrix"}
    join: Values = {"disk.vdb.group": "matrix"}
    alone: Values = {"disk.vdb.iops": None, "disk.vda.iops": None}
    yield Case("disk.<disk>.group", "", "disk.vdb.group", join, group, alone, _both_share, "both have its limits")
    pooled: Values = {"pool.matrix.iops": 300, "disk.vda.pool": "matrix"}
    proof = _guest_does(FioJob("randread"), 300, "read_iops")
    off: Values = {"disk.vda.pool": None}
    yield Case("disk.<disk>.pool", "", "disk.vda.pool", pooled, {}, off, proof, "fio in the guest, 3 s")
    histogram_on: Values = {"disk.vda.latency_histogram": "on"}
    lift: Values = {"disk.vda.latency_histogram": None}
    key = "disk.<disk>.latency_histogram"
    yield Case(key, "", "disk.vda.latency_histogram", histogram_on, {}, lift, _histogram_counts, "it counts")


CASES: tuple[Case, ...] = (*_memory(), *_vcpus(), *_disks(), *_limits("pool.matrix", "pool.<pool>"))
"""At least one for every row."""


def name_of(suite: str, machine: str) -> str:
    """A name for the guest of one column."""
    return f"matrix-{suite}-{machine}-{os.getpid()}"
