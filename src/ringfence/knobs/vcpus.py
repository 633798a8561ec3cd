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
from ringfence.core.knob import Advice, Observation, Outcome, Part, Row, Verdict, Wants
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
    :param unplug_danger: why an unplug would end the VM, empty when it would not; `plug_danger` likewise.
    """

    slots: tuple[Slot, ...]
    online: int | None
    plug_danger: str
    unplug_danger: str

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
    rows: tuple[Row, ...] = ROWS
    events: tuple[str, ...] = ("ACPI_DEVICE_OST", "DEVICE_DELETED", "DEVICE_UNPLUG_GUEST_ERROR")

    def observe(self) -> Steps[tuple[Part, ...]]:
        """Read the slots, and ask the guest's agent for its online CPUs; one Part."""
        try:
            slots = yield from _slots()
        except MonitorRefusedError:
            count = len(entries((yield Qmp("query-cpus-fast"))))
            return (Part("", (), State((), count, "", "")),)
        cpus, kvm = yield [Qmp("query-cpus-fast"), Qmp("query-kvm")]
        threads = [number(cpu["thread-id"]) for cpu in entries(cpus)]
        plug, unplug = "", ""
        if not fields(kvm)["enabled"]:
            plug, unplug = yield from _tcg_dangers(slots, threads)
        online = yield from guest_cpus.online()
        return (Part("", (), State(slots, online, plug, unplug)),)

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
            notes=_notes(state),
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

    def changes(self, part: Part, wants: Wants) -> list[Qmp | Agent]:
        """One device_add or device_del for each CPU; what brings them online depends on the guest."""
        state: State = part.state
        want = int(wants[""] or 0)
        moves = _moves(state, want)
        if want > state.plugged:
            return [_add(slot) for slot in moves]
        return [Qmp("device_del", {"id": slot.device}) for slot in moves]

    def apply(self, part: Part, wants: Wants, *, timeout_s: float, force: bool) -> Steps[Outcome]:
        """Plug or unplug one CPU after the other, each seen through before the next is asked for."""
        state: State = part.state
        want = int(wants[""] or 0)
        moves = _moves(state, want)
        if not moves and state.online in (None, want):
            return Outcome(Verdict.APPLIED, part, notes=("already so",))
        deadline = (yield Clock()) + timeout_s
        if want < state.plugged:
            trouble = yield from _unplug(moves, deadline)
        else:
            trouble = yield from _plug(moves, deadline)
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


def _tcg_dangers(slots: Sequence[Slot], threads: Sequence[int]) -> Steps[tuple[str, str]]:
    """Two ways in which a QEMU without KVM was seen to die: told from what it does, whatever its version.

    A free slot whose last word was a finished eject had a CPU unplugged; some QEMUs then crash at the next plug.
    vCPUs that share one thread cannot be ended one by one.
    """
    single = len(threads) > 1 and len(set(threads)) == 1
    unplug = "its vCPUs share one thread (tcg,thread=single), and unplugging one ends QEMU" if single else ""
    try:
        reports = yield Qmp("query-acpi-ospm-status")
    except MonitorRefusedError:
        return "", unplug
    ejected = {text(r["slot"]) for r in entries(reports) if r["slot-type"] == "CPU" and r["source"] == _OST_EJECT}
    free = {str(slot.number) for slot in slots if not slot.qom_path}
    plug = (
        "a CPU was unplugged before, and without KVM some QEMUs crash at the next plug" if ejected & free else ""
    )
    return plug, unplug


def _notes(state: State) -> tuple[str, ...]:
    notes = []
    if state.online is None:
        notes.append("the guest agent does not answer: how many are online is not known")
    elif state.online != state.plugged:
        notes.append(f"QEMU has {state.plugged}, the guest has {state.online} online")
    return tuple(notes)


def _moves(state: State, want: int) -> list[Slot]:
    """Slots to fill, first free one first, or to empty, last one first, to come to `want`."""
    moves: list[Slot] = []
    left = abs(want - state.plugged)
    candidates = (
        [slot for slot in state.slots if not slot.qom_path]
        if want > state.plugged
        else [slot for slot in reversed(state.slots) if slot.removable]
    )
    for slot in candidates:
        if left >= slot.vcpus:
            moves.append(slot)
            left -= slot.vcpus
    return moves


def _add(slot: Slot) -> Qmp:
    place = "-".join(str(slot.props[name]) for name in sorted(slot.props) if name != "node-id")
    return Qmp("device_add", {"driver": slot.driver, "id": f"ringfence-cpu-{place}", **slot.props})


def _plug(moves: Sequence[Slot], deadline: float) -> Steps[_Trouble | None]:
    for done, slot in enumerate(moves, 1):
        request = _add(slot)
        try:
            yield request
        except MonitorRefusedError as refusal:
            return _Trouble("QEMU", refusal.message, refusal.hint)
        taken = yield from _wait_taken(str(request.arguments["id"]), deadline)
        yield Progress("vcpus", done, len(moves), units.COUNT)
        if not taken:
            break
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


def _unplug(moves: Sequence[Slot], deadline: float) -> Steps[_Trouble | None]:
    for done, slot in enumerate(moves, 1):
        try:
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
    if plugged == want and online in (None, want):
        notes = () if online is not None else _notes(state)
        return Outcome(Verdict.APPLIED, after, notes=notes)
    changed = plugged != before.plugged or (online is not None and online != before.online)
    verdict = Verdict.PARTIAL if changed else Verdict.REFUSED
    why = trouble or _Trouble("guest", f"QEMU has {plugged} vCPUs, the guest uses {actual}", _OFFLINE_HINT)
    return Outcome(verdict, after, by=why.by, detail=why.detail, hint=why.hint)
