"""The host's own drives among tenants that want a class of isolation, by what the drives can do.

What a drive's own words mean at best: a drive of one's own shares no bus and no die, which is isolation by
channel. NVM sets and endurance groups have media of their own, but whether buses too only the vendor knows:
isolation by die. Reclaim groups of FDP and zones are blocks of one's own: isolation by software, with limits of
the host. FDP's handles and namespaces are none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ringfence import units
from ringfence.flash.drives import Drive, Placement, abilities, place
from ringfence.flash.planning import AUTO, STEPS, STRONGEST_FIRST, Refusal, Wanted, most_steps, rounded
from ringfence.flash.vssd import Isolation

_BRINGS = {
    "separate drives": Isolation.CHANNEL,
    "NVM sets": Isolation.DIE,
    "endurance groups": Isolation.DIE,
    "FDP reclaim groups": Isolation.SOFTWARE,
    "zones": Isolation.SOFTWARE,
}


class Placed(NamedTuple):
    """:param isolation: that it gets, which may be more than it wants."""

    tenant: Wanted
    isolation: Isolation
    placement: Placement


class DrivePlan(NamedTuple):
    """In the order in which the tenants were named."""

    tenants: tuple[Placed, ...]
    refused: tuple[Refusal, ...]


def plan_drives(drives: Sequence[Drive], wanted: Sequence[Wanted]) -> DrivePlan:
    """Divide drives among tenants, those named first before those named later.

    Here `auto` is the best that the drives have, be it none: then the host's limits are all there is.
    """
    inside: list[Wanted] = []
    refused = []
    found: dict[str, Placement] = {}
    for one in wanted:
        trial = _arranged(drives, [*inside, one])
        if trial is None:
            refused.append(one)
        else:
            found = trial
            inside.append(one)
    return DrivePlan(
        tuple(Placed(one, _brings(found[one.name]), found[one.name]) for one in inside),
        tuple(Refusal(one, _why(drives, inside, one), _helps(drives, inside, one)) for one in refused),
    )


def _brings(placement: Placement) -> Isolation:
    return _BRINGS.get(placement.kind, Isolation.NONE)


def _strength(isolation: Isolation | None) -> int:
    """0 for the strongest; `auto` is content with any."""
    return STRONGEST_FIRST.index(isolation or Isolation.NONE)


def _arranged(drives: Sequence[Drive], tenants: Sequence[Wanted]) -> dict[str, Placement] | None:
    """Where each goes, so that all get what they want; None where no way to do so was found."""
    strongest = sorted(tenants, key=lambda one: (_strength(one.isolation), -one.capacity_bytes))
    alone = sum(one.isolation is Isolation.CHANNEL for one in tenants)
    counts = range(alone, min(len(drives), len(tenants)) + 1)
    for count in [len(tenants), *counts] if len(tenants) in counts else counts:
        own = _own_drives(drives, strongest[:count])
        if own is None:
            continue
        taken = {placement.drive for placement in own.values()}
        left = [drive for drive in drives if drive.name not in taken]
        rest = strongest[count:]
        shared = {placement.tenant: placement for placement in place([one.name for one in rest], left)}
        if len(shared) == len(rest) and _satisfied(left, rest, shared):
            return {**own, **shared}
    return None


def _own_drives(drives: Sequence[Drive], tenants: Sequence[Wanted]) -> dict[str, Placement] | None:
    """A drive for each: the largest tenant first, the smallest drive that holds it, and that can do least else."""
    left = sorted(drives, key=lambda drive: (drive.capacity_bytes, len(abilities(drive))))
    found: dict[str, Placement] = {}
    for one in sorted(tenants, key=lambda one: -one.capacity_bytes):
        drive = next((d for d in left if not d.capacity_bytes or d.capacity_bytes >= one.capacity_bytes), None)
        if drive is None:
            return None
        left.remove(drive)
        (found[one.name],) = place([one.name], [drive])
    return found


def _satisfied(drives: Sequence[Drive], tenants: Sequence[Wanted], placed: dict[str, Placement]) -> bool:
    used = dict.fromkeys((drive.name for drive in drives), 0)
    for one in tenants:
        placement = placed[one.name]
        if _strength(_brings(placement)) > _strength(one.isolation):
            return False
        used[placement.drive] += one.capacity_bytes
    return all(not drive.capacity_bytes or used[drive.name] <= drive.capacity_bytes for drive in drives)


def _why(drives: Sequence[Drive], inside: Sequence[Wanted], one: Wanted) -> str:
    """Room, or the class."""
    asks = f"{units.format_bytes(one.capacity_bytes)} of class {one.wanted_class}"
    if _arranged(drives, [*inside, one._replace(capacity_bytes=1)]) is not None:
        return f"{asks} does not fit beside the others: there is no room"
    names = ", ".join(drive.name for drive in drives)
    if one.isolation is Isolation.CHANNEL:
        return f"isolation by channel takes a drive of its own, and none of {names} can be spared"
    return f"{asks} does not fit beside the others: {names} cannot hold all of them apart by that"


def _helps(drives: Sequence[Drive], inside: Sequence[Wanted], one: Wanted) -> tuple[str, ...]:
    """What was tried and lets it in; and what may be found out of a drive that did not tell all."""
    return (*_tried(drives, inside, one), *_to_find_out(drives)) or ("a larger drive, or more of them",)


def _tried(drives: Sequence[Drive], inside: Sequence[Wanted], one: Wanted) -> Iterator[str]:
    def fits(changed: Wanted, more: tuple[Drive, ...] = ()) -> bool:
        return _arranged([*drives, *more], [*inside, changed]) is not None

    def smaller(step: int) -> Wanted:
        return one._replace(capacity_bytes=rounded(one.capacity_bytes * step // STEPS))

    weaker = () if one.isolation is None else STRONGEST_FIRST[_strength(one.isolation) + 1 :]
    isolation = next((isolation for isolation in weaker if fits(one._replace(isolation=isolation))), None)
    if isolation is not None:
        yield f"class: {isolation}"
    step = most_steps(lambda step: fits(smaller(step)))
    if step and smaller(step).capacity_bytes:
        yield f"capacity: {units.format_bytes(smaller(step).capacity_bytes)}"
    for other in inside:
        changed = [w._replace(isolation=None) if w is other else w for w in inside]
        if other.isolation is not None and _arranged(drives, [*changed, one]) is not None:
            yield f"class: {AUTO} for {other.name}"
            break
    if fits(one, (Drive("another", capacity_bytes=one.capacity_bytes),)):
        yield f"one more drive, of {units.format_bytes(one.capacity_bytes)} or more"


def _to_find_out(drives: Sequence[Drive]) -> Iterator[str]:
    silent = [drive.name for drive in drives if not drive.known]
    if silent:
        yield f"nvme-cli and root, to ask {', '.join(silent)} what else it can do"
