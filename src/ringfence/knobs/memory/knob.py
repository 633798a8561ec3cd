"""The knob's keys: `memory.target`, how it is to be met, and the ledgers it is made of.

What only a change of memory needs is imported when there is one: every command pays for what stands above.
"""

from __future__ import annotations

from ringfence import units
from ringfence.core.knob import ONLY_VMS, Advice, Observation, Outcome, Part, Row, Wants
from ringfence.core.requests import Agent, Qmp, Steps
from ringfence.errors import UsageError
from ringfence.knobs.memory.choose import BALLOON, PC_DIMM, START_WITH, choose, mechanisms, too_low
from ringfence.knobs.memory.ledger import OPTIONS, PAGE_BYTES, State, floor_bytes

_SLOWEST_PACE = units.MIB

ROWS = (
    Row(
        key="memory.target",
        unit=units.BYTES,
        mechanism="virtio-balloon, virtio-mem, pc-dimm",
        help="memory the guest may use: boot memory, plus what is plugged, less what the balloon holds",
    ),
    Row(
        key="memory.target.via",
        unit=units.NAME,
        mechanism="virtio-balloon, virtio-mem, pc-dimm",
        help="with `memory.target`: by `balloon`, `virtio-mem` or `pc-dimm` alone; `show` tells which there are",
        main=False,
        modifies="memory.target",
    ),
    Row(
        key="memory.ramp",
        unit=units.BYTES_PER_S,
        mechanism="steps",
        help="with `memory.target`: go there in steps, at most this fast",
        lifts=True,
        main=False,
        modifies="memory.target",
    ),
    Row(
        key="memory.boot",
        unit=units.BYTES,
        mechanism="-m",
        help="read only: what the VM was started with",
        main=False,
        read_only=True,
    ),
    Row(
        key="memory.plugged",
        unit=units.BYTES,
        mechanism="virtio-mem, pc-dimm",
        help="read only: what was plugged in",
        main=False,
        read_only=True,
    ),
    Row(
        key="memory.ballooned",
        unit=units.BYTES,
        mechanism="virtio-balloon",
        help="read only: what the balloon holds",
        main=False,
        read_only=True,
    ),
)
_TARGET, _VIA, _RAMP, _BOOT, _PLUGGED, _BALLOONED = (row.key for row in ROWS)
_NO_DEVICE = Advice(
    "-device virtio-balloon-pci," + ",".join(f"{option}=on" for option in OPTIONS),
    "memory can be taken and given",
)
_NO_ROOM = Advice(START_WITH[PC_DIMM], "memory can be added beyond what it was started with")


class MemoryTarget:
    """See the module."""

    prefix = "memory"
    tenants = ONLY_VMS
    rows: tuple[Row, ...] = ROWS
    events: tuple[str, ...] = (
        "BALLOON_CHANGE",
        "MEMORY_DEVICE_SIZE_CHANGE",
        "ACPI_DEVICE_OST",
        "DEVICE_DELETED",
        "DEVICE_UNPLUG_GUEST_ERROR",
        "MEM_UNPLUG_ERROR",
    )

    def observe(self) -> Steps[tuple[Part, ...]]:
        """Read the ledgers and the guest's statistics; one Part."""
        from ringfence.knobs.memory.read import read

        return (Part("", (), (yield from read())),)

    def observation(self, part: Part, row: Row) -> Observation:
        """What one key is."""
        state: State = part.state
        there = mechanisms(state)
        if row.key == _TARGET:
            return _target(state, row, there)
        if row.key == _VIA:
            return Observation(row, row.key, None, state.used or ", ".join(there) or "none")
        if row.key == _RAMP:
            return Observation(row, row.key, state.pace, state.pace, minimum=_SLOWEST_PACE)
        if row.key == _BOOT:
            return Observation(row, row.key, state.boot_bytes, state.boot_bytes)
        if row.key == _BALLOONED:
            return Observation(row, row.key, state.ballooned_bytes, state.ballooned_bytes)
        plugged = state.dimm_bytes + state.virtio_mem_bytes
        return Observation(row, row.key, plugged, plugged, notes=_plugged_notes(state))

    def check(self, part: Part, wants: Wants, *, force: bool) -> None:
        """Raise UsageError out of range, TenantError without a mechanism; `force` allows to press the guest."""
        state: State = part.state
        _refuse_read_only(wants)
        if "target" not in wants:
            alone = ", ".join(f"memory.{leaf}" for leaf in wants)
            raise UsageError(f"{alone} means something only together with memory.target", hint="give both at once")
        self.observation(part, self.rows[0]).refuse_unavailable()
        want, pace = _want(wants), _pace(wants)
        if want < PAGE_BYTES:
            raise UsageError(f"memory.target={want} bytes is less than a page", hint="write a size such as 512MiB")
        if pace is not None and pace < _SLOWEST_PACE:
            raise UsageError("memory.ramp is slower than 1MiB/s", hint="a GiB would take a quarter of an hour")
        choose(state, want, _via(wants))
        floor = floor_bytes(state)
        if floor is not None and want < min(floor, state.usable_bytes) and not force:
            raise too_low(want, floor)

    def in_step(self, part: Part, wants: Wants) -> bool:
        """Whether the guest has what is wanted, and nothing is on its way."""
        state: State = part.state
        if "target" not in wants:
            return False
        return abs(state.usable_bytes - _want(wants)) < PAGE_BYTES and state.target_bytes == state.usable_bytes

    def changes(self, part: Part, wants: Wants) -> list[Qmp | Agent]:
        """All that is sent when the guest follows; where it does not, less or more is."""
        from ringfence.knobs.memory import carry

        return list(carry.requests(part.state, choose(part.state, _want(wants), _via(wants)), _pace(wants)))

    def apply(self, part: Part, wants: Wants, *, timeout_s: float, force: bool) -> Steps[Outcome]:
        """Move by move, each seen through before the next; what was not met is asked for no longer."""
        from ringfence.knobs.memory import carry

        want = carry.Want(_want(wants), _pace(wants), timeout_s, force)
        return (yield from carry.out(part, choose(part.state, want.bytes, _via(wants)), want))


def _target(state: State, row: Row, there: tuple[str, ...]) -> Observation:
    row = row._replace(mechanism=", ".join(there).replace(BALLOON, "virtio-balloon") or row.mechanism)
    usable = state.usable_bytes
    if not there:
        why = "it has no balloon device, and no room to plug memory"
        return Observation(row, row.key, None, usable, unavailable=why, advice=(_NO_DEVICE, _NO_ROOM))
    device = state.balloon
    advice = [] if device else [_NO_DEVICE]
    if device:
        missing = [(option, why) for option, why in OPTIONS.items() if option not in device.options]
        advice += [Advice(f"-device virtio-balloon-pci,{option}=on", why) for option, why in missing]
    if not (state.virtio_mems or state.free_slots or state.dimms):
        advice.append(_NO_ROOM)
    removable = sum(entry.size_bytes for entry in state.dimms if entry.removable)
    least = floor_bytes(state) if device else usable - state.virtio_mem_bytes - removable
    return Observation(
        row,
        row.key,
        target=state.target_bytes,
        actual=usable,
        minimum=least,
        maximum=state.maximum_bytes,
        notes=_notes(state),
        advice=tuple(advice),
    )


def _notes(state: State) -> tuple[str, ...]:
    notes = [_stats_note(state)] if state.balloon else ["without a balloon the guest gives no statistics"]
    if state.pinned:
        notes.append(f"{state.pinned}: ballooning gives the host nothing")
    if state.target_bytes != state.usable_bytes:
        notes.append(f"virtio-mem is on its way to {units.format_bytes(state.target_bytes)} in all")
    notes += [f"the guest has begun to unplug {entry.id}" for entry in state.dimms if entry.leaving]
    if state.leftovers:
        notes.append(
            f"{', '.join(state.leftovers)}: left by an unplug that ended late; the next change removes it"
        )
    return tuple(notes)


def _stats_note(state: State) -> str:
    stats = state.stats
    if stats.age_s is None:
        return "the guest has given no statistics"
    if stats.available_bytes is not None and stats.available_bytes > state.usable_bytes:
        return "the guest's last statistics are from before the balloon moved"
    available = "unknown" if stats.available_bytes is None else units.format_bytes(stats.available_bytes)
    off = "" if state.poll_s else "; statistics are off"
    return f"available in the guest: {available}, {units.format_seconds(round(stats.age_s))} ago{off}"


def _plugged_notes(state: State) -> tuple[str, ...]:
    dimms = [f"pc-dimm {d.id or d.memdev} {units.format_bytes(d.size_bytes)}" for d in state.dimms]
    devices = [
        f"virtio-mem {d.name} {units.format_bytes(d.size_bytes)} of {units.format_bytes(d.max_bytes)}"
        for d in state.virtio_mems
    ]
    slots = [f"{state.free_slots} DIMM slots are free"] if state.free_slots else []
    return (*dimms, *devices, *slots)


def _refuse_read_only(wants: Wants) -> None:
    read_only = [row.key for row in ROWS if row.read_only and row.key.removeprefix("memory.") in wants]
    if read_only:
        raise UsageError(f"{read_only[0]} can only be read", hint="memory.target is what changes it")


def _want(wants: Wants) -> int:
    return int(wants["target"] or 0)


def _via(wants: Wants) -> str | None:
    via = wants.get("target.via")
    return None if via is None else str(via)


def _pace(wants: Wants) -> int | None:
    pace = wants.get("ramp")
    return None if pace is None else int(pace)
