"""PURE: which mechanism makes a VM's memory larger or smaller, and why.

The balloon is exact to a page and needs nobody's leave, but what it takes lies scattered over the guest, and the
host gets nothing back of memory that is pinned. virtio-mem moves whole blocks, quickly. DIMMs come and go as a
whole, and leave only when the guest can empty all of one.
"""

from __future__ import annotations

from typing import NamedTuple

from ringfence import units
from ringfence.errors import TenantError, UsageError
from ringfence.knobs.memory.ledger import (
    DIMM_BLOCK_BYTES,
    PAGE_BYTES,
    Dimm,
    State,
    VirtioMem,
    dimm_room_bytes,
)

BALLOON, VIRTIO_MEM, PC_DIMM = "balloon", "virtio-mem", "pc-dimm"
LARGE_BYTES = units.GIB
"""From here on a move is virtio-mem's, where there is some."""
START_WITH = {
    BALLOON: "-device virtio-balloon-pci",
    VIRTIO_MEM: "-object memory-backend-ram,id=vmem0,size=SIZE"
    " -device virtio-mem-pci,id=virtio-mem0,memdev=vmem0,requested-size=0 and -m SIZE,maxmem=MORE",
    PC_DIMM: "-m SIZE,slots=8,maxmem=MORE",
}
"""What a VM needs to have each."""
_AS_ASKED = "as asked"


class Move(NamedTuple):
    """One mechanism's part of a change.

    :param have_bytes: by the mechanism's own count: the balloon's target, virtio-mem's requested size, 0 for
        DIMMs; `want_bytes` likewise, where DIMMs that are plugged count up and those unplugged down.
    :param device: of virtio-mem.
    :param dimms: to be unplugged, in order.
    """

    via: str
    have_bytes: int
    want_bytes: int
    device: VirtioMem | None = None
    dimms: tuple[Dimm, ...] = ()

    @property
    def bytes(self) -> int:
        """What it adds to the guest; negative when it takes."""
        return self.want_bytes - self.have_bytes


class Choice(NamedTuple):
    """:param reason: why these; empty when there is nothing to do."""

    moves: tuple[Move, ...]
    reason: str = ""

    @property
    def used(self) -> str:
        """The mechanisms, for people."""
        return ", ".join(dict.fromkeys(move.via for move in self.moves))


def mechanisms(state: State) -> tuple[str, ...]:
    """What this VM has."""
    has = {
        BALLOON: state.balloon is not None,
        VIRTIO_MEM: bool(state.virtio_mems),
        PC_DIMM: state.free_slots > 0 or any(dimm.removable for dimm in state.dimms),
    }
    return tuple(name for name, there in has.items() if there)


def too_low(want: int, floor: int) -> UsageError:
    """What to say when the guest cannot do with `want`."""
    return UsageError(
        f"memory.target={units.format_bytes(want)} is less than the guest now uses: it would kill processes",
        hint=f"at least {units.format_bytes(floor)} now; --force presses the guest all the same",
    )


def choose(state: State, want: int, via: str | None) -> Choice:
    """How to come from what the guest may use now to `want`.

    :param via: only by this one; None leaves it to the rules.
    :raise UsageError: it cannot be met so; the hint says what can.
    :raise TenantError: the VM lacks the mechanism that was named.
    """
    if via is not None:
        _refuse_missing(state, via)
    left = want - state.usable_bytes
    if abs(left) < PAGE_BYTES:
        return Choice(())
    if left > 0:
        return _grow(state, left, via)
    choice = _shrink_by(state, -left, via) if via else _shrink(state, -left)
    if state.pinned and any(move.via == BALLOON for move in choice.moves):
        return choice._replace(reason=f"{choice.reason}; the host may get nothing back: {state.pinned}")
    return choice


def _refuse_missing(state: State, via: str) -> None:
    if via not in START_WITH:
        raise UsageError(f"memory.target.via={via} is no mechanism", hint=f"write one of {', '.join(START_WITH)}")
    there = mechanisms(state)
    if via not in there:
        raise TenantError(
            f"memory.target.via={via} is not available: this VM has {', '.join(there) or 'none'}",
            hint=f"start it with {START_WITH[via]}",
        )


def _grow(state: State, left: int, via: str | None) -> Choice:
    want = state.usable_bytes + left
    _refuse_too_much(state, want, via)
    moves: list[Move] = []
    reasons: list[str] = []
    if via in (None, BALLOON) and state.balloon and state.ballooned_bytes >= PAGE_BYTES:
        given = min(left, state.ballooned_bytes)
        moves.append(Move(BALLOON, state.balloon.actual_bytes, state.balloon.actual_bytes + given))
        reasons.append("the balloon gives back what it holds")
        left -= given
    if left >= PAGE_BYTES and via in (None, VIRTIO_MEM):
        plugged = _virtio_mem_up(state, left)
        moves += plugged
        left -= sum(move.bytes for move in plugged)
        reasons += ["virtio-mem adds without a new device"] if plugged else []
        block = min((d.block_bytes for d in state.virtio_mems), default=0)
        if PAGE_BYTES <= left < block:
            raise _not_whole(f"virtio-mem moves blocks of {units.format_bytes(block)}", want - left, block)
    if left >= PAGE_BYTES:
        if left % DIMM_BLOCK_BYTES:
            size = units.format_bytes(DIMM_BLOCK_BYTES)
            raise _not_whole(
                f"DIMMs come in multiples of {size}", want - left % DIMM_BLOCK_BYTES, DIMM_BLOCK_BYTES
            )
        moves.append(Move(PC_DIMM, 0, left))
        reasons.append("virtio-mem is full" if state.virtio_mems else "more than boot memory, and no virtio-mem")
    return Choice(tuple(moves), _AS_ASKED if via else ", then ".join(reasons))


def _refuse_too_much(state: State, want: int, via: str | None) -> None:
    if via is None:
        most, whose = state.maximum_bytes, "the VM's memory"
    elif via == PC_DIMM:
        room = dimm_room_bytes(state)
        most, whose = None if room is None else state.usable_bytes + room, "what DIMMs can add"
    elif via == VIRTIO_MEM:
        spare = sum(device.max_bytes - device.size_bytes for device in state.virtio_mems)
        most, whose = state.usable_bytes + spare, "what virtio-mem can add"
    else:
        most, whose = state.usable_bytes + state.ballooned_bytes, "what the balloon can give back"
    if most is not None and want - most >= PAGE_BYTES:
        size = units.format_bytes(most)
        others = "; other mechanisms may give more" if via else "; to start it with more is the only way up"
        raise UsageError(
            f"memory.target={units.format_bytes(want)} is above {whose}, {size}", hint=f"at most {size}{others}"
        )


def _virtio_mem_up(state: State, left: int) -> list[Move]:
    moves = []
    for device in state.virtio_mems:
        part = _whole(min(left, device.max_bytes - device.size_bytes), device.block_bytes)
        if part:
            moves.append(Move(VIRTIO_MEM, device.size_bytes, device.size_bytes + part, device))
            left -= part
    return moves


def _virtio_mem_down(state: State, less: int) -> list[Move]:
    """As much of `less` as whole blocks of what is plugged make."""
    moves = []
    for device in reversed(state.virtio_mems):
        part = _whole(min(less, device.size_bytes), device.block_bytes)
        if part:
            moves.append(Move(VIRTIO_MEM, device.size_bytes, device.size_bytes - part, device))
            less -= part
    return moves


def _whole(size: int, block: int) -> int:
    return size // block * block


def _shrink(state: State, less: int) -> Choice:
    has_balloon = state.balloon is not None
    if state.virtio_mem_bytes and (state.pinned or less >= LARGE_BYTES or not has_balloon):
        why = state.pinned or ("there is no balloon" if not has_balloon else "a move of a GiB or more")
        moves = _virtio_mem_down(state, less)
        rest = less + sum(move.bytes for move in moves)
        if rest >= PAGE_BYTES:
            moves += (_balloon_down if has_balloon else _dimms_down)(state, rest)
            why += f", then {moves[-1].via} for the rest"
        return Choice(tuple(moves), why)
    if not has_balloon or (state.pinned and fitting(state.dimms, less)):
        return Choice(tuple(_dimms_down(state, less)), state.pinned or "there is no balloon")
    return Choice(tuple(_balloon_down(state, less)), "exact to a page, and given back at once")


def _shrink_by(state: State, less: int, via: str) -> Choice:
    want = state.usable_bytes - less
    if via == BALLOON:
        return Choice(tuple(_balloon_down(state, less)), _AS_ASKED)
    if via == PC_DIMM:
        return Choice(tuple(_dimms_down(state, less)), _AS_ASKED)
    if less > state.virtio_mem_bytes:
        raise UsageError(
            f"memory.target={units.format_bytes(want)} is below what virtio-mem can take:"
            f" {units.format_bytes(state.virtio_mem_bytes)} of it are plugged",
            hint=f"at least {units.format_bytes(state.usable_bytes - state.virtio_mem_bytes)} this way",
        )
    moves = _virtio_mem_down(state, less)
    rest = less + sum(move.bytes for move in moves)
    if rest >= PAGE_BYTES:
        block = min(device.block_bytes for device in state.virtio_mems)
        raise _not_whole(f"virtio-mem moves blocks of {units.format_bytes(block)}", want + rest - block, block)
    return Choice(tuple(moves), _AS_ASKED)


def _balloon_down(state: State, less: int) -> list[Move]:
    if state.balloon is None or state.balloon.actual_bytes - less < PAGE_BYTES:
        raise UsageError(
            f"memory.target={units.format_bytes(state.usable_bytes - less)} is less than the balloon can leave",
            hint="unplug memory first: memory.target.via names the mechanism",
        )
    return [Move(BALLOON, state.balloon.actual_bytes, state.balloon.actual_bytes - less)]


def _dimms_down(state: State, less: int) -> list[Move]:
    """Whole DIMMs, with the balloon out of the way: QEMU keeps what it holds, however much is left."""
    dimms = fitting(state.dimms, less)
    if dimms is None:
        sums = sorted(size for size in _sums(state.dimms) if size)
        sizes = ", ".join(units.format_bytes(state.usable_bytes - size) for size in sums[:8])
        want = units.format_bytes(state.usable_bytes - less)
        raise UsageError(
            f"memory.target={want} cannot be met by unplugging whole DIMMs",
            hint=f"with those it has: {sizes}" if sizes else "none was plugged while it ran, so none can go",
        )
    unplug = Move(PC_DIMM, 0, -less, dimms=dimms)
    held = state.ballooned_bytes
    if not state.balloon or held < PAGE_BYTES:
        return [unplug]
    now, full = state.balloon.actual_bytes, state.boot_bytes + state.dimm_bytes
    return [Move(BALLOON, now, full), unplug, Move(BALLOON, full - less, full - less - held)]


def fitting(dimms: tuple[Dimm, ...], less: int) -> tuple[Dimm, ...] | None:
    """Removable DIMMs that make exactly `less`, the last plugged first; None when none do."""
    return _sums(dimms).get(less)


def _sums(dimms: tuple[Dimm, ...]) -> dict[int, tuple[Dimm, ...]]:
    sums: dict[int, tuple[Dimm, ...]] = {0: ()}
    for dimm in sorted((d for d in dimms if d.removable), key=lambda d: -d.slot):
        for size, chosen in list(sums.items()):
            sums.setdefault(size + dimm.size_bytes, (*chosen, dimm))
    return sums


def _not_whole(rule: str, low: int, block: int) -> UsageError:
    sizes = " or ".join(units.format_bytes(size) for size in (low, low + block) if size > 0)
    return UsageError(f"memory.target cannot be met exactly: {rule}", hint=f"the nearest are {sizes}")
