"""PURE: the places for CPUs that a VM has, what is in them, and what must not be done to them.

QEMU lists them in the order in which its firmware numbers CPUs, the last one first: thread by thread within a
core, core by core within a socket, socket by socket; each names its NUMA node. They are filled from the first on.
Sources: QEMU docs/system/cpu-hotplug.rst, qapi/acpi.json; ACPI 6.4, 6.3.5 _OST (status codes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from ringfence.core.answers import entries, fields, number, text
from ringfence.core.requests import Qmp, Steps
from ringfence.errors import MonitorRefusedError
from ringfence.knobs import guest_cpus
from ringfence.knobs.guest_cpus import GuestCpu

PERIPHERAL = "/machine/peripheral/"
OST_EJECT = 3
OST_IN_PROGRESS = 132
AGAIN = "-again"
"""Ends the id of a CPU plugged in spite of `PLUG_DANGER`: with it the slot's report of the eject is gone."""

_BEFORE_BOOT = ("prelaunch", "inmigrate")
_NOT_TAKEN_OVER = (
    "the guest has not taken over CPU hot-plug by ACPI (it still boots, or with this QEMU it never does), so "
    "it would not see a new CPU, and could not give one up"
)
PLUG_DANGER = (
    "a CPU was unplugged before, and without KVM QEMU may end at the next plug: it makes no more than maxcpus CPU "
    "threads in its life, and some versions crash at once"
)
_UNPLUG_DANGER = "its vCPUs share one thread (tcg,thread=single), and unplugging one ends QEMU"


class Slot(NamedTuple):
    """A place for a CPU.

    :param number: as ACPI counts it, from 0.
    :param vcpus: how many come with it.
    :param qom_path: empty while it is free.
    """

    number: int
    driver: str
    props: Mapping[str, Any]
    vcpus: int
    qom_path: str

    @property
    def device(self) -> str:
        """What device_del takes."""
        return self.qom_path.removeprefix(PERIPHERAL)

    @property
    def removable(self) -> bool:
        """Any CPU but the first can go, also those of -smp; the guest booted on that one."""
        return bool(self.qom_path) and self.number > 0


class State(NamedTuple):
    """:param guest: the CPUs that the guest knows, None when it cannot be asked.
    :param unplug_danger: why an unplug would end the VM or come to nothing, empty when it would not; `plug_danger`
        likewise.
    :param pending: numbers of the CPUs that the guest is giving up.
    :param tells: whether this machine passes on what the guest says to a plug.
    :param threads: vCPU by QEMU's number to its thread on the host.
    """

    slots: tuple[Slot, ...]
    guest: tuple[GuestCpu, ...] | None
    plug_danger: str
    unplug_danger: str
    pending: frozenset[int] = frozenset()
    tells: bool = True
    threads: Mapping[int, int] = MappingProxyType({})

    @property
    def online(self) -> int | None:
        """CPUs the guest has online, None when it cannot be asked."""
        return None if self.guest is None else sum(cpu.online for cpu in self.guest)

    @property
    def plugged(self) -> int:
        """vCPUs that QEMU has now."""
        return sum(slot.vcpus for slot in self.slots if slot.qom_path) if self.slots else len(self.threads)

    @property
    def maximum(self) -> int:
        """vCPUs with every slot filled."""
        return sum(slot.vcpus for slot in self.slots) if self.slots else self.plugged

    @property
    def fixed(self) -> int:
        """vCPUs that cannot be unplugged."""
        if not self.slots:
            return self.plugged
        return sum(slot.vcpus for slot in self.slots if slot.qom_path and not slot.removable)

    @property
    def least_online(self) -> int:
        """CPUs that the guest cannot take offline, one at least."""
        return max(1, sum(not cpu.can_offline for cpu in self.guest or ()))


def read() -> Steps[State]:
    """Read the slots, and ask the guest's agent for its CPUs. Changes nothing; raises MonitorError."""
    try:
        slots = yield from read_slots()
    except MonitorRefusedError:
        threads = _threads((yield Qmp("query-cpus-fast")))
        return State((), (yield from guest_cpus.read()), "", "", threads=threads)
    cpus, status, kvm = yield [Qmp("query-cpus-fast"), Qmp("query-status"), Qmp("query-kvm")]
    threads = _threads(cpus)
    reports = yield from _cpu_reports()
    plug, unplug = _dangers(
        slots,
        list(threads.values()),
        reports,
        runstate=text(fields(status)["status"]),
        kvm=bool(fields(kvm)["enabled"]),
    )
    guest = yield from guest_cpus.read()
    return State(slots, guest, plug, unplug, _pending(slots, reports), reports is not None, threads)


def read_slots() -> Steps[tuple[Slot, ...]]:
    """Every slot, first CPU first; QEMU lists them the other way round."""
    found = entries((yield Qmp("query-hotpluggable-cpus")))
    return tuple(
        Slot(
            place,
            text(slot["type"]),
            fields(slot["props"]),
            number(slot["vcpus-count"]),
            text(slot.get("qom-path", "")),
        )
        for place, slot in enumerate(reversed(found))
    )


def read_threads() -> Steps[Mapping[int, int]]:
    """Each vCPU's thread on the host, by QEMU's number of the vCPU."""
    return _threads((yield Qmp("query-cpus-fast")))


def _threads(cpus: object) -> dict[int, int]:
    listed = enumerate(entries(cpus))
    return {number(cpu.get("cpu-index", place)): number(cpu["thread-id"]) for place, cpu in listed}


def _cpu_reports() -> Steps[list[dict[str, Any]] | None]:
    """The guest's last ACPI word on each CPU slot; None where this machine has none."""
    try:
        reports = yield Qmp("query-acpi-ospm-status")
    except MonitorRefusedError:
        return None
    return [report for report in entries(reports) if report["slot-type"] == "CPU"]


def _pending(slots: Sequence[Slot], reports: Sequence[Mapping[str, Any]] | None) -> frozenset[int]:
    """CPUs that the guest was asked to give up, began to, and still has."""
    under_way = {
        text(report["slot"])
        for report in reports or ()
        if report["source"] == OST_EJECT and report["status"] == OST_IN_PROGRESS
    }
    return frozenset(slot.number for slot in slots if slot.qom_path and str(slot.number) in under_way)


def _dangers(
    slots: Sequence[Slot],
    threads: Sequence[int],
    reports: Sequence[Mapping[str, Any]] | None,
    *,
    runstate: str,
    kvm: bool,
) -> tuple[str, str]:
    """Why a plug, and an unplug, would end badly: told from what this QEMU does, whatever its version.

    Its ACPI reports list CPUs from when the guest has switched to the present way of CPU hot-plug; under Debian's
    QEMU 5.2 none ever did. Without KVM two more things count: a slot whose last word was a finished eject had a
    CPU unplugged (7.2 then crashed at the next plug, 10.0 and 11.1 at the one that made maxcpus + 1 in all); and
    vCPUs that share one thread cannot be ended one by one.
    """
    if reports is not None and not reports and runstate not in _BEFORE_BOOT:
        return _NOT_TAKEN_OVER, _NOT_TAKEN_OVER
    if kvm:
        return "", ""
    free = {str(slot.number) for slot in slots if not slot.qom_path}
    ejected = {text(report["slot"]) for report in reports or () if report["source"] == OST_EJECT} & free
    again = any(slot.qom_path.endswith(AGAIN) for slot in slots)
    single = len(threads) > 1 and len(set(threads)) == 1
    return PLUG_DANGER if ejected or again else "", _UNPLUG_DANGER if single else ""
