"""Moves by virtio-mem.

`requested-size` is a wish. The guest's driver plugs and unplugs blocks until its `size` is the same, or goes on
trying for ever; asked for less than the guest uses, it drives the guest into killing processes.
Sources: QEMU docs/system/devices/virtio/virtio-mem.rst, qapi/machine.json (MEMORY_DEVICE_SIZE_CHANGE).
"""

from __future__ import annotations

from typing import NamedTuple

from ringfence import units
from ringfence.core.answers import number
from ringfence.core.requests import Clock, Qmp, Steps, Wait, WallClock
from ringfence.errors import MonitorRefusedError, RingfenceError
from ringfence.knobs.memory import pace
from ringfence.knobs.memory.balloon import STATS_INTERVAL_S, next_stats
from ringfence.knobs.memory.choose import Move
from ringfence.knobs.memory.ledger import GUEST_RESERVE_BYTES, State, VirtioMem
from ringfence.knobs.memory.online import Blocks, bring_online
from ringfence.knobs.memory.pace import POLL_S, STANDSTILL_S, Seen, Trip, Trouble
from ringfence.knobs.memory.read import qom_get

_GROW_STEP_BYTES = units.GIB
_SHRINK_STEP_BYTES = 512 * units.MIB
"""Between steps the guest's statistics are looked at, which come once a second."""
_MOST_STEPS = 8
_HELP_AFTER_S = 1.0
"""A growing guest that stands still so long waits for its new memory to be brought online."""


def sizes(move: Move, pace_bytes_per_s: int | None) -> list[int]:
    """What is requested, in order, when the guest follows."""
    device = _device(move)
    least = _GROW_STEP_BYTES if move.bytes > 0 else _SHRINK_STEP_BYTES
    largest = max(least, -(-abs(move.bytes) // _MOST_STEPS))
    return pace.stops(move.have_bytes, move.want_bytes, largest, pace=pace_bytes_per_s, block=device.block_bytes)


def request(device: VirtioMem, size: int) -> Qmp:
    """Ask the guest, through QEMU."""
    return Qmp("qom-set", {"path": device.path, "property": "requested-size", "value": size})


def move(state: State, move: Move, trip: Trip, before: Blocks | None) -> Steps[Seen]:
    """Go there in steps. What is not met is asked for no longer: the driver would go on for ever.

    :param before: the guest's memory blocks before the change; None when its agent cannot be asked.
    """
    device = _device(move)
    start = yield Clock()
    reached = move.have_bytes
    for size in sizes(move, trip.pace):
        if size < reached:
            first = reached == move.have_bytes
            trouble = yield from _refuse_to_press(state, reached - size, trip, first=first)
            if trouble:
                return Seen(trouble)
        try:
            yield request(device, size)
            seen = yield from _follow(device, move, reached, size, trip, before)
            moved = abs(seen.size_bytes - move.have_bytes)
            if seen.met:
                yield from pace.wait(trip, moved, start)
        except MonitorRefusedError as refusal:
            return Seen(pace.refused(refusal))
        except RingfenceError as error:
            yield from _let_be(device, size, error)
            raise
        if not seen.met:
            yield request(device, seen.size_bytes)
            return Seen(_trouble(device, moved, seen, (yield Clock()) - start))
        reached = size
    return Seen(None)


class _Watch(NamedTuple):
    size_bytes: int
    met: bool
    timed_out: bool


def _device(move: Move) -> VirtioMem:
    if move.device is None:
        raise ValueError("a move of virtio-mem without its device")
    return move.device


def _refuse_to_press(state: State, less: int, trip: Trip, *, first: bool) -> Steps[Trouble | None]:
    """None when the guest can give up `less` more by its own word, or is not to be minded.

    :param first: nothing was taken yet, so that the word of a second ago counts.
    """
    if trip.force:
        return None
    available = None
    if state.balloon:
        interval = state.balloon.poll_s or STATS_INTERVAL_S
        since = (yield WallClock()) - (interval if first else 0)
        stats = yield from next_stats(state.balloon.path, interval, since, trip.deadline)
        if stats.age_s is not None and stats.age_s <= 3 * interval + 2:
            available = stats.available_bytes
    hint = "--force takes it all the same"
    if available is None:
        detail = "the guest does not say what it can spare, and taking too much kills its processes"
        return Trouble("ringfence", detail, hint)
    if available - GUEST_RESERVE_BYTES < less:
        detail = f"the guest has {units.format_bytes(available)} left: less would kill its processes"
        return Trouble("ringfence", detail, hint)
    return None


def _follow(
    device: VirtioMem, move: Move, have: int, size: int, trip: Trip, before: Blocks | None
) -> Steps[_Watch]:
    """Watch the guest, and help one that waits for its memory to be brought online."""
    while True:
        helping = size > have and before is not None
        seen = yield from _watch(device, move, have, size, trip, _HELP_AFTER_S if helping else STANDSTILL_S)
        if seen.met or seen.timed_out or before is None or not helping:
            return seen
        if not (yield from bring_online(before)):
            before = None
        have = seen.size_bytes


def _watch(device: VirtioMem, move: Move, have: int, size: int, trip: Trip, standstill_s: float) -> Steps[_Watch]:
    best = abs(have - size)
    last_move = yield Clock()
    while True:
        yield Wait(("MEMORY_DEVICE_SIZE_CHANGE",), POLL_S)
        reached = yield from _size(device)
        now = yield Clock()
        gap = abs(reached - size)
        yield trip.progress(max(0, abs(move.bytes) - abs(reached - move.want_bytes)))
        if not gap:
            return _Watch(reached, True, False)
        if gap < best:
            best, last_move = gap, now
        timed_out = now > trip.deadline
        if timed_out or now - last_move > standstill_s:
            return _Watch(reached, False, timed_out)


def _size(device: VirtioMem) -> Steps[int]:
    return number((yield qom_get(device.path, "size")))


def _let_be(device: VirtioMem, wanted: int, error: RingfenceError) -> Steps[None]:
    """Press the guest no further, now that nobody watches it any more: what it has reached becomes the request."""
    try:
        reached = yield from _size(device)
        yield request(device, reached)
    except RingfenceError:
        error.add_state(f"{units.format_bytes(wanted)} may still be requested of {device.name}")
    else:
        error.add_state(f"{device.name} came to {units.format_bytes(reached)}, which is what is requested now")


def _trouble(device: VirtioMem, moved: int, seen: _Watch, seconds: float) -> Trouble:
    how = f"in {units.format_seconds(round(seconds, 1))}"
    if not moved:
        return Trouble(
            "guest",
            f"QEMU accepted the request and {device.name} did not move {how}: the guest has no virtio-mem driver,"
            " or cannot; the request is taken back",
            "Linux's driver is the module virtio_mem",
        )
    why = "the deadline passed" if seen.timed_out else f"it has stood still for {STANDSTILL_S:.0f} s"
    size = units.format_bytes(seen.size_bytes)
    detail = f"{device.name} came to {size} {how} ({why}); that is what is requested now"
    return Trouble("guest", detail, pace.LATER)
