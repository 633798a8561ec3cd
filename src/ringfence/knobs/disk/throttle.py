"""The knob `disk.<disk>.*`: a disk's limits, by `block_set_io_throttle`.

QEMU's command replaces every limit of a disk, and of every disk in the same throttle group: so all limits are
read, the wanted ones laid over them, and all written back with the group carried along.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ringfence import units
from ringfence.core.answers import entries, fields, text
from ringfence.core.knob import ONLY_VMS, Observation, Outcome, Part, Row, Value, Verdict, Wants
from ringfence.core.requests import Agent, Clock, Qmp, Steps
from ringfence.errors import MonitorRefusedError, UsageError
from ringfence.knobs.disk import limits as disk_limits
from ringfence.knobs.disk import names as disk_names
from ringfence.knobs.disk.limits import FIELDS, RATES, Limits

if TYPE_CHECKING:
    from ringfence.knobs.disk.above import Group

_MECHANISM = "block_set_io_throttle"
_FRESH_S = 0.1
"""What was read so lately is not read anew before it is changed: that would cost a sixth of the whole change."""
_GROUP = Row(
    key="disk.<disk>.group",
    unit=units.NAME,
    mechanism=_MECHANISM,
    help="throttle group whose members share one set of limits, in place of their own",
    lifts=True,
    main=False,
    lifted="none",
)


class Asked(NamedTuple):
    """What an earlier step of the same command asks of another disk. :param qdev: that disk's."""

    name: str
    qdev: str
    wants: Wants


class State(NamedTuple):
    """What QEMU holds for one disk.

    :param group: its throttle group, empty while it has no limit.
    :param members: names of the other disks in that group.
    :param disks: every disk of the VM.
    :param read_s: when they were read, by the steps' clock.
    :param asked: by the steps before this one.
    :param above: the groups of throttle filters over its image.
    """

    disk: disk_names.Disk
    limits: Limits
    group: str
    members: tuple[str, ...]
    disks: tuple[disk_names.Disk, ...]
    read_s: float = 0.0
    asked: tuple[Asked, ...] = ()
    above: tuple[Group, ...] = ()


class DiskThrottle:
    """See the module."""

    prefix = "disk"
    tenants = ONLY_VMS
    rows: tuple[Row, ...] = (*disk_limits.rows("disk.<disk>", _MECHANISM), _GROUP)
    events: tuple[str, ...] = ()

    def observe(self) -> Steps[tuple[Part, ...]]:
        """Read every disk; one Part each."""
        disks = yield from disk_names.observe()
        above = []
        for disk in disks:
            above.append((yield from _above(disk)))
        now_s = yield Clock()
        return tuple(_part(disk, disks, now_s, groups) for disk, groups in zip(disks, above, strict=True))

    def observation(self, part: Part, row: Row) -> Observation:
        """One limit of a disk."""
        state: State = part.state
        leaf = _leaf_of(row)
        now = _leaf(state, leaf)
        lowest, highest = (None, None) if leaf == "group" else (1, disk_limits.LIMIT_MAX)
        unavailable = "" if state.disk.inserted else "no medium in the drive, so there is nothing to limit"
        shared = bool(state.members) and now is not None
        notes = [f"shares group {state.group!r} with {', '.join(state.members)}"] if shared else []
        if row.main or now is not None:
            notes += _held_lower(state, leaf, row.unit)
        return Observation(row, f"disk.{part.name}.{leaf}", now, now, lowest, highest, unavailable, tuple(notes))

    def foresee(self, part: Part, earlier: Sequence[tuple[Part, Wants]]) -> Part:
        """With the limits and groups that the steps before it set, for each disk that they hold for."""
        disks = part.state.disks
        asked: list[Asked] = []
        for other, wants in earlier:
            if isinstance(other.state, State):
                disks = _foreseen(disks, other, wants)
                asked.append(Asked(other.name, other.state.disk.qdev, wants))
        mine = next(disk for disk in disks if disk.qdev == part.state.disk.qdev)
        seen = _part(mine, disks, part.state.read_s, part.state.above)
        return seen._replace(state=seen.state._replace(asked=tuple(asked)))

    def check(self, part: Part, wants: Wants, *, force: bool) -> None:
        """Check by QEMU's rules, and against what the command asks of others in the disk's group.

        :raise UsageError: QEMU would refuse it, or what was asked before it would not hold; `force` is no matter.
        :raise TenantError: an empty drive.
        """
        self.observation(part, self.rows[0]).refuse_unavailable()
        for leaf, value in wants.items():
            disk_limits.check_value(f"disk.{part.name}", leaf, value)
        limits, group = _wanted(part, wants)
        _check_agreed(part, wants, limits, group)
        disk_limits.check_together(f"disk.{part.name}", limits)
        if wants.get("group") and not any(limits[field] for field in RATES.values()):
            raise UsageError(
                f"disk {part.name} cannot join group {wants['group']!r} without a limit: QEMU forgets it",
                hint=f"set a limit with it: disk.{part.name}.iops=500 disk.{part.name}.group={wants['group']}",
            )

    def changes(self, part: Part, wants: Wants) -> list[Qmp | Agent]:
        """One `block_set_io_throttle` with all limits, or nothing when QEMU holds them already."""
        limits, group = _wanted(part, wants)
        if limits == part.state.limits and group == part.state.group:
            return []
        arguments: dict[str, object] = {"id": part.state.disk.short_path}
        arguments.update((field, limits[field]) for field in RATES.values())
        arguments.update((field, limits[field]) for field in FIELDS.values() if limits[field])
        # A disk that is set without a group stays in the one it is in; QEMU reads a command byte by byte, so what
        # need not be said costs time.
        if group and (part.state.members or group != part.state.group):
            arguments["group"] = group
        return [Qmp("block_set_io_throttle", arguments)]

    def apply(self, part: Part, wants: Wants, *, timeout_s: float, force: bool) -> Steps[Outcome]:
        """Write, and read back in the same breath: QEMU takes all limits at once or none.

        What was read some time ago is read anew before that: somebody else may have set another limit since, and
        is to keep it.
        """
        part, notes = yield from _up_to_date(part)
        write = [change for change in self.changes(part, wants) if isinstance(change, Qmp)]
        if not write:
            return Outcome(Verdict.APPLIED, part, notes=("already so", *notes))
        try:
            *_, blocks = yield [*write, Qmp("query-block")]
        except MonitorRefusedError as refusal:
            return Outcome(Verdict.REFUSED, part, by="QEMU", detail=refusal.message, hint=refusal.hint)
        inserted = {text(block.get("qdev", "")): fields(block.get("inserted", {})) for block in entries(blocks)}
        disks = tuple(disk._replace(inserted=inserted.get(disk.qdev, {})) for disk in part.state.disks)
        mine = next(disk for disk in disks if disk.qdev == part.state.disk.qdev)
        after = _part(mine, disks, above=(yield from _above(mine)))
        limits, _ = _wanted(part, wants)
        if after.state.limits != limits:
            detail = "QEMU accepted the command and holds other limits: another client may be setting them too"
            return Outcome(Verdict.FAILED, after, by="QEMU", detail=detail)
        lower = [
            note for row in self.rows if (leaf := _leaf_of(row)) in wants
            for note in _held_lower(after.state, leaf, row.unit)
        ]  # fmt: skip
        return Outcome(Verdict.APPLIED, after, notes=(*notes, *_shared_note(after), *lower))

    def watch(self, part: Part, wants: Wants) -> Steps[str]:
        """Whether a disk that was busy goes on; QEMU's counters tell within seconds when it does not."""
        from ringfence.knobs.disk.watch import STALLED, stalled_by

        limits, _ = _wanted(part, wants)
        if not (yield from stalled_by(part.state.disk.qdev, limits)):
            return ""
        free = f"disk.{part.name}.iops=unlimited disk.{part.name}.bps=unlimited"
        return (
            f"disk {part.name} {STALLED}: it may have gone idle. If the guest waits for it: {free}, and if that "
            "does not help `ringfence monitor VM stop cont`, by which QEMU lets all waiting requests go"
        )


def _up_to_date(part: Part) -> Steps[tuple[Part, tuple[str, ...]]]:
    """The part as it is now, and what has changed in it since it was read."""
    state: State = part.state
    if (yield Clock()) - state.read_s <= _FRESH_S:
        return part, ()
    disks = yield from disk_names.observe()
    mine = next((disk for disk in disks if disk.qdev == state.disk.qdev), None)
    if mine is None:
        return part, ()  # QEMU will say so
    now = _part(mine, disks, (yield Clock()), state.above)
    if now.state.limits == state.limits and now.state.group == state.group:
        return now, ()
    changed = [
        f"{leaf} {state.limits[field]} -> {now.state.limits[field]}"
        for leaf, field in FIELDS.items()
        if state.limits[field] != now.state.limits[field]
    ]
    what = ", ".join(changed) or f"group {state.group!r} -> {now.state.group!r}"
    return now, (f"disk {part.name} was changed by somebody else since it was read, and keeps that: {what}",)


def _above(disk: disk_names.Disk) -> Steps[tuple[Group, ...]]:
    """The groups over its image. The module is another's cost: few disks have any."""
    if disk.inserted.get("drv") not in disk_names.FILTERS:
        return ()
    from ringfence.knobs.disk import above

    return (yield from above.observe(above.image(disk.inserted).groups))


def _held_lower(state: State, leaf: str, unit: str) -> tuple[str, ...]:
    if not state.above:
        return ()
    from ringfence.knobs.disk.above import notes

    return notes(leaf, unit, state.limits, state.above)


def _part(
    disk: disk_names.Disk,
    disks: tuple[disk_names.Disk, ...],
    read_s: float = 0.0,
    above: tuple[Group, ...] = (),
) -> Part:
    group = text(disk.inserted.get("group", ""))
    members = tuple(o.name for o in disks if group and o.qdev != disk.qdev and o.inserted.get("group") == group)
    limits = disk_limits.read(disk.inserted)
    state = State(disk, limits, group, members, disks, read_s, above=above)
    return Part(disk.name, disk.aliases, state, disk.qdev)


def _foreseen(disks: tuple[disk_names.Disk, ...], other: Part, wants: Wants) -> tuple[disk_names.Disk, ...]:
    """The disks once another has been set: whoever is in its group then, has its limits."""
    limits, group = _wanted(other, wants)
    me = other.state.disk
    if group or any(limits[field] for field in RATES.values()):
        group = group or me.short_path  # as QEMU calls the group of a disk that is in none
    return tuple(
        disk._replace(inserted={**disk.inserted, **limits, "group": group})
        if disk.qdev == me.qdev or (group and disk.inserted.get("group") == group)
        else disk
        for disk in disks
    )


def _check_agreed(part: Part, wants: Wants, limits: Limits, group: str) -> None:
    """:raise UsageError: what the command asks of another disk of the group is undone by what it asks of this."""
    state: State = part.state
    held = {
        disk.qdev: disk_limits.read(disk.inserted)
        for disk in state.disks
        if group and disk.inserted.get("group") == group and disk.qdev != state.disk.qdev
    }
    undone = [
        _said(one.name, leaf, value)
        for one in state.asked
        if one.qdev in held
        for leaf, value in one.wants.items()
        if leaf in FIELDS and limits[FIELDS[leaf]] != held[one.qdev][FIELDS[leaf]]
    ]
    if undone:
        mine = " ".join(_said(part.name, leaf, value) for leaf, value in wants.items())
        leave = "" if wants.get("group") else f", or have this disk leave it as well: disk.{part.name}.group=none"
        why = f"the disks of throttle group {group!r} share one set of limits"
        raise UsageError(
            f"{mine} contradicts {' '.join(undone)}: {why}",
            hint=f"ask the same of both{leave}",
        )


def _said(name: str, leaf: str, value: Value | None) -> str:
    lifted = _GROUP.lifted if leaf == "group" else "unlimited"
    return f"disk.{name}.{leaf}={lifted if value is None else value}"


def _leaf_of(row: Row) -> str:
    return row.key.removeprefix("disk.<disk>.")


def _leaf(state: State, leaf: str) -> Value | None:
    if leaf != "group":
        return state.limits[FIELDS[leaf]] or None
    # QEMU gives every limited disk a group of its own name: that is nobody's choice, so it is not shown.
    own = state.group in (
        state.disk.qdev,
        state.disk.short_path,
        state.disk.block_backend,
    ) or state.group.startswith("ringfence-")
    return state.group if state.group and (state.members or not own) else None


def _wanted(part: Part, wants: Wants) -> tuple[dict[str, int], str]:
    """All limits and the group that `wants` come to.

    Who joins a group that has limits, takes them over: QEMU would give the joiner's numbers to every member.
    """
    state: State = part.state
    group, base = state.group, state.limits
    if "group" in wants and wants["group"] is None:
        # QEMU has no command for leaving: moving to a group of one's own is how it is done.
        group = f"ringfence-{part.name}" if _leaf(state, "group") is not None else state.group
    elif wants.get("group") and wants["group"] != state.group:
        group = str(wants["group"])
        base = next(
            (disk_limits.read(disk.inserted) for disk in state.disks if disk.inserted.get("group") == group), base
        )
    limits = disk_limits.lay_over(base, wants)
    if not any(limits[field] for field in RATES.values()):
        group = ""
    return limits, group


def _shared_note(after: Part) -> tuple[str, ...]:
    state: State = after.state
    if not state.members:
        return ()
    return (f"group {state.group!r}: the same limits now hold for {', '.join(state.members)} together with it",)
