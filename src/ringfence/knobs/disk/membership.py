"""The knob `disk.<disk>.pool`: a running disk put under a shared pool, and taken out again without a trace.

A throttle filter is added over the disk's image and the device is moved onto it (`qom-set drive`), under load. The
disk's own limits stand in the device's backend and go on holding: of both, the lower one wins. The filter passes
discards on and repeats the cache settings, so that the disk is to the guest what it was.

QEMU (every version tried, 5.2 to 11.1) crashes in `blockdev-add` of a throttle filter over a node that lives in an
iothread: such disks are refused before anything is sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count
from typing import NamedTuple

from ringfence import units
from ringfence.core.knob import ONLY_VMS, Advice, Observation, Outcome, Part, Row, Verdict, Wants
from ringfence.core.requests import Agent, Qmp, Steps
from ringfence.errors import MonitorRefusedError, TenantError, UsageError
from ringfence.knobs.disk import graph, names, pools, watch
from ringfence.knobs.disk.graph import Filter, Graph, Pool, Stack

_ROW = Row(
    key="disk.<disk>.pool",
    unit=units.NAME,
    mechanism="throttle filter",
    help="pool whose quota the disk shares with other disks, beside its own limits",
    lifts=True,
    main=False,
    lifted="none",
)
_IN_IOTHREAD = "its requests are handled by an iothread, and QEMU crashes when a filter is put over such a disk"
_PREPARED = Advice(
    option="-object throttle-group,id=ringfence-pool-NAME and -blockdev driver=throttle,node-name=FILTER,"
    "file=NODE,throttle-group=ringfence-pool-NAME, with FILTER as the device's drive",
    why="a filter that is there from the start is limited by pool.NAME",
)


class State(NamedTuple):
    """:param made: ids of the pools that steps before this one make in the same command."""

    stack: Stack
    graph: Graph
    made: frozenset[str] = frozenset()

    @property
    def own(self) -> Filter | None:
        """The filter that ringfence put over the disk."""
        return next((filter_ for filter_ in self.stack.filters if filter_.ours), None)

    @property
    def pool(self) -> Pool | None:
        """The pool it is in: by our filter, else by the topmost of others."""
        filter_ = self.own or next(iter(self.stack.filters), None)
        return self.graph.pools.get(filter_.group) if filter_ else None

    @property
    def image(self) -> str:
        """The node below our filter, the top one where there is none."""
        nodes = self.stack.disk.nodes
        return nodes[nodes.index(self.own.node) + 1] if self.own else nodes[0]


class _Move(NamedTuple):
    """One request of a change and what takes it back."""

    do: Qmp
    undo: Qmp | None


class PoolMembership:
    """See the module."""

    prefix = "disk"
    tenants = ONLY_VMS
    rows: tuple[Row, ...] = (_ROW,)
    events: tuple[str, ...] = ()

    def observe(self) -> Steps[tuple[Part, ...]]:
        """Read every disk with its filters; one Part each."""
        found = yield from graph.observe()
        return tuple(_part(State(stack, found)) for stack in found.stacks)

    def observation(self, part: Part, row: Row) -> Observation:
        """The pool the disk is in."""
        state: State = part.state
        unavailable = ""
        if not state.stack.disk.inserted:
            unavailable = "no medium in the drive, so there is nothing to limit"
        elif state.stack.in_iothread:
            unavailable = _IN_IOTHREAD
        pool = state.pool
        notes = [f"also in it: {', '.join(others)}"] if pool and (others := _without(pool, part.name)) else []
        notes += pools.foreign_note(pool) if pool and state.own else ()
        notes += [f"filter {f.node} of group {f.group} was not made by ringfence" for f in _foreign(state)]
        now = pool.name if pool else None
        advice = (_PREPARED,) if state.stack.in_iothread else ()
        return Observation(row, f"disk.{part.name}.pool", now, now, None, None, unavailable, tuple(notes), advice)

    def foresee(self, part: Part, earlier: Sequence[tuple[Part, Wants]]) -> Part:
        """With the pools that are made before it, and the disks that have joined and left them by then."""
        state: State = part.state
        for other, wants in earlier:
            if isinstance(other.state, pools.State) and not other.state.exists:
                pool: Pool = other.state.pool
                known = state.graph._replace(pools={**state.graph.pools, pool.id: pool})
                state = state._replace(graph=known, made=state.made | {pool.id})
            elif isinstance(other.state, State) and "pool" in wants:
                state = state._replace(graph=_foreseen(state.graph, other, wants))
        return part._replace(state=state)

    def check(self, part: Part, wants: Wants, *, force: bool) -> None:
        """Raise UsageError for an unknown pool, TenantError where no filter can go in or out."""
        self.observation(part, _ROW).refuse_unavailable()
        state: State = part.state
        key, wanted = f"disk.{part.name}.pool", wants["pool"]
        if wanted is not None and _find(state.graph, str(wanted)) is None:
            known = ", ".join(pool.name for pool in state.graph.pools.values()) or "none"
            raise UsageError(
                f"there is no pool {wanted!r}",
                hint=f"there are: {known}; make it in the same command: pool.{wanted}.iops=500 {key}={wanted}",
            )
        if wanted is None and not state.own and state.pool:
            raise UsageError(
                f"disk {part.name} is in pool {state.pool.name!r} by a filter that ringfence did not make",
                hint=f"lift the pool's limits instead: pool.{state.pool.name}.iops=unlimited",
            )
        if state.own and state.stack.disk.nodes[0] != state.own.node:
            raise TenantError(
                f"{key} cannot be changed: node {state.stack.disk.nodes[0]} stands above ringfence's filter",
                hint="end the block job or backup that put it there",
            )

    def changes(self, part: Part, wants: Wants) -> list[Qmp | Agent]:
        """The filter in, the device onto it; the old filter out; a pool that is left empty away."""
        return [move.do for move in (*_moves(part.state, wants), *_cleanup(part.state, wants))]

    def apply(self, part: Part, wants: Wants, *, timeout_s: float, force: bool) -> Steps[Outcome]:
        """Move by move; what QEMU refuses is taken back in reverse order. Then see that the disk goes on."""
        state: State = part.state
        disk = state.stack.disk
        moves = _moves(state, wants)
        if not moves:
            return Outcome(Verdict.APPLIED, part, notes=("already so",))
        before = yield from watch.look(disk.qdev)
        done: list[_Move] = []
        for move in moves:
            try:
                yield move.do
            except MonitorRefusedError as refusal:
                return (yield from _taken_back(part, wants, done, move, refusal.message))
            done.append(move)
        left: list[str] = []
        for move in _cleanup(state, wants):
            try:
                yield move.do
            except MonitorRefusedError as refusal:
                left.append(f"{_what(move.do)} stays, QEMU would not remove it: {refusal.message}")
        after = yield from _read_back(disk.qdev)
        pool = after.state.pool if after and after.state.own else None
        if after is None or (pool.name if pool else None) != _wanted_name(state, wants):
            detail = "QEMU took the commands and the disk is elsewhere: another client may be moving it"
            return Outcome(Verdict.FAILED, after, by="QEMU", detail=detail)
        notes = [*_shared(pool), *(pools.foreign_note(pool) if pool else ()), *left]
        if (yield from watch.stalled(disk.qdev, before)):
            notes.append(_stall_note(part.name, pool))
        return Outcome(Verdict.APPLIED, after, notes=tuple(notes))


def _part(state: State) -> Part:
    disk = state.stack.disk
    return Part(disk.name, disk.aliases, state, disk.qdev)


def _without(pool: Pool, name: str) -> list[str]:
    return [member for member in pool.members if member != name]


def _foreign(state: State) -> list[Filter]:
    return [filter_ for filter_ in state.stack.filters if not filter_.ours]


def _find(known: Graph, name: str) -> Pool | None:
    """The pool that the user calls so: ringfence's own before one of the same id."""
    return known.pools.get(f"{graph.POOL_PREFIX}{name}") or known.pools.get(name)


def _target(state: State, wants: Wants) -> Pool | None:
    return _find(state.graph, str(wants["pool"])) if wants["pool"] is not None else None


def _wanted_name(state: State, wants: Wants) -> str | None:
    pool = _target(state, wants)
    return pool.name if pool else None


def _free_node(taken: Iterable[str]) -> str:
    return next(name for n in count() if (name := f"{names.FILTER_PREFIX}{n}") not in taken)


def _drive(state: State, node: str) -> Qmp:
    path = state.stack.disk.frontend
    return Qmp("qom-set", {"path": path, "property": "drive", "value": node})


def _moves(state: State, wants: Wants) -> list[_Move]:
    """What must all be done; empty when the disk is where it shall be."""
    target, own = _target(state, wants), state.own
    if (target.id if target else None) == (own.group if own else None):
        return []
    top = own.node if own else state.image
    moves: list[_Move] = []
    if target:
        inserted, node = state.stack.disk.inserted, _free_node(state.graph.nodes)
        cache = inserted.get("cache", {})
        options = {
            "driver": "throttle",
            "node-name": node,
            "throttle-group": target.id,
            "file": state.image,
            "read-only": bool(inserted.get("ro", False)),
            "discard": "unmap",
            "cache": {name: bool(cache.get(name, False)) for name in ("direct", "no-flush")},
        }
        moves.append(_Move(Qmp("blockdev-add", options), _delete(node)))
        moves.append(_Move(_drive(state, node), _drive(state, top)))
    else:
        moves.append(_Move(_drive(state, state.image), _drive(state, top)))
    if own:
        moves.append(_Move(_delete(own.node), None))
    return moves


def _delete(node: str) -> Qmp:
    return Qmp("blockdev-del", {"node-name": node})


def _cleanup(state: State, wants: Wants) -> list[_Move]:
    """What goes with the last disk of a pool that ringfence made."""
    own = state.own
    old = state.graph.pools.get(own.group) if own else None
    if not _moves(state, wants) or old is None or not old.ours or old.users - len(old.orphans) > 1:
        return []
    gone = [_delete(node) for node in old.orphans]
    return [_Move(request, None) for request in (*gone, Qmp("object-del", {"id": old.id}))]


def _foreseen(known: Graph, other: Part, wants: Wants) -> Graph:
    """The graph once another disk has moved."""
    state: State = other.state
    if not _moves(state, wants):
        return known
    found = dict(known.pools)
    target, own = _target(state, wants), state.own
    if own and (old := found.get(own.group)):
        found[old.id] = old._replace(members=tuple(_without(old, other.name)), users=old.users - 1)
        if _cleanup(state, wants):
            del found[old.id]
    if target and (new := found.get(target.id)):
        found[new.id] = new._replace(members=(*new.members, other.name), users=new.users + 1)
    node = frozenset([_free_node(known.nodes)]) if target else frozenset[str]()
    return known._replace(pools=found, nodes=known.nodes | node)


def _taken_back(part: Part, wants: Wants, done: Sequence[_Move], failed: _Move, reason: str) -> Steps[Outcome]:
    """Undo in reverse order, the pool that was made for this disk last; say what is so now."""
    state: State = part.state
    undo = [move.undo for move in reversed(done) if move.undo]
    target = _target(state, wants)
    if target and target.id in state.made and not target.users:
        undo.append(Qmp("object-del", {"id": target.id}))
    left: list[str] = []
    for request in undo:
        try:
            yield request
        except MonitorRefusedError as refusal:
            left.append(f"{_what(request)}: {refusal.message}")
    after = yield from _read_back(state.stack.disk.qdev)
    swap = failed.do.command == "qom-set"
    said = "QEMU does not move this device to another node" if swap else f"{_what(failed.do)} was refused"
    if left:
        detail = f"{said}: {reason}; what was done before it could not all be taken back: {'; '.join(left)}"
        return Outcome(Verdict.FAILED, after, by="QEMU", detail=detail)
    removed = f", the pool {target.name!r} made for it removed" if target and target.id in state.made else ""
    detail = f"{said}: {reason} (the disk is as it was, nothing is left behind{removed})"
    return Outcome(Verdict.UNSUPPORTED if swap else Verdict.REFUSED, after, by="QEMU", detail=detail)


def _what(request: Qmp) -> str:
    """A request's object, for people."""
    arguments = request.arguments
    if request.command == "qom-set":
        return f"drive={arguments['value']} of {arguments['path']}"
    if request.command == "object-del":
        return f"pool {arguments['id']}"
    return f"filter {arguments['node-name']}"


def _read_back(qdev: str) -> Steps[Part | None]:
    found = yield from graph.observe()
    return next((_part(State(stack, found)) for stack in found.stacks if stack.disk.qdev == qdev), None)


def _shared(pool: Pool | None) -> list[str]:
    return [f"pool {pool.name!r} is now shared by {', '.join(pool.members)}"] if pool else []


def _stall_note(name: str, pool: Pool | None) -> str:
    text = f"disk {name} was busy before the change and finished no request for 3 s after it"
    if pool:
        return f"{text}; if it stays so: pool.{pool.name}.iops=unlimited, or disk.{name}.pool=none"
    return f"{text}; it may have gone idle; if it stays so: disk.{name}.iops=unlimited"
