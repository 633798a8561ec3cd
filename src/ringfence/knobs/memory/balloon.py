"""Moves by virtio-balloon.

QEMU's `balloon` only notes a target. The guest's driver moves towards it page by page, or does not: so the
target is watched until it is met, stands still, or the deadline passes, and what was reached is what counts.
Sources: QEMU qapi/machine.json (balloon, query-balloon, BALLOON_CHANGE).
"""

from __future__ import annotations

from typing import NamedTuple

from ringfence import units
from ringfence.core.requests import Clock, HostRss, Qmp, Steps, Wait, WallClock
from ringfence.errors import MonitorRefusedError, RingfenceError
from ringfence.knobs.memory import pace
from ringfence.knobs.memory.choose import Move
from ringfence.knobs.memory.ledger import PAGE_BYTES, State, Stats
from ringfence.knobs.memory.pace import POLL_S, STANDSTILL_S, Seen, Trip, Trouble
from ringfence.knobs.memory.read import balloon_bytes, read_stats

STATS_INTERVAL_S = 1
_NO_DRIVER = (
    "it has no balloon driver, or has not booted far enough to load it",
    "set it again once the guest has booted; Linux's driver is the module virtio_balloon",
)
_DEAF_DRIVER = ("its driver does not answer", "see on the guest's console whether it hangs")
_NOTICED_MOVE_BYTES = units.MIB
_TELLING_BYTES = 64 * units.MIB
"""A shrink by less may well hide in the noise of a process's resident memory."""


def targets(move: Move, pace_bytes_per_s: int | None) -> list[int]:
    """What QEMU is told, in order, when the guest follows."""
    largest = abs(move.bytes)
    return pace.stops(move.have_bytes, move.want_bytes, largest, pace=pace_bytes_per_s, block=PAGE_BYTES)


def request(target: int) -> Qmp:
    """Tell the guest, through QEMU."""
    return Qmp("balloon", {"value": target})


def set_polling(path: str, interval_s: int) -> Qmp:
    """Have the guest report statistics; 0 ends that."""
    return Qmp("qom-set", {"path": path, "property": "guest-stats-polling-interval", "value": interval_s})


def next_stats(path: str, interval_s: int, since_s: float, deadline: float) -> Steps[Stats]:
    """Statistics from after `since_s` of the wall clock; without a driver those that there are, or none.

    :param deadline: on the monotonic clock; they come within two intervals, or there is no driver.
    """
    start = yield Clock()
    while True:
        stats = yield from read_stats(path)
        wall, now = (yield WallClock()), (yield Clock())
        # QEMU tells whole seconds: what is of the same one may be from before.
        fresh = stats.age_s is not None and wall - stats.age_s >= int(since_s) + 1
        if fresh or now > min(deadline, start + 2.5 * interval_s):
            return stats
        yield Wait((), POLL_S)


def move(state: State, move: Move, trip: Trip) -> Steps[Seen]:
    """Go there. A target that was not met is replaced by what was reached: the guest is not pressed on unseen."""
    rss_before = yield HostRss()
    start = yield Clock()
    reached = move.have_bytes
    for target in targets(move, trip.pace):
        try:
            yield request(target)
            seen = yield from _watch(move, reached, target, trip)
            reached = seen.actual_bytes
            if seen.met:
                yield from pace.wait(trip, abs(target - move.have_bytes), start)
        except MonitorRefusedError as refusal:
            return Seen(pace.refused(refusal))
        except RingfenceError as error:
            yield from _let_be(state, target, error)
            raise
        if not seen.met:
            yield request(reached)
            break
    rss_after = yield HostRss()
    notes = _rss_notes(move.have_bytes - reached, rss_before, rss_after)
    if seen.met:
        return Seen(None, notes)
    seconds = units.format_seconds(round((yield Clock()) - start, 1))
    return Seen(
        _trouble(state, reached, abs(reached - move.have_bytes) >= _NOTICED_MOVE_BYTES, seen, seconds), notes
    )


class _Watch(NamedTuple):
    actual_bytes: int
    met: bool
    timed_out: bool


def _watch(move: Move, have: int, target: int, trip: Trip) -> Steps[_Watch]:
    best = abs(have - target)
    last_move = yield Clock()
    while True:
        yield Wait(("BALLOON_CHANGE",), POLL_S)
        actual = yield from balloon_bytes()
        now = yield Clock()
        gap = abs(actual - target)
        met = gap < PAGE_BYTES
        yield trip.progress(max(0, abs(move.bytes) - abs(actual - move.want_bytes)))
        if met:
            return _Watch(actual, True, False)
        if gap <= best - _NOTICED_MOVE_BYTES:
            best, last_move = gap, now
        timed_out = now > trip.deadline
        if timed_out or now - last_move > STANDSTILL_S:
            return _Watch(actual, False, timed_out)


def _trouble(state: State, reached: int, moved: bool, seen: _Watch, seconds: str) -> Trouble:
    if moved:
        why = "the deadline passed" if seen.timed_out else f"it has stood still for {STANDSTILL_S:.0f} s"
        usable = units.format_bytes(reached + state.virtio_mem_bytes)
        detail = f"the guest came to {usable} in {seconds} ({why}); that is its target now"
        return Trouble("guest", detail, pace.LATER)
    reason, hint = _NO_DRIVER if state.stats.age_s is None else _DEAF_DRIVER
    detail = f"QEMU accepted the target and nothing moved in {seconds}: {reason}; the target is set back"
    return Trouble("guest", detail, hint)


def _let_be(state: State, target: int, error: RingfenceError) -> Steps[None]:
    """Press the guest no further, now that nobody watches it any more: what it has reached becomes its target."""
    others = state.virtio_mem_bytes
    try:
        reached = yield from balloon_bytes()
        yield request(reached)
    except RingfenceError:
        want = units.format_bytes(target + others)
        error.add_state(f"the balloon's target may be {want}, to which the guest may still move")
    else:
        error.add_state(f"the guest came to {units.format_bytes(reached + others)}, which is its target now")


def _rss_notes(taken: int, before: int | None, after: int | None) -> tuple[str, ...]:
    if before is None or after is None:
        return ()
    note = f"host RSS {units.format_bytes(before)} -> {units.format_bytes(after)}"
    if taken >= _TELLING_BYTES and after > before - taken // 20:
        note += ": the host got nothing back, as the guest never touched those pages, or a VFIO device pins them"
    return (note,)
