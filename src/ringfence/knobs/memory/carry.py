"""Carrying out what was chosen: what must not begin now, each move with what stands around it, and the verdict."""

from __future__ import annotations

from typing import NamedTuple

from ringfence import units
from ringfence.core.knob import Outcome, Part, Verdict
from ringfence.core.requests import Clock, Qmp, Steps, WallClock
from ringfence.errors import MonitorRefusedError, RingfenceError
from ringfence.knobs.memory import balloon, dimm, online, virtio_mem
from ringfence.knobs.memory.balloon import STATS_INTERVAL_S, next_stats, set_polling
from ringfence.knobs.memory.choose import BALLOON, PC_DIMM, VIRTIO_MEM, Choice, Move, too_low
from ringfence.knobs.memory.ledger import PAGE_BYTES, State, floor_bytes
from ringfence.knobs.memory.online import Blocks
from ringfence.knobs.memory.pace import Seen, Trip, Trouble
from ringfence.knobs.memory.read import read

_NOTICED_BYTES = units.MIB
_PENDING_HINT = "set it again when that has come to an end, or --force"


class Want(NamedTuple):
    """:param pace: bytes/s at most; None is at once. :param force: what would only hurt the guest is allowed."""

    bytes: int
    pace: int | None
    timeout_s: float
    force: bool


def requests(state: State, choice: Choice, pace: int | None) -> list[Qmp]:
    """Everything `out` sends when the guest follows."""
    moves = [request for move in choice.moves for request in _requests(state, move, pace)]
    if state.balloon and _needs_stats(state, choice):
        path = state.balloon.path
        moves = [set_polling(path, STATS_INTERVAL_S), *moves, set_polling(path, state.poll_s)]
    return [*(dimm.remove(name) for name in state.leftovers), *moves]


def out(part: Part, choice: Choice, want: Want) -> Steps[Outcome]:
    """Carry `choice` out, and say what became of it."""
    state: State = part.state
    notes = yield from _clean_up(state)
    if not choice.moves:
        after = part if not notes else Part("", (), (yield from read()))
        return Outcome(Verdict.APPLIED, after, notes=("already so", *notes))
    refused = _not_now(state, want.force)
    if refused:
        return Outcome(Verdict.REFUSED, part, refused.by, refused.detail, notes, refused.hint)
    total = sum(abs(move.bytes) for move in choice.moves)
    deadline = (yield Clock()) + want.timeout_s + (total / want.pace if want.pace else 0.0)
    trip = Trip(deadline, want.pace, total, 0, want.force)
    polling = state.balloon is not None and _needs_stats(state, choice)
    try:
        seen = yield from _go(state, want.bytes, choice, trip, polling)
    except RingfenceError as error:
        if polling:
            yield from _stop_polling(state, error)
        raise
    if polling and state.balloon:
        yield set_polling(state.balloon.path, state.poll_s)
    after_it = (yield from read())._replace(used=choice.used, pace=want.pace)
    return _outcome(state, after_it, want.bytes, choice, seen._replace(notes=(*notes, *seen.notes)))


def _requests(state: State, move: Move, pace: int | None) -> list[Qmp]:
    if move.via == BALLOON:
        return [balloon.request(target) for target in balloon.targets(move, pace)]
    if move.via == VIRTIO_MEM and move.device:
        return [virtio_mem.request(move.device, size) for size in virtio_mem.sizes(move, pace)]
    if move.bytes > 0:
        return [request for new in dimm.plugs(state, move, pace) for request in new.requests()]
    return [request for gone in move.dimms for request in dimm.unplug_requests(gone)]


def _needs_stats(state: State, choice: Choice) -> bool:
    """Before memory is taken the guest is asked; between steps of virtio-mem more often than a monitor asks."""
    takes = sum(move.bytes for move in choice.moves) < 0
    often = any(move.via == VIRTIO_MEM for move in choice.moves)
    return takes and (not state.poll_s or (often and state.poll_s > STATS_INTERVAL_S))


def _not_now(state: State, force: bool) -> Trouble | None:
    """Why nothing can begin: the guest stands, or an earlier request is still on its way."""
    if state.runstate != "running":
        detail = f"the VM is {state.runstate}: its guest cannot move before it runs (`cont`)"
        return Trouble("guest", detail, "let it run: ringfence monitor VM cont")
    leaving = [entry.id for entry in state.dimms if entry.leaving]
    if leaving and not force:
        return Trouble("guest", f"an earlier unplug of {', '.join(leaving)} goes on", _PENDING_HINT)
    for device in state.virtio_mems:
        if device.requested_bytes != device.size_bytes and not force:
            asked, has = units.format_bytes(device.requested_bytes), units.format_bytes(device.size_bytes)
            detail = f"{device.name} is on its way from {has} to {asked}"
            return Trouble("guest", detail, _PENDING_HINT)
    return None


def _clean_up(state: State) -> Steps[tuple[str, ...]]:
    """Remove backends of ours that no device uses; gives a note for each."""
    notes = []
    for name in state.leftovers:
        try:
            yield dimm.remove(name)
        except MonitorRefusedError as refusal:
            notes.append(f"backend {name} has no device and QEMU keeps it: {refusal.message}")
        else:
            notes.append(f"removed backend {name}, left by an unplug that ended late")
    return tuple(notes)


def _stop_polling(state: State, error: RingfenceError) -> Steps[None]:
    """Best effort, after an error that is about to be told."""
    try:
        if state.balloon:
            yield set_polling(state.balloon.path, state.poll_s)
    except RingfenceError:
        error.add_state(f"its guest is still asked for statistics every {STATS_INTERVAL_S} s")


def _go(state: State, want: int, choice: Choice, trip: Trip, polling: bool) -> Steps[Seen]:
    """Make the moves, once the guest's own word is not against it; then see that it uses what it got."""
    if polling and state.balloon:
        yield set_polling(state.balloon.path, STATS_INTERVAL_S)
        stats = yield from next_stats(state.balloon.path, STATS_INTERVAL_S, (yield WallClock()) - 1, trip.deadline)
        state = state._replace(stats=stats, balloon=state.balloon._replace(poll_s=STATS_INTERVAL_S))
    floor = floor_bytes(state)
    if polling and floor is not None and want < floor and not trip.force:
        error = too_low(want, floor)
        return Seen(Trouble("ringfence", error.message, error.hint))
    plugs = any(move.bytes > 0 and move.via != BALLOON for move in choice.moves)
    before = (yield from online.blocks()) if plugs else None
    notes: tuple[str, ...] = ()
    total: int | None = None
    now = state
    for move in choice.moves:
        if plugs and before is None and move.via != BALLOON and total is None:
            total = yield from online.total_bytes(now, trip.deadline)
        seen = yield from _move(now, move, trip, before)
        notes += seen.notes
        if seen.trouble:
            if move.via == PC_DIMM and move.bytes < 0:
                notes += yield from _hold_again(state, trip)
            return Seen(seen.trouble, notes)
        trip = trip._replace(done=trip.done + abs(move.bytes))
        if move is not choice.moves[-1]:
            now = yield from read()
    if not plugs:
        return Seen(None, notes)
    if before is not None:
        added = sum(move.bytes for move in choice.moves if move.via == PC_DIMM)
        return Seen((yield from online.settle(before, added)), notes)
    added = sum(move.bytes for move in choice.moves if move.via != BALLOON)
    seen = yield from online.by_statistics(state, total, added, trip.deadline)
    return seen._replace(notes=notes + seen.notes)


def _hold_again(state: State, trip: Trip) -> Steps[tuple[str, ...]]:
    """The balloon was emptied for a DIMM to leave. It stays: back to what the balloon held."""
    now = yield from read()
    if not now.balloon or state.ballooned_bytes - now.ballooned_bytes < PAGE_BYTES:
        return ()
    actual = now.balloon.actual_bytes
    back = Move(BALLOON, actual, actual + now.ballooned_bytes - state.ballooned_bytes)
    seen = yield from balloon.move(now, back, trip)
    return () if seen.trouble else ("the balloon, which was emptied for it, holds again what it held",)


def _move(state: State, move: Move, trip: Trip, before: Blocks | None) -> Steps[Seen]:
    if move.via == BALLOON:
        return (yield from balloon.move(state, move, trip))
    if move.via == VIRTIO_MEM:
        return (yield from virtio_mem.move(state, move, trip, before))
    if move.bytes > 0:
        return (yield from dimm.plug(state, move, trip, before))
    return (yield from dimm.unplug(move, trip))


def _outcome(before: State, after: State, want: int, choice: Choice, seen: Seen) -> Outcome:
    """The verdict, by what is so `after`."""
    part = Part("", (), after)
    notes = (f"by {choice.used}: {choice.reason}", *seen.notes)
    if not seen.trouble:
        if abs(after.usable_bytes - want) < PAGE_BYTES:
            return Outcome(Verdict.APPLIED, part, notes=notes)
        detail = f"it was met, and is {units.format_bytes(after.usable_bytes)} since"
        return Outcome(Verdict.PARTIAL, part, "guest", detail, notes)
    moved = abs(after.usable_bytes - before.usable_bytes) >= _NOTICED_BYTES
    verdict = Verdict.PARTIAL if moved else Verdict.REFUSED
    return Outcome(verdict, part, seen.trouble.by, seen.trouble.detail, notes, seen.trouble.hint)
