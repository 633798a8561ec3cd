"""The knob `vcpus`: CPUs plugged into, and out of, a running guest.

`device_add` and `device_del` only ask; the guest's ACPI code does it, and says so in ACPI_DEVICE_OST or not at
all. What counts is `query-hotpluggable-cpus` (is the CPU there?) and the guest's own count of online CPUs.
Sources: QEMU docs/system/cpu-hotplug.rst, qapi/acpi.json; ACPI 6.4, 6.3.5 _OST (status codes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ringfence import units
from ringfence.core.answers import entries, fields, number, text
from ringfence.core.knob import ONLY_VMS, Advice, Observation, Outcome, Part, Row, Verdict, Wants
from ringfence.core.requests import Agent, Clock, Progress, Qmp, Steps, Wait
from ringfence.errors import MonitorRefusedError, RingfenceError, TenantError, UsageError
from ringfence.knobs import guest_cpus

_PERIPHERAL = "/machine/peripheral/"
_POLL_S = 0.1
_STEP_S = 10.0
"""Guests take 0.1 s to let a CPU go and about a second to take one; ten seconds means no."""
_OST_EJECT = 3
_OST_IN_PROGRESS = 132
_OST_DONE = 0
_AGAIN = "-again"
"""Ends the id of a CPU plugged in spite of `_PLUG_DANGER`: with it the slot's report of the eject is gone."""
_BEFORE_BOOT = ("prelaunch", "inmigrate")

_NOT_TAKEN_OVER = (
    "the guest has not taken over CPU hot-plug by ACPI (it still boots, or with this QEMU it never does), so "
    "it would not see a new CPU, and could not give one up"
)
_PLUG_DANGER = (
    "a CPU was unplugged before, and without KVM QEMU may end at the next plug: it makes no more than maxcpus CPU "
    "threads in its life, and some versions crash at once"
)
_UNPLUG_DANGER = "its vCPUs share one thread (tcg,thread=single), and unplugging one ends QEMU"

_OFFLINE_HINT = "run qemu-guest-agent in the guest, or there: echo 1 > /sys/devices/system/cpu/cpuN/online"

ROWS = (
    Row(
        key="vcpus",
        unit=units.COUNT,
        mechanism="device_add/device_del",
        help="virtual CPUs the guest has; at most -smp maxcpus",
    ),
)


_ROOM = Advice("-smp 1,maxcpus=N", "more CPUs can be plugged in later")
_OTHER_MACHINE = Advice("-machine q35", "CPUs can be plugged and unplugged")


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
        return self.qom_path.removeprefix(_PERIPHERAL)

    @property
    def removable(self) -> bool:
        """Any CPU but the first can go, also those of -smp; the guest booted on that one."""
        return bool(self.qom_path) and self.number > 0


class State(NamedTuple):
    """:param online: CPUs the guest has online, None when it cannot be asked.
    :param unplug_danger: why an unplug would end the VM or come to nothing, empty when it would not; `plug_danger`
        likewise.
    :param pending: numbers of the CPUs that the guest is giving up.
    :param tells: whether this machine passes on what the guest says to a plug.
    """

    slots: tuple[Slot, ...]
    online: int | None
    plug_danger: str
    unplug_danger: str
    pending: frozenset[int] = frozenset()
    tells: bool = True

    @property
    def plugged(self) -> int:
        """vCPUs that QEMU has now."""
        return sum(slot.vcpus for slot in self.slots if slot.qom_path)

    @property
    def maximum(self) -> int:
        """vCPUs with every slot filled."""
        return sum(slot.vcpus for slot in self.slots)

    @property
    def fixed(self) -> int:
        """vCPUs that cannot be unplugged."""
        return sum(slot.vcpus for slot in self.slots if slot.qom_path and not slot.removable)


class Vcpus:
    """See the module."""

    prefix = "vcpus"
    tenants = ONLY_VMS
    rows: tuple[Row, ...] = ROWS
    events: tuple[str, ...] = ("ACPI_DEVICE_OST", "DEVICE_DELETED", "DEVICE_UNPLUG_GUEST_ERROR")

    def observe(self) -> Steps[tuple[Part, ...]]:
        """Read the slots, and ask the guest's agent for its online CPUs; one Part."""
        try:
            slots = yield from _slots()
        except MonitorRefusedError:
            count = len(entries((yield Qmp("query-cpus-fast"))))
            return (Part("", (), State((), count, "", "")),)
        cpus, status, kvm = yield [Qmp("query-cpus-fast"), Qmp("query-status"), Qmp("query-kvm")]
        threads = [number(cpu["thread-id"]) for cpu in entries(cpus)]
        reports = yield from _cpu_reports()
        plug, unplug = _dangers(
            slots, threads, reports, runstate=text(fields(status)["status"]), kvm=bool(fields(kvm)["enabled"])
        )
        online = yield from guest_cpus.online()
        return (Part("", (), State(slots, online, plug, unplug, _pending(slots, reports), reports is not None)),)

    def observation(self, part: Part, row: Row) -> Observation:
        """How many there are, in QEMU and online in the guest."""
        state: State = part.state
        actual = state.plugged if state.online is None else state.online
        if not state.slots:
            why = "this machine type cannot plug CPUs"
            return Observation(row, row.key, actual, actual, unavailable=why, advice=(_OTHER_MACHINE,))
        full = state.maximum == state.plugged
        return Observation(
            row,
            row.key,
            target=state.plugged,
            actual=actual,
            minimum=state.fixed,
            maximum=state.maximum,
            unavailable="it has one CPU, and no room for more" if full and state.plugged == state.fixed else "",
            notes=(*_notes(state), *dict.fromkeys(filter(None, (state.plug_danger, state.unplug_danger)))),
            advice=(_ROOM,) if full else (),
        )

    def check(self, part: Part, wants: Wants, *, force: bool) -> None:
        """Raise UsageError out of range, TenantError where the VM has no free slot by design."""
        self.observation(part, self.rows[0]).refuse_unavailable()
        state: State = part.state
        want = int(wants[""] or 0)
        if want < 1:
            raise UsageError(f"vcpus={want}: a guest needs at least one", hint="vcpus=1 is the least")
        if want > state.maximum:
            raise UsageError(
                f"vcpus={want} is above this VM's maximum, {state.maximum}",
                hint=f"at most {state.maximum}; -smp {state.plugged},maxcpus=N at its start makes room for more",
            )
        if want < state.fixed:
            raise UsageError(
                f"vcpus={want}: the first CPU cannot be unplugged, and {state.fixed} vCPUs come with it",
                hint=f"vcpus={state.fixed} is the least",
            )
        if want != state.plugged and sum(s.vcpus for s in _moves(state, want)) != abs(want - state.plugged):
            raise UsageError(f"vcpus={want}: CPUs come {state.slots[0].vcpus} at a time on this machine")
        danger = state.plug_danger if want > state.plugged else state.unplug_danger if want < state.plugged else ""
        if danger and not force:
            raise TenantError(f"vcpus={want}: {danger}", hint="--force does it all the same")

    def in_step(self, part: Part, wants: Wants) -> bool:
        """Whether there are as many, all online where that is known, and none on its way out."""
        state: State = part.state
        want = int(wants[""] or 0)
        return state.plugged == want and state.online in (None, want) and not state.pending

    def changes(self, part: Part, wants: Wants) -> list[Qmp | Agent]:
        """One device_add or device_del for each CPU; what brings them online depends on the guest."""
        state: State = part.state
        want = int(wants[""] or 0)
        moves = _moves(state, want)
        if want > state.plugged:
            return [_add(slot, state) for slot in moves]
        return [Qmp("device_del", {"id": slot.device}) for slot in moves if slot.number not in state.pending]

    def apply(self, part: Part, wants: Wants, *, timeout_s: float, force: bool) -> Steps[Outcome]:
        """Plug or unplug one CPU after the other, each seen through before the next is asked for."""
        state: State = part.state
        want = int(wants[""] or 0)
        moves = _moves(state, want)
        if not moves and state.pending:
            detail = "the guest is still giving a CPU up that it was asked for before"
            return Outcome(
                Verdict.PARTIAL, part, "guest", detail, hint="set it again when that has come to an end"
            )
        if not moves and state.online in (None, want):
            return Outcome(Verdict.APPLIED, part, notes=("already so",))
        deadline = (yield Clock()) + timeout_s
        if want < state.plugged:
            trouble = yield from _unplug(state, moves, deadline)
        else:
            trouble = yield from _plug(state, moves, deadline)
        return (yield from _outcome(part, want, trouble, deadline))


class _Trouble(NamedTuple):
    by: str
    detail: str
    hint: str = ""


def _slots() -> Steps[tuple[Slot, ...]]:
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
        if report["source"] == _OST_EJECT and report["status"] == _OST_IN_PROGRESS
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
    ejected = {text(report["slot"]) for report in reports or () if report["source"] == _OST_EJECT} & free
    again = any(slot.qom_path.endswith(_AGAIN) for slot in slots)
    single = len(threads) > 1 and len(set(threads)) == 1
    return _PLUG_DANGER if ejected or again else "", _UNPLUG_DANGER if single else ""


def _notes(state: State) -> tuple[str, ...]:
    notes = []
    if state.pending:
        notes.append("the guest is still giving up a CPU that it was asked for before")
    if state.online is None:
        notes.append("the guest agent does not answer: how many are online is not known")
    elif state.online != state.plugged:
        notes.append(f"QEMU has {state.plugged}, the guest has {state.online} online")
    return tuple(notes)


def _moves(state: State, want: int) -> list[Slot]:
    """Slots to fill, first free one first, or to empty, last one first, to come to `want`."""
    moves: list[Slot] = []
    left = abs(want - state.plugged)
    if want > state.plugged:
        candidates = [slot for slot in state.slots if not slot.qom_path]
    else:
        candidates = [slot for slot in reversed(state.slots) if slot.removable]
        candidates.sort(key=lambda slot: slot.number not in state.pending)
    for slot in candidates:
        if left >= slot.vcpus:
            moves.append(slot)
            left -= slot.vcpus
    return moves


def _add(slot: Slot, state: State) -> Qmp:
    place = "-".join(str(slot.props[name]) for name in sorted(slot.props) if name != "node-id")
    device = f"ringfence-cpu-{place}{_AGAIN if state.plug_danger == _PLUG_DANGER else ''}"
    return Qmp("device_add", {"driver": slot.driver, "id": device, **slot.props})


def _plug(state: State, moves: Sequence[Slot], deadline: float) -> Steps[_Trouble | None]:
    for done, slot in enumerate(moves, 1):
        request = _add(slot, state)
        try:
            yield request
        except MonitorRefusedError as refusal:
            return _Trouble("QEMU", refusal.message, refusal.hint)
        taken = yield from _wait_taken(str(request.arguments["id"]), deadline)
        yield Progress("vcpus", done, len(moves), units.COUNT)
        if not taken and state.tells:
            return _Trouble("guest", "the guest has not answered for the new CPU", "see whether it has booted")
    return None


def _wait_taken(device: str, deadline: float) -> Steps[bool]:
    """Whether the guest's ACPI code answered for the new CPU; silence may also be an old guest's way."""
    start = yield Clock()
    while True:
        event = yield Wait(("ACPI_DEVICE_OST",), _POLL_S)
        if event is not None and event["data"]["info"].get("device") == device:
            return True
        now = yield Clock()
        if now > min(deadline, start + _STEP_S / 4):
            return False


def _unplug(state: State, moves: Sequence[Slot], deadline: float) -> Steps[_Trouble | None]:
    for done, slot in enumerate(moves, 1):
        try:
            if slot.number not in state.pending:
                yield Qmp("device_del", {"id": slot.device})
        except MonitorRefusedError as refusal:
            return _Trouble("QEMU", refusal.message, refusal.hint)
        try:
            trouble = yield from _wait_gone(slot, deadline)
        except RingfenceError as error:
            error.add_state(f"the guest was asked to give up {slot.device}, and may still do so")
            raise
        if trouble:
            return trouble
        yield Progress("vcpus", done, len(moves), units.COUNT)
    return None


def _wait_gone(slot: Slot, deadline: float) -> Steps[_Trouble | None]:
    """Until the CPU is gone from QEMU's list, the guest says no, or time is up.

    No event is enough: without KVM QEMU sends DEVICE_DELETED for the CPU's children only.
    """
    start = yield Clock()
    while True:
        event = yield Wait(("ACPI_DEVICE_OST", "DEVICE_DELETED", "DEVICE_UNPLUG_GUEST_ERROR"), _POLL_S)
        if event is not None and _refused(event, slot):
            return _Trouble("guest", f"it refused to give up {slot.device}", "the guest's log may tell why")
        slots = yield from _slots()
        if all(other.qom_path != slot.qom_path for other in slots):
            return None
        now = yield Clock()
        if now > min(deadline, start + _STEP_S):
            detail = f"no answer to the unplug of {slot.device}; it may still go later"
            return _Trouble("guest", detail, "see whether the guest has booted and does not hang")


def _refused(event: Mapping[str, Any], slot: Slot) -> bool:
    """A CPU of -smp has no device id: its slot's number is all that the event tells."""
    data = event["data"]
    if event["event"] == "DEVICE_UNPLUG_GUEST_ERROR":
        return slot.qom_path in (data.get("path"), f"{_PERIPHERAL}{data.get('device')}")
    info = data.get("info", {})
    refusing = info.get("source") == _OST_EJECT and info.get("status") not in (_OST_DONE, _OST_IN_PROGRESS)
    return bool(refusing and info.get("slot-type") == "CPU" and info.get("slot") == str(slot.number))


def _outcome(part: Part, want: int, trouble: _Trouble | None, deadline: float) -> Steps[Outcome]:
    before: State = part.state
    slots = yield from _slots()
    plugged = before._replace(slots=slots).plugged
    until = min(deadline, (yield Clock()) + _STEP_S)
    if want >= before.plugged:
        online = yield from guest_cpus.bring_online(min(want, plugged), until)
    else:
        online = yield from guest_cpus.settled(max(want, plugged), until)
    state = before._replace(slots=slots, online=online)
    after = Part("", (), state)
    actual = plugged if online is None else online
    if plugged == want and (online == want or (online is None and not trouble)):
        notes = () if online is not None else _notes(state)
        return Outcome(Verdict.APPLIED, after, notes=notes)
    changed = plugged != before.plugged or (online is not None and online != before.online)
    verdict = Verdict.PARTIAL if changed else Verdict.REFUSED
    why = trouble or _Trouble("guest", f"QEMU has {plugged} vCPUs, the guest uses {actual}", _OFFLINE_HINT)
    return Outcome(verdict, after, by=why.by, detail=why.detail, hint=why.hint)
