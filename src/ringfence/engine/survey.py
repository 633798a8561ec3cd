"""Every VM of this host at a glance, as plain data: the command line's word, and QEMU's own where it can be had.

A monitor that another client holds is left alone: to queue for it would be to take it from its owner when that
one next reconnects. The others are held for one burst of questions each. libvirtd is asked to pass questions on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from ringfence.engine import figures
from ringfence.engine.doors import open_session, open_through_libvirtd
from ringfence.engine.driver import Edges, observe
from ringfence.engine.figures import Figures
from ringfence.errors import MonitorBusyError, MonitorGoneError, MonitorTimeoutError, RingfenceError
from ringfence.host.socket_table import BUSY, FREE, UNREACHABLE, SocketTable
from ringfence.qemu.managers import LIBVIRT, PLAIN, is_own_socket

if TYPE_CHECKING:
    from ringfence.core.model import Monitor, Vm
    from ringfence.qemu.door import QmpDoor

_AT_ONCE = 100
"""Sessions at a time: each takes a file descriptor or two, of which a process usually has 1024."""

_THROUGH_LIBVIRTD = 4
"""VMs at a time: each question to one is a process, virsh, of some 18 ms."""

_LIBVIRTD_FOR = 5
"""Times the time-out of a VM, after which no further VM is asked through libvirtd."""

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

    A VM of libvirt that has no other way in is asked through libvirtd, a few at a time, which takes long enough to
    have an end: who has not had its turn after five times `timeout_s` is not asked.

    :param table: the sockets as they were before any of these sessions.
    :param timeout_s: for getting in, and again for all answers of a VM: enough for one that is starved of CPU.
    """
    last_turn_s = asyncio.get_running_loop().time() + _LIBVIRTD_FOR * timeout_s
    gates = _Gates(
        table, timeout_s, asyncio.Semaphore(_AT_ONCE), asyncio.Semaphore(_THROUGH_LIBVIRTD), last_turn_s
    )
    return list(await asyncio.gather(*(_entry(vm, gates) for vm in vms)))


class _Gates(NamedTuple):
    """What the VMs of one survey share.

    :param last_turn_s: when no VM is asked through libvirtd any more, by the loop's clock.
    """

    table: SocketTable
    timeout_s: float
    sessions: asyncio.Semaphore
    libvirtd: asyncio.Semaphore
    last_turn_s: float


async def _entry(vm: Vm, gates: _Gates) -> VmEntry:
    monitors = [_monitor_entry(monitor, gates.table, vm.pid) for monitor in vm.monitors]
    open_to_us = [
        monitor
        for monitor, seen in zip(vm.monitors, monitors, strict=True)
        if monitor.kind == "qmp" and monitor.address and seen["state"] not in (BUSY, UNREACHABLE)
    ]
    libvirts = vm.manager == LIBVIRT and bool(vm.uuid)
    own = [monitor for monitor in open_to_us if libvirts and monitor.address and is_own_socket(monitor.address)]
    beside = [monitor for monitor in open_to_us if monitor not in own]
    found: Figures | None = None
    problem: str | None = None
    if beside:
        # Whoever manages it, here it is asked on these sockets or not at all.
        alone = vm._replace(monitors=tuple(beside), manager=PLAIN if libvirts else vm.manager)
        try:
            async with gates.sessions:
                found = await _ask(open_session(alone, timeout_s=gates.timeout_s), monitors, gates.timeout_s)
        except RingfenceError as error:
            _blame(error, beside, monitors)
            problem = error.message
    if not found and libvirts:
        try:
            found, problem = await _through_libvirtd(vm, own, monitors, gates), None
        except RingfenceError as error:
            _blame(error, own, monitors)
            problem = error.message if open_to_us else f"{_why_not_asked(monitors)}; {error.message}"
    if not found and not problem:
        problem = _why_not_asked(monitors)
    return _vm_entry(vm, found, monitors, problem)


async def _through_libvirtd(
    vm: Vm, own: Sequence[Monitor], monitors: Sequence[MonitorEntry], gates: _Gates
) -> Figures:
    """:raise MonitorTimeoutError: its turn has not come in time."""
    try:
        async with asyncio.timeout_at(gates.last_turn_s):
            await gates.libvirtd.acquire()
    except TimeoutError:
        raise MonitorTimeoutError("not asked through libvirtd: the VMs before it took all of the time") from None
    try:
        addresses = [monitor.address for monitor in own if monitor.address]
        opening = open_through_libvirtd(vm, addresses, timeout_s=gates.timeout_s)
        return await _ask(opening, monitors, gates.timeout_s)
    finally:
        gates.libvirtd.release()


async def _ask(opening: Awaitable[QmpDoor], monitors: Sequence[MonitorEntry], timeout_s: float) -> Figures:
    session = await opening
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


def _blame(error: RingfenceError, tried: Sequence[Monitor], monitors: Sequence[MonitorEntry]) -> None:
    """What a failed attempt tells of the sockets that were tried."""
    busy, gone = isinstance(error, MonitorBusyError), isinstance(error, MonitorGoneError)
    state = BUSY if busy else UNREACHABLE if gone else None
    for monitor in monitors:
        if state and len(tried) == 1 and monitor["address"] == str(tried[0].address):
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
