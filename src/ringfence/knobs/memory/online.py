"""Whether a guest uses the memory that was plugged into it, and helping it to.

Without a policy of its own (`memhp_default_state`, udev) a guest leaves new memory offline: QEMU has it, and
nobody can use it. Its agent can see that and put it right.
Sources: QEMU qga/qapi-schema.json (guest-get-memory-blocks, guest-set-memory-blocks); Linux
Documentation/admin-guide/mm/memory-hotplug.rst.
"""

from __future__ import annotations

from typing import NamedTuple

from ringfence import units
from ringfence.core.answers import ILL_FORMED, entries, fields, number
from ringfence.core.requests import Agent, Clock, Steps, Wait, WallClock
from ringfence.errors import GuestError
from ringfence.knobs.memory.balloon import STATS_INTERVAL_S, next_stats, set_polling
from ringfence.knobs.memory.ledger import State
from ringfence.knobs.memory.pace import POLL_S, Seen, Trouble

_SETTLE_S = 5.0
"""A guest under emulation shows a new DIMM after 0.6 s, and brings it online at once or not at all."""


class Blocks(NamedTuple):
    """Memory blocks of a guest. :param online: their numbers; `offline` those that it does not use."""

    block_bytes: int
    online: frozenset[int]
    offline: frozenset[int]

    @property
    def all(self) -> frozenset[int]:
        """Numbers of all it knows of."""
        return self.online | self.offline


def blocks() -> Steps[Blocks | None]:
    """The guest's memory blocks; None when it has no agent, or one that cannot tell."""
    try:
        size = number(fields((yield Agent("guest-get-memory-block-info", timeout_s=2.0)))["size"])
        found = entries((yield Agent("guest-get-memory-blocks")))
        online = frozenset(number(entry["phys-index"]) for entry in found if entry["online"])
        return Blocks(size, online, frozenset(number(entry["phys-index"]) for entry in found) - online)
    except (GuestError, *ILL_FORMED):
        return None


def bring_online(before: Blocks) -> Steps[bool]:
    """Ask the guest to use what it left offline since `before`; whether there was anything to ask for."""
    now = yield from blocks()
    new = sorted(now.offline - before.all) if now else []
    if not new:
        return False
    try:
        yield Agent("guest-set-memory-blocks", {"mem-blks": [{"phys-index": n, "online": True} for n in new]})
    except GuestError:
        return False
    return True


def settle(before: Blocks, added: int) -> Steps[Trouble | None]:
    """See that the guest uses all that came since `before`.

    :param added: bytes of whole blocks that have to appear; 0 when that cannot be told from their number.
    """
    start = yield Clock()
    while True:
        asked = yield from bring_online(before)
        now = yield from blocks()
        if now is None:
            return Trouble("guest", "its agent went away before it could tell whether the new memory is used")
        offline = len(now.offline - before.all) * now.block_bytes
        used = len(now.online - before.all) * now.block_bytes
        if not offline and used >= added:
            return None
        if (yield Clock()) - start > _SETTLE_S:
            missing = units.format_bytes(max(offline, added - used))
            how = "and would not bring it online" if asked else "and does not see it"
            detail = f"QEMU has plugged it, the guest does not use {missing} of it {how}"
            return Trouble("guest", detail, "boot the guest with memhp_default_state=online_movable")
        yield Wait((), POLL_S)


def total_bytes(state: State, deadline: float) -> Steps[int | None]:
    """The guest's own word for all its memory, by the balloon's statistics; None without them."""
    if not state.balloon:
        return None
    path = state.balloon.path
    if not state.poll_s:
        yield set_polling(path, STATS_INTERVAL_S)
    stats = yield from next_stats(path, state.poll_s or STATS_INTERVAL_S, (yield WallClock()), deadline)
    if not state.poll_s:
        yield set_polling(path, 0)
    return stats.total_bytes


def by_statistics(state: State, before: int | None, added: int, deadline: float) -> Steps[Seen]:
    """As `settle`, for a guest without an agent.

    :param before: its total before `added` bytes were plugged; None when it was not told.
    """
    now = None if before is None else (yield from total_bytes(state, deadline))
    if before is None or now is None:
        return Seen(None, ("neither agent nor statistics: whether the guest uses the new memory is not known",))
    used = now - before
    if used >= added // 2:  # the rest may have gone into page tables for it
        return Seen(None)
    return Seen(
        Trouble(
            "guest",
            f"QEMU has plugged {units.format_bytes(added)}, the guest uses {units.format_bytes(max(0, used))}"
            " of it; its agent could bring it online",
            "run qemu-guest-agent in the guest, or boot it with memhp_default_state=online_movable",
        )
    )
