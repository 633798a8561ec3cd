"""PURE: which CPUs a tenant's threads run on: `cpu.pin`, `cpu.pin.<n>`, `cpu.emulator_pin`.

A VM's threads are pinned one by one (sched_setaffinity(2)), which needs no group and leaves other threads free; a
container as a whole by its cpuset. A thread that comes later has the CPUs of its maker: `join` mends that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ringfence import units
from ringfence.core.host import Placement, Task
from ringfence.core.knob import EVERY_TENANT, ONLY_VMS, Observation, Outcome, Part, Row, Wants
from ringfence.core.requests import Change, GetAffinity, ReadFile, SetAffinity, Steps, Systemd, WriteFile
from ringfence.core.requests import Placement as AskPlacement
from ringfence.errors import UsageError
from ringfence.knobs.host import bandwidth, cpulist, threads
from ringfence.knobs.host.carry import applied
from ringfence.knobs.host.home import Do, Home, home_of, why_not

ONLINE = "/sys/devices/system/cpu/online"
_ANY = "none"


def _row(key: str, mechanism: str, text: str) -> Row:
    return Row(key, units.NAME, mechanism, text, lifts=True, main=False, lifted=_ANY)


ALL = _row(
    "cpu.pin", "sched_setaffinity, cpuset.cpus", "CPUs of the host for its vCPUs, or for a container: 0-3,8"
)
EACH = _row("cpu.pin.<n>", "sched_setaffinity", "CPUs of the host that one vCPU runs on")
EMULATOR = _row("cpu.emulator_pin", "sched_setaffinity", "CPUs that all its other threads run on")


class State(NamedTuple):
    """:param masks: CPUs by thread; of a container none.
    :param home: a container's group, with `text` as its cpuset.
    :param online: the host's CPUs.
    """

    masks: Mapping[int, frozenset[int]]
    online: frozenset[int]
    reason: str = ""
    home: Home | None = None
    text: str = ""


class _Pins:
    """What they have in common."""

    prefix = "cpu"
    tenants = ONLY_VMS
    rows: tuple[Row, ...]
    events: tuple[str, ...] = ()

    def observe(self) -> Steps[tuple[Part, ...]]:
        """Read the CPUs of every thread concerned."""
        placement: Placement = yield AskPlacement()
        online = cpulist.parse((yield ReadFile(ONLINE)))
        if not placement.virtual:
            return (yield from self._container(placement, online))
        found = () if placement.absent else (yield from threads.tasks())
        return (yield from self._parts(found, online, placement.absent))

    def _container(self, placement: Placement, online: frozenset[int]) -> Steps[tuple[Part, ...]]:
        home = home_of(placement, "cpuset")
        text = (yield ReadFile(home.file("cpuset.cpus"))).strip() if home is not None else ""
        return (Part("", (), State({}, online, why_not(placement, "cpuset"), home, text)),)

    def _parts(self, found: tuple[Task, ...], online: frozenset[int], reason: str) -> Steps[tuple[Part, ...]]:
        raise NotImplementedError

    def observation(self, part: Part, row: Row) -> Observation:
        """The CPUs, as a list; None where they are all of the host's."""
        state: State = part.state
        key = row.key.replace("<n>", part.name)
        if state.home is not None:
            cpus = cpulist.parse(state.text)
            value = None if not cpus or cpus >= state.online else cpulist.shown(cpus)
            return Observation(row, key, value, value, unavailable=state.reason)
        masks = set(state.masks.values())
        together = frozenset().union(*masks) if masks else state.online
        value = None if together >= state.online else cpulist.shown(together)
        notes = ("its threads have different ones",) if len(masks) > 1 else ()
        return Observation(row, key, value, value, unavailable=state.reason, notes=notes)

    def check(self, part: Part, wants: Wants, *, force: bool) -> None:
        """Raise UsageError for no list of CPUs, or for ones that the host has not online."""
        row = self.rows[0]
        self.observation(part, row).refuse_unavailable()
        _wanted(part.state, wants)

    def changes(self, part: Part, wants: Wants) -> Sequence[Change]:
        """One request for each thread on other CPUs."""
        return bandwidth.requests(self._steps(part, wants))

    def apply(self, part: Part, wants: Wants, *, timeout_s: float, force: bool) -> Steps[Outcome]:
        """Pin, and read back."""
        leaf, want = next(iter(wants.items()))
        tidy = None if want is None else cpulist.shown(_wanted(part.state, wants))
        return (yield from applied(self, part, {leaf: tidy}, self._steps))

    def _steps(self, part: Part, wants: Wants) -> Sequence[Do]:
        state: State = part.state
        cpus = _wanted(state, wants)
        if state.home is not None:
            return _cpuset(state, state.home, cpus, lifted=next(iter(wants.values())) is None)
        return [
            Do(SetAffinity(tid, cpus), SetAffinity(tid, now)) for tid, now in state.masks.items() if now != cpus
        ]


def _wanted(state: State, wants: Wants) -> frozenset[int]:
    want = next(iter(wants.values()))
    if want is None:
        return state.online
    cpus = cpulist.parse(str(want))
    absent = cpus - state.online
    if not cpus or absent:
        lacking = f"CPU {cpulist.shown(absent)} is not online" if absent else "names no CPU"
        raise UsageError(f"{want!r}: {lacking}", hint=f"this host has CPU {cpulist.shown(state.online)}")
    return cpus


def _cpuset(state: State, home: Home, cpus: frozenset[int], *, lifted: bool) -> Sequence[Do]:
    if cpulist.parse(state.text) == cpus or (lifted and not state.text):
        return []
    if home.unit:
        old = cpulist.parse(state.text) or state.online
        change, undo = (
            Systemd("SetUnitProperties", home.unit, {"AllowedCPUs": cpulist.bits(which)}) for which in (cpus, old)
        )
        return [Do(change, undo)]
    path = home.file("cpuset.cpus")
    # An empty text would not be written at all; on v2 an empty line means those of the group above.
    text = "\n" if lifted and home.version == 2 else cpulist.shown(cpus)
    return [Do(WriteFile(path, text), WriteFile(path, state.text or "\n"))]


class Pin(_Pins):
    """All vCPUs of a VM; a container as a whole."""

    tenants = EVERY_TENANT
    rows: tuple[Row, ...] = (ALL,)

    def _parts(self, found: tuple[Task, ...], online: frozenset[int], reason: str) -> Steps[tuple[Part, ...]]:
        tids = [task.tid for task in threads.vcpus(found).values()]
        masks = yield from _masks(tids)
        return (Part("", (), State(masks, online, reason or ("" if tids else threads.UNKNOWN))),)


class PinEach(_Pins):
    """Each vCPU; its name is its number."""

    prefix = "cpu.pin"
    rows: tuple[Row, ...] = (EACH,)

    def _parts(self, found: tuple[Task, ...], online: frozenset[int], reason: str) -> Steps[tuple[Part, ...]]:
        vcpus = threads.vcpus(found)
        masks = yield from _masks([task.tid for task in vcpus.values()])
        return tuple(
            Part(str(index), (), State({task.tid: masks[task.tid]}, online))
            for index, task in vcpus.items()
            if task.tid in masks
        )


class PinEmulator(_Pins):
    """Every thread of a VM that is no vCPU: the monitor's, the disks', vhost's."""

    rows: tuple[Row, ...] = (EMULATOR,)

    def _parts(self, found: tuple[Task, ...], online: frozenset[int], reason: str) -> Steps[tuple[Part, ...]]:
        vcpus = threads.vcpus(found)
        ours = {task.tid for task in vcpus.values()}
        masks = yield from _masks([task.tid for task in found if task.tid not in ours])
        return (Part("", (), State(masks, online, reason or ("" if vcpus else threads.UNKNOWN))),)


def _masks(tids: Sequence[int]) -> Steps[dict[int, frozenset[int]]]:
    found = yield [GetAffinity(tid) for tid in tids]
    return dict(zip(tids, found, strict=True))


def strays(vcpus: Mapping[int, Task], masks: Mapping[int, frozenset[int]]) -> Sequence[SetAffinity]:
    """What pins the last of several vCPUs as all those before it are, when these are all pinned alike."""
    tids = [task.tid for task in vcpus.values()]
    if len(tids) < 2:
        return []
    before = {masks[tid] for tid in tids[:-1]}
    if len(before) != 1 or masks[tids[-1]] in before:
        return []
    return [SetAffinity(tids[-1], next(iter(before)))]
