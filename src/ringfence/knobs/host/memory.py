"""PURE: memory of a tenant's processes on the host: `memory.limit`, `.high`, `.low`, `.guarantee`, `.swap`.

For a VM that is QEMU with all that its guest may touch: a limit below that does not make the guest smaller, it has
the kernel kill QEMU. So that is refused unless forced; `memory.target` makes a guest smaller.

What a process has used before it came into a group stays charged where it was, on both versions: a VM that is put
into a group while it runs is limited in what it touches from then on only. `ringfence run` starts it inside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ringfence import units
from ringfence.core.answers import entries, fields, number
from ringfence.core.host import Placement
from ringfence.core.knob import EVERY_TENANT, Observation, Outcome, Part, Row, Value, Wants
from ringfence.core.requests import Change, Qmp, ReadFile, Steps, WriteFile
from ringfence.core.requests import Placement as AskPlacement
from ringfence.errors import RingfenceError, UsageError
from ringfence.knobs.host import bandwidth, numbers
from ringfence.knobs.host.carry import applied
from ringfence.knobs.host.home import Do, Home, home_of, why_not
from ringfence.knobs.host.numbers import Held, Setting

OVERHEAD_BYTES = 256 * units.MIB
"""What QEMU itself takes beside its guest's memory: 210 MiB were measured without KVM, mostly translated code."""


def _row(leaf: str, mechanism: str, text: str, *, main: bool = False, lifted: str = "unlimited") -> Row:
    return Row(f"memory.{leaf}", units.BYTES, mechanism, text, lifts=True, main=main, lifted=lifted)


SETTINGS = (
    Setting(
        _row("limit", "memory.max", "memory on the host at most; above it processes are killed", main=True),
        "memory.limit_in_bytes",
        "memory.max",
        "MemoryMax",
    ),
    Setting(
        _row("high", "memory.high", "memory on the host from which on its processes are slowed down"),
        "",
        "memory.high",
        "MemoryHigh",
    ),
    Setting(
        _row("low", "memory.low", "memory that is left to it while others have some to give", lifted="none"),
        "memory.soft_limit_in_bytes",
        "memory.low",
        "MemoryLow",
        none="0",
    ),
    Setting(
        _row("guarantee", "memory.min", "memory that is never taken from it", lifted="none"),
        "",
        "memory.min",
        "MemoryMin",
        none="0",
    ),
    Setting(
        _row("swap", "memory.swap.max", "swap at most, beside the memory"),
        "memory.memsw.limit_in_bytes",
        "memory.swap.max",
        "MemorySwapMax",
    ),
)
_BY_LEAF = {setting.leaf: setting for setting in SETTINGS}
_ONLY_V2 = "cgroup version 1 has no such thing"
_MOVED = (
    "what it has used so far is charged elsewhere and not limited: `ringfence run` starts a VM inside its group"
)


class State(NamedTuple):
    """:param used: charged to the group now.
    :param touchable: what the VM's guest can touch, None when it is no VM, or its monitor does not tell.
    """

    home: Home | None
    held: Held
    reason: str
    used: int | None
    touchable: int | None


class MemoryLimits:
    """See the module."""

    prefix = "memory"
    tenants = EVERY_TENANT
    rows: tuple[Row, ...] = tuple(setting.row for setting in SETTINGS)
    events: tuple[str, ...] = ()

    def observe(self) -> Steps[tuple[Part, ...]]:
        """Find the tenant's group, and read what it holds; one Part."""
        placement: Placement = yield AskPlacement()
        home = home_of(placement, "memory")
        held, used = Held({}), None
        if home is not None:
            held = _from_v1((yield from numbers.read(home, SETTINGS))) if home.version == 1 else (
                yield from numbers.read(home, SETTINGS)
            )  # fmt: skip
            usage = "memory.current" if home.version == 2 else "memory.usage_in_bytes"
            used = (yield ReadFile(home.file(usage), optional=True)) if home.exists else None
        touchable = (yield from _touchable()) if placement.virtual and home is not None else None
        reason = why_not(placement, "memory")
        return (Part("", (), State(home, held, reason, None if used is None else int(used), touchable)),)

    def observation(self, part: Part, row: Row) -> Observation:
        """What the kernel holds."""
        state: State = part.state
        leaf = row.key.removeprefix("memory.")
        reason = state.reason
        if not reason and leaf not in state.held.values:
            old = state.home is not None and state.home.version == 1
            reason = _ONLY_V2 if old and not _BY_LEAF[leaf].v1 else "this kernel has no such file"
        value = state.held.values.get(leaf)
        notes: list[str] = []
        if leaf == "limit" and not reason:
            notes += [f"{units.format_bytes(state.used)} in use"] if state.used is not None else [_MOVED]
        return Observation(row, row.key, value, value, None, None, reason, tuple(notes))

    def check(self, part: Part, wants: Wants, *, force: bool) -> None:
        """Raise UsageError for a limit that would have processes killed, unless forced, and for a bad order."""
        state: State = part.state
        for leaf in wants:
            self.observation(part, _BY_LEAF[leaf].row).refuse_unavailable()
        limit = wants.get("limit")
        if limit is not None and not force:
            _refuse_deadly(state, int(limit))
        if state.home is not None and state.home.version == 1 and wants.get("swap") is not None:
            then = {**state.held.values, **wants}
            if then.get("limit") is None:
                hint = "set both: memory.limit=1GiB memory.swap=512MiB"
                raise UsageError("memory.swap needs memory.limit: version 1 limits the sum of the two", hint=hint)

    def changes(self, part: Part, wants: Wants) -> Sequence[Change]:
        """The group when it is to be made, then the files that differ, in the order that the kernel wants."""
        return bandwidth.requests(self._steps(part, wants))

    def apply(self, part: Part, wants: Wants, *, timeout_s: float, force: bool) -> Steps[Outcome]:
        """Write, and read back."""
        state: State = part.state
        new = state.home is not None and not state.home.exists
        return (yield from applied(self, part, wants, self._steps, notes=(_MOVED,) if new else ()))

    def _steps(self, part: Part, wants: Wants) -> Sequence[Do]:
        state: State = part.state
        if state.home is None:
            return []
        if state.home.version == 1 and not state.home.unit and {"limit", "swap"} & wants.keys():
            return _v1_steps(state.home, state.held, wants)
        order = sorted(wants, key=list(_BY_LEAF).index)
        return numbers.steps(state.home, SETTINGS, state.held, {leaf: wants[leaf] for leaf in order})


def _touchable() -> Steps[int | None]:
    """The guest's memory, with all that the balloon may give back and devices may bring; None when not told."""
    try:
        size, devices = yield [Qmp("query-memory-size-summary"), Qmp("query-memory-devices")]
    except RingfenceError:
        return None
    size = fields(size)
    plugged = number(size.get("plugged-memory", 0))
    asked = [fields(device["data"]) for device in entries(devices) if device["type"] == "virtio-mem"]
    growing = sum(max(0, number(data["requested-size"]) - number(data["size"])) for data in asked)
    return number(size["base-memory"]) + plugged + growing


def _refuse_deadly(state: State, limit: int) -> None:
    if state.touchable is not None and limit < state.touchable + OVERHEAD_BYTES:
        least = units.format_bytes(state.touchable + OVERHEAD_BYTES)
        raise UsageError(
            f"memory.limit={units.format_bytes(limit)} is below what the guest can touch: QEMU would be killed",
            hint=f"at least {least}, or make the guest smaller first (memory.target), or --force",
        )
    if state.used is not None and limit < state.used:
        raise UsageError(
            f"memory.limit={units.format_bytes(limit)} is below what is in use, {units.format_bytes(state.used)}",
            hint="version 2 kills what does not fit, version 1 refuses; --force tries it all the same",
        )


def _from_v1(held: Held) -> Held:
    """v1 limits memory and swap together; the swap alone is the difference."""
    values = dict(held.values)
    if values.get("swap") is not None:
        values["swap"] = max(0, int(values["swap"] or 0) - int(values["limit"] or 0))
    return Held(values)


def _v1_steps(home: Home, held: Held, wants: Wants) -> Sequence[Do]:
    """The sum must never be below the memory: it goes first on the way up, and last on the way down."""
    then: Mapping[str, Value | None] = {**held.values, **wants}
    others = {leaf: want for leaf, want in wants.items() if leaf not in ("limit", "swap")}
    rest = list(numbers.steps(home._replace(making=()), SETTINGS, held, others))
    old_limit, new_limit = held.values.get("limit"), then.get("limit")
    old_sum, new_sum = _sum(old_limit, held.values.get("swap")), _sum(new_limit, then.get("swap"))
    pair: list[Do] = []
    if new_limit != old_limit:
        path = home.file("memory.limit_in_bytes")
        pair.append(Do(WriteFile(path, _v1(new_limit)), WriteFile(path, _v1(old_limit))))
    if new_sum != old_sum:
        path = home.file("memory.memsw.limit_in_bytes")
        both = Do(WriteFile(path, _v1(new_sum)), WriteFile(path, _v1(old_sum)))
        rises = new_sum is None or (old_sum is not None and new_sum > old_sum)
        pair.insert(0 if rises else len(pair), both)
    return [*home.making, *pair, *rest] if pair or rest else []


def _sum(limit: Value | None, swap: Value | None) -> int | None:
    return None if limit is None or swap is None else int(limit) + int(swap)


def _v1(value: Value | None) -> str:
    return "-1" if value is None else str(value)
