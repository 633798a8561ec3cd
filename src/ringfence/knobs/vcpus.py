"""The knob `vcpus`: CPUs plugged into, and out of, a running guest.

`device_add` and `device_del` only ask; the guest's ACPI code does it, and says so in ACPI_DEVICE_OST or not at
all. What counts is `query-hotpluggable-cpus` (is the CPU there?) and the guest's own count of online CPUs.
Sources: QEMU docs/system/cpu-hotplug.rst, qapi/acpi.json; ACPI 6.4, 6.3.5 _OST (status codes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ringfence import units
from ringfence.core.knob import Advice, Observation, Outcome, Part, Row, Verdict, Wants
from ringfence.core.requests import Agent, Clock, Progress, Qmp, Steps, Wait
from ringfence.errors import GuestError, MonitorRefusedError, TenantError, UsageError

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
    """

    slots: tuple[Slot, ...]
    online: int | None
    runstate: str
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
            count = len((yield Qmp("query-cpus-fast")))
            return (Part("", (), State((), count, "", "", "")),)
        cpus, status, kvm = yield [Qmp("query-cpus-fast"), Qmp("query-status"), Qmp("query-kvm")]
        plug, unplug = yield from _dangers(slots, cpus, runstate=status["status"], kvm=kvm["enabled"])
        online = yield from _online()
        return (Part("", (), State(slots, online, status["status"], plug, unplug)),)

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
                hint=f"start it with -smp {state.plugged},maxcpus={want} to have room",
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
            return [_add(slot, state) for slot in moves]
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
            trouble = yield from _plug(state, moves, deadline)
        return (yield from _outcome(part, want, trouble, deadline))


class _Trouble(NamedTuple):
    by: str
    detail: str


def _slots() -> Steps[tuple[Slot, ...]]:
    """Every slot, first CPU first; QEMU lists them the other way round."""
    entries = yield Qmp("query-hotpluggable-cpus")
    return tuple(
        Slot(number, entry["type"], entry["props"], entry["vcpus-count"], entry.get("qom-path", ""))
        for number, entry in enumerate(reversed(entries))
    )


def _dangers(
    slots: Sequence[Slot], cpus: Sequence[Mapping[str, Any]], *, runstate: str, kvm: bool
) -> Steps[tuple[str, str]]:
    """Why a plug, and an unplug, would end badly: told from what this QEMU does, whatever its version.

    Its ACPI reports list CPUs from when the guest has switched to the present way of CPU hot-plug; under Debian's
    QEMU 5.2 none ever did. Without KVM two more things count: a slot whose last word was a finished eject had a
    CPU unplugged (7.2 then crashed at the next plug, 10.0 and 11.1 at the one that made maxcpus + 1 in all); and
    vCPUs that share one thread cannot be ended one by one.
    """
    try:
        reports = yield Qmp("query-acpi-ospm-status")
    except MonitorRefusedError:
        reports = None
    cpu_reports = [report for report in reports or () if report["slot-type"] == "CPU"]
    if reports is not None and not cpu_reports and runstate not in _BEFORE_BOOT:
        return _NOT_TAKEN_OVER, _NOT_TAKEN_OVER
    if kvm:
        return "", ""
    free = {str(slot.number) for slot in slots if not slot.qom_path}
    ejected = {report["slot"] for report in cpu_reports if report["source"] == _OST_EJECT} & free
    again = any(slot.qom_path.endswith(_AGAIN) for slot in slots)
    single = len(cpus) > 1 and len({cpu["thread-id"] for cpu in cpus}) == 1
    return _PLUG_DANGER if ejected or again else "", _UNPLUG_DANGER if single else ""


def _online() -> Steps[int | None]:
    """CPUs the guest has online by its agent's word; None without an agent."""
    try:
        cpus = yield Agent("guest-get-vcpus", timeout_s=1.0)
    except GuestError:
        return None
    return sum(1 for cpu in cpus if cpu["online"])


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


def _add(slot: Slot, state: State) -> Qmp:
    place = "-".join(str(slot.props[name]) for name in sorted(slot.props) if name != "node-id")
    device = f"ringfence-cpu-{place}{_AGAIN if state.plug_danger == _PLUG_DANGER else ''}"
    return Qmp("device_add", {"driver": slot.driver, "id": device, **slot.props})


def _plug(state: State, moves: Sequence[Slot], deadline: float) -> Steps[_Trouble | None]:
    for number, slot in enumerate(moves, 1):
        request = _add(slot, state)
        try:
            yield request
        except MonitorRefusedError as refusal:
            return _Trouble("QEMU", refusal.message)
        taken = yield from _wait_taken(str(request.arguments["id"]), deadline)
        yield Progress("vcpus", number, len(moves), units.COUNT)
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
    for number, slot in enumerate(moves, 1):
        try:
            yield Qmp("device_del", {"id": slot.device})
        except MonitorRefusedError as refusal:
            return _Trouble("QEMU", refusal.message)
        trouble = yield from _wait_gone(slot, deadline)
        if trouble:
            return trouble
        yield Progress("vcpus", number, len(moves), units.COUNT)
    return None


def _wait_gone(slot: Slot, deadline: float) -> Steps[_Trouble | None]:
    """Until the CPU is gone from QEMU's list, the guest says no, or time is up.

    No event is enough: without KVM QEMU sends DEVICE_DELETED for the CPU's children only.
    """
    start = yield Clock()
    while True:
        event = yield Wait(("ACPI_DEVICE_OST", "DEVICE_DELETED", "DEVICE_UNPLUG_GUEST_ERROR"), _POLL_S)
        if event is not None and _refused(event, slot):
            return _Trouble("guest", f"it refused to give up {slot.device}")
        slots = yield from _slots()
        if all(other.qom_path != slot.qom_path for other in slots):
            return None
        now = yield Clock()
        if now > min(deadline, start + _STEP_S):
            return _Trouble("guest", f"no answer to the unplug of {slot.device}; it may still go later")


def _refused(event: Mapping[str, Any], slot: Slot) -> bool:
    """A CPU of -smp has no device id: its slot's number is all that the event tells."""
    data = event["data"]
    if event["event"] == "DEVICE_UNPLUG_GUEST_ERROR":
        return slot.qom_path in (data.get("path"), f"{_PERIPHERAL}{data.get('device')}")
    info = data.get("info", {})
    refusing = info.get("source") == _OST_EJECT and info.get("status") not in (_OST_DONE, _OST_IN_PROGRESS)
    return bool(refusing and info.get("slot-type") == "CPU" and info.get("slot") == str(slot.number))


def _bring_online(want: int, deadline: float) -> Steps[int | None]:
    """Have the guest use what it has: its own policy may be slow or not there, its agent can do it.

    Returns the CPUs online in the end; None when the guest cannot be asked.
    """
    while True:
        try:
            cpus = yield Agent("guest-get-vcpus")
            offline = [{"logical-id": cpu["logical-id"], "online": True} for cpu in cpus if not cpu["online"]]
            online = len(cpus) - len(offline)
            if online < want and offline:
                yield Agent("guest-set-vcpus", {"vcpus": offline[: want - online]})
                cpus = yield Agent("guest-get-vcpus")
                online = sum(1 for cpu in cpus if cpu["online"])
        except GuestError:
            return None
        now = yield Clock()
        if online >= want or now > deadline:
            return online
        yield Wait((), _POLL_S)


def _outcome(part: Part, want: int, trouble: _Trouble | None, deadline: float) -> Steps[Outcome]:
    before: State = part.state
    slots = yield from _slots()
    plugged = before._replace(slots=slots).plugged
    until = min(deadline, (yield Clock()) + _STEP_S)
    if want >= before.plugged:
        online = yield from _bring_online(min(want, plugged), until)
    else:
        online = yield from _settled(max(want, plugged), until)
    state = before._replace(slots=slots, online=online)
    after = Part("", (), state)
    actual = plugged if online is None else online
    if plugged == want and online in (None, want):
        notes = () if online is not None else _notes(state)
        return Outcome(Verdict.APPLIED, after, notes=notes)
    changed = plugged != before.plugged or (online is not None and online != before.online)
    verdict = Verdict.PARTIAL if changed else Verdict.REFUSED
    by, detail = trouble or _Trouble("guest", f"QEMU has {plugged} vCPUs, the guest uses {actual}")
    return Outcome(verdict, after, by=by, detail=detail)


def _settled(want: int, deadline: float) -> Steps[int | None]:
    """The guest's online CPUs, waited for while they come down to `want`."""
    while True:
        online = yield from _online()
        now = yield Clock()
        if online is None or online <= want or now > deadline:
            return online
        yield Wait((), _POLL_S)
