"""The knob `vcpus`: CPUs plugged into, and out of, a running guest.

Where QEMU cannot unplug one, the guest's agent can still take it offline: the guest then does without it, by its
own will; that is told apart from a CPU that is gone.

`device_add` and `device_del` only ask; the guest's ACPI code does it, and says so in ACPI_DEVICE_OST or not at
all. What counts is `query-hotpluggable-cpus` (is the CPU there?) and the guest's own count of online CPUs.
Sources: QEMU docs/system/cpu-hotplug.rst, qapi/acpi.json; ACPI 6.4, 6.3.5 _OST (status codes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ringfence import units
from ringfence.core.knob import ONLY_VMS, Advice, Observation, Outcome, Part, Row, Verdict, Wants
from ringfence.core.requests import Agent, Clock, Progress, Qmp, Steps, Wait
from ringfence.errors import MonitorRefusedError, RingfenceError, TenantError, UsageError
from ringfence.knobs import cpu_slots, guest_cpus
from ringfence.knobs.cpu_slots import AGAIN, OST_EJECT, OST_IN_PROGRESS, PERIPHERAL, PLUG_DANGER, Slot, State

_POLL_S = 0.1
_STEP_S = 10.0
"""Guests take 0.1 s to let a CPU go and about a second to take one; ten seconds means no."""
_OST_DONE = 0

_OFFLINE_HINT = "run qemu-guest-agent in the guest, or there: echo 1 > /sys/devices/system/cpu/cpuN/online"

ROWS = (
    Row(
        key="vcpus",
        unit=units.COUNT,
        mechanism="device_add/device_del",
        help="virtual CPUs the guest has, at most -smp maxcpus; filled by threads, then cores, then sockets",
    ),
    Row(
        key="vcpus.threads",
        unit=units.NAME,
        mechanism="query-cpus-fast",
        help="read only: the host's thread of each vCPU, by number, for whoever pins them",
        main=False,
        read_only=True,
    ),
)


_ROOM = Advice("-smp 1,maxcpus=N", "more CPUs can be plugged in later")
_OTHER_MACHINE = Advice("-machine q35", "CPUs can be plugged and unplugged")


class Vcpus:
    """See the module."""

    prefix = "vcpus"
    tenants = ONLY_VMS
    rows: tuple[Row, ...] = ROWS
    events: tuple[str, ...] = ("ACPI_DEVICE_OST", "DEVICE_DELETED", "DEVICE_UNPLUG_GUEST_ERROR")

    def observe(self) -> Steps[tuple[Part, ...]]:
        """Read the slots, and ask the guest's agent for its online CPUs; one Part."""
        return (Part("", (), (yield from cpu_slots.read())),)

    def observation(self, part: Part, row: Row) -> Observation:
        """How many there are, in QEMU and online in the guest; or their threads."""
        state: State = part.state
        if row.read_only:
            threads = _listed(state.threads)
            return Observation(row, row.key, threads, threads)
        actual = state.plugged if state.online is None else state.online
        full, by_agent = state.maximum == state.plugged, _least(state) < state.fixed or not state.slots
        unavailable = ""
        if not state.slots and _least(state) == state.plugged:
            unavailable = "this machine type cannot plug CPUs"
        elif full and _least(state) == state.plugged:
            unavailable = "it has one CPU, and no room for more"
        notes = (*_notes(state), *dict.fromkeys(filter(None, (state.plug_danger, state.unplug_danger))))
        return Observation(
            row,
            row.key,
            target=state.plugged,
            actual=actual,
            minimum=_least(state) if by_agent else state.fixed,
            maximum=state.maximum,
            unavailable=unavailable,
            notes=notes,
            advice=(_OTHER_MACHINE,) if not state.slots else (_ROOM,) if full else (),
        )

    def check(self, part: Part, wants: Wants, *, force: bool) -> None:
        """Raise UsageError out of range, TenantError where the VM has no free slot by design."""
        if "threads" in wants:
            raise UsageError("vcpus.threads can only be read", hint="vcpus is what changes them")
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
        if _by_agent(state, want, force=force):
            if want < _least(state):
                raise UsageError(
                    f"vcpus={want}: this guest keeps {_least(state)} CPUs online",
                    hint=f"vcpus={_least(state)} is the least",
                )
            return
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
        if _by_agent(state, want, force=False):
            request = guest_cpus.switch(state.guest or (), want)
            return [request] if request else []
        moves = _moves(state, want)
        if want > state.plugged:
            return [_add(slot, state) for slot in moves]
        return [Qmp("device_del", {"id": slot.device}) for slot in moves if slot.number not in state.pending]

    def apply(self, part: Part, wants: Wants, *, timeout_s: float, force: bool) -> Steps[Outcome]:
        """Plug or unplug one CPU after the other, each seen through before the next is asked for."""
        state: State = part.state
        want = int(wants[""] or 0)
        if _by_agent(state, want, force=force):
            return (yield from _switch(part, want, (yield Clock()) + timeout_s))
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


def _least(state: State) -> int:
    """The fewest it can come to, by unplugging or by the agent."""
    if state.guest is None or not _cannot_unplug(state):
        return state.fixed
    return state.least_online


def _cannot_unplug(state: State) -> str:
    """Why no CPU of it can be unplugged, empty when they can."""
    if not state.slots:
        return "this machine type cannot plug CPUs"
    if state.unplug_danger:
        return state.unplug_danger
    held = [slot.vcpus for slot in state.slots if slot.qom_path and not slot.removable]
    return f"{sum(held)} vCPUs come with the first CPU" if sum(held) > 1 else ""


def _by_agent(state: State, want: int, *, force: bool) -> bool:
    """Whether this is for the guest's agent: fewer than QEMU has, none of which it can unplug."""
    if state.guest is None or want > state.plugged:
        return False
    if not state.slots:
        return True
    return want < state.plugged and (want < state.fixed or (bool(state.unplug_danger) and not force))


def _switch(part: Part, want: int, deadline: float) -> Steps[Outcome]:
    """Have the guest take CPUs offline, or back online, that QEMU cannot unplug."""
    before: State = part.state
    request = guest_cpus.switch(before.guest or (), want)
    if request is None and before.online == want:
        return Outcome(Verdict.APPLIED, part, notes=("already so", *_notes(before)))
    if request:
        yield request
    if want < (before.online or 0):
        yield from guest_cpus.settled(want, min(deadline, (yield Clock()) + _STEP_S))
    after = Part("", (), before._replace(guest=(yield from guest_cpus.read())))
    state: State = after.state
    if state.online == want:
        kept = f"; QEMU keeps {state.plugged}, as {_cannot_unplug(state)}: the guest can take them back"
        note = f"the guest's agent has switched CPUs: {want} are online{kept if want < state.plugged else ''}"
        return Outcome(Verdict.APPLIED, after, by="guest", notes=(note,))
    now = "unknown" if state.online is None else state.online
    verdict = Verdict.REFUSED if state.online == before.online else Verdict.PARTIAL
    detail = f"its agent was asked for {want} online CPUs, and {now} are"
    return Outcome(verdict, after, "guest", detail, hint="the guest's log may tell why")


def _listed(threads: Mapping[int, int]) -> str:
    return ", ".join(f"{cpu}={thread}" for cpu, thread in sorted(threads.items()))


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
    device = f"ringfence-cpu-{place}{AGAIN if state.plug_danger == PLUG_DANGER else ''}"
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
        slots = yield from cpu_slots.read_slots()
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
        return slot.qom_path in (data.get("path"), f"{PERIPHERAL}{data.get('device')}")
    info = data.get("info", {})
    refusing = info.get("source") == OST_EJECT and info.get("status") not in (_OST_DONE, OST_IN_PROGRESS)
    return bool(refusing and info.get("slot-type") == "CPU" and info.get("slot") == str(slot.number))


def _outcome(part: Part, want: int, trouble: _Trouble | None, deadline: float) -> Steps[Outcome]:
    before: State = part.state
    slots = yield from cpu_slots.read_slots()
    threads = yield from cpu_slots.read_threads()
    plugged = before._replace(slots=slots).plugged
    until = min(deadline, (yield Clock()) + _STEP_S)
    if want >= before.plugged:
        yield from guest_cpus.bring_online(min(want, plugged), until)
    else:
        yield from guest_cpus.settled(max(want, plugged), until)
    state = before._replace(slots=slots, guest=(yield from guest_cpus.read()), threads=threads)
    after, online = Part("", (), state), state.online
    actual = plugged if online is None else online
    notes = _new_threads(before, state)
    if plugged == want and (online == want or (online is None and not trouble)):
        return Outcome(Verdict.APPLIED, after, notes=(*notes, *(() if online is not None else _notes(state))))
    changed = plugged != before.plugged or (online is not None and online != before.online)
    verdict = Verdict.PARTIAL if changed else Verdict.REFUSED
    why = trouble or _Trouble("guest", f"QEMU has {plugged} vCPUs, the guest uses {actual}", _OFFLINE_HINT)
    return Outcome(verdict, after, why.by, why.detail, notes, why.hint)


def _new_threads(before: State, after: State) -> tuple[str, ...]:
    """They run where QEMU's main thread may: whoever pins vCPUs has to be told of them."""
    known = set(before.threads.values())
    new = {cpu: thread for cpu, thread in after.threads.items() if thread not in known}
    return (f"new vCPU threads: {_listed(new)}",) if new else ()
