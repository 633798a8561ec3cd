"""Every VM of this host at a glance, as plain data: the command line's word, and QEMU's own where it can be had.

A monitor that another client holds is left alone: to queue for it would be to take it from its owner when that
one next reconnects. The others are held for one burst of questions each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict

from ringfence.engine import figures
from ringfence.engine.doors import open_session
from ringfence.engine.driver import Edges, observe
from ringfence.engine.figures import Figures
from ringfence.errors import MonitorBusyError, MonitorGoneError, RingfenceError
from ringfence.host.socket_table import BUSY, FREE, UNREACHABLE, SocketTable

if TYPE_CHECKING:
    from ringfence.core.model import Monitor, Vm

_AT_ONCE = 100
"""Sessions at a time: each takes a file descriptor or two, of which a process usually has 1024."""

FROM_QEMU, FROM_COMMAND_LINE = "qmp", "command line"


class Holder(TypedDict):
    """The process that a monitor is serving."""

    pid: int
    name: str


class MonitorEntry(TypedDict):
    """:ivar state: `free`, `busy` or `unreachable`; None when that cannot be told, or there is no socket."""

    kind: str
    address: str | None
    where: str
    state: str | None
    holder: Holder | None


class GroupEntry(TypedDict):
    """A throttle filter's group; `limits` as in DiskEntry."""

    group: str
    limits: Mapping[str, int]


class DiskEntry(TypedDict):
    """:ivar limits: by leaf of the disk knob, in base units, those in force; None when QEMU was not asked."""

    name: str
    file: str
    format: str
    limits: Mapping[str, int] | None
    filters: list[GroupEntry]


class Count(TypedDict):
    """vCPUs now, and at most."""

    now: int
    max: int


class Size(TypedDict):
    """Memory now (less the balloon), and at most (`-m maxmem=`)."""

    now_bytes: int
    max_bytes: int


class VmEntry(TypedDict):
    """One VM. :ivar source: `qmp`, or `command line`: then the sizes are those it was started with.

    :ivar problem: why QEMU could not be asked.
    """

    kind: str
    name: str
    pid: int
    uuid: str
    manager: str
    machine: str
    accel: str
    vcpus: Count
    memory: Size
    disks: list[DiskEntry]
    nics: list[dict[str, str]]
    monitors: list[MonitorEntry]
    source: str
    problem: str | None


async def survey(vms: Sequence[Vm], table: SocketTable, *, timeout_s: float = 2.0) -> list[VmEntry]:
    """Ask every VM at once what it has now. Never raises for a VM that cannot be asked; changes nothing.

    :param table: the sockets as they were before any of these sessions.
    :param timeout_s: for getting in, and again for all answers of a VM: enough for one that is starved of CPU.
    """
    gate = asyncio.Semaphore(_AT_ONCE)

    async def entry(vm: Vm) -> VmEntry:
        async with gate:
            return await _entry(vm, table, timeout_s)

    return list(await asyncio.gather(*(entry(vm) for vm in vms)))


async def _entry(vm: Vm, table: SocketTable, timeout_s: float) -> VmEntry:
    monitors = [_monitor_entry(monitor, table, vm.pid) for monitor in vm.monitors]
    open_to_us = tuple(
        monitor
        for monitor, seen in zip(vm.monitors, monitors, strict=True)
        if monitor.kind == "qmp" and monitor.address and seen["state"] not in (BUSY, UNREACHABLE)
    )
    found: Figures | None = None
    problem: str | None = None
    if open_to_us:
        try:
            found = await _ask(vm._replace(monitors=open_to_us), monitors, timeout_s)
        except RingfenceError as error:
            _blame(error, [str(monitor.address) for monitor in open_to_us], monitors)
            problem = error.message
    if not found and not problem:
        problem = _why_not_asked(monitors)
    return _vm_entry(vm, found, monitors, problem)


async def _ask(vm: Vm, monitors: Sequence[MonitorEntry], timeout_s: float) -> Figures:
    session = await open_session(vm, timeout_s=timeout_s)
    try:
        for monitor in monitors:
            if monitor["address"] == str(session.address):
                monitor["state"] = FREE
        return await observe(figures.observe(), Edges(session, None, 0, answer_timeout_s=timeout_s))
    finally:
        await session.close()


def _monitor_entry(monitor: Monitor, table: SocketTable, pid: int) -> MonitorEntry:
    state = table.state(monitor.address, pid) if monitor.address else None
    holder = table.holder(monitor.address, pid) if monitor.address and state == BUSY else None
    return {
        "kind": monitor.kind,
        "address": str(monitor.address) if monitor.address else None,
        "where": monitor.where,
        "state": state,
        "holder": {"pid": holder[0], "name": holder[1]} if holder else None,
    }


def _blame(error: RingfenceError, addresses: Sequence[str], monitors: Sequence[MonitorEntry]) -> None:
    """What a failed attempt tells of the sockets that were tried."""
    busy, gone = isinstance(error, MonitorBusyError), isinstance(error, MonitorGoneError)
    state = BUSY if busy else UNREACHABLE if gone else None
    for monitor in monitors:
        if state and len(addresses) == 1 and monitor["address"] in addresses:
            monitor["state"] = state


def _why_not_asked(monitors: Sequence[MonitorEntry]) -> str:
    qmp = [monitor for monitor in monitors if monitor["kind"] == "qmp" and monitor["address"]]
    if not qmp:
        return "no QMP socket"
    for monitor in qmp:
        if monitor["state"] == BUSY:
            return f"monitor busy: held by {holder_text(monitor)}"
    return f"nobody listens on {qmp[0]['address']}"


def holder_text(monitor: MonitorEntry) -> str:
    """Who holds a busy monitor, for people."""
    holder = monitor["holder"]
    return f"{holder['name']} (pid {holder['pid']})" if holder else "another client"


def _vm_entry(vm: Vm, found: Figures | None, monitors: list[MonitorEntry], problem: str | None) -> VmEntry:
    return {
        "kind": "vm",
        "name": vm.name,
        "pid": vm.pid,
        "uuid": vm.uuid,
        "manager": vm.manager,
        "machine": vm.machine,
        "accel": vm.accel,
        "vcpus": {
            "now": found.vcpus if found else vm.vcpus,
            "max": (found.vcpus_max if found else None) or vm.vcpus_max,
        },
        "memory": {
            "now_bytes": found.memory_bytes if found else vm.memory_bytes,
            "max_bytes": max(vm.memory_max_bytes, found.memory_bytes if found else 0),
        },
        "disks": _asked_disks(found) if found else _started_disks(vm),
        "nics": [nic._asdict() for nic in vm.nics],
        "monitors": monitors,
        "source": FROM_QEMU if found else FROM_COMMAND_LINE,
        "problem": problem,
    }


def _asked_disks(found: Figures) -> list[DiskEntry]:
    return [
        {
            "name": disk.name,
            "file": disk.file,
            "format": disk.format,
            "limits": dict(disk.limits),
            "filters": [{"group": group.name, "limits": dict(group.limits)} for group in disk.groups],
        }
        for disk in found.disks
    ]


def _started_disks(vm: Vm) -> list[DiskEntry]:
    return [
        {"name": disk.name, "file": disk.file, "format": disk.format, "limits": None, "filters": []}
        for disk in vm.drives
    ]
