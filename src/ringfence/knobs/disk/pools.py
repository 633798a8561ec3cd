"""The knob `pool.<pool>.*`: one quota for several disks of a VM, by a throttle-group object.

A pool is made by naming it: `pool.bronze.iops=500`. Disks join it by `disk.<disk>.pool=bronze`, each keeping its
own limits as well. It goes when its last disk leaves, or when its limits are lifted while no disk is in it; with
it go filters of ours that stand over no disk, as an interrupted change may leave them.
Objects made by others are shown and can be set; they are never removed.

QEMU takes a change of an object's `limits` as a patch, and checks the result as a whole: so all are sent.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ringfence.core.knob import ONLY_VMS, Observation, Outcome, Part, Row, Verdict, Wants
from ringfence.core.requests import Agent, Qmp, Steps
from ringfence.errors import MonitorRefusedError, UsageError
from ringfence.knobs.disk import graph, limits
from ringfence.knobs.disk.graph import POOL_PREFIX, Pool
from ringfence.knobs.disk.limits import FIELDS, RATES, Limits

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class State(NamedTuple):
    """:param exists: False while it is only named."""

    pool: Pool
    exists: bool


class Pools:
    """See the module."""

    prefix = "pool"
    tenants = ONLY_VMS
    rows: tuple[Row, ...] = limits.rows("pool.<pool>", "throttle-group object")
    events: tuple[str, ...] = ()

    def observe(self) -> Steps[tuple[Part, ...]]:
        """Read every throttle-group object; one Part each."""
        found = yield from graph.observe()
        return tuple(_part(pool) for pool in found.pools.values())

    def absent(self, name: str) -> Part:
        """A pool of this name, without limits, to be made."""
        return _part(new_pool(name), exists=False)

    def observation(self, part: Part, row: Row) -> Observation:
        """One limit of a pool; the notes name its members."""
        state: State = part.state
        leaf = row.key.removeprefix("pool.<pool>.")
        now = state.pool.limits[FIELDS[leaf]] or None
        told = state.exists and (now or leaf == "iops")
        notes = (_members(state.pool), *foreign_note(state.pool)) if told else ()
        return Observation(row, f"pool.{part.name}.{leaf}", now, now, 1, limits.LIMIT_MAX, notes=notes)

    def check(self, part: Part, wants: Wants, *, force: bool) -> None:
        """Raise UsageError for what QEMU would refuse; `force` is no matter."""
        for leaf, value in wants.items():
            limits.check_value(f"pool.{part.name}", leaf, value)
        wanted = limits.lay_over(part.state.pool.limits, wants)
        limits.check_together(f"pool.{part.name}", wanted)
        if not part.state.exists and not _limits_anything(wanted):
            raise UsageError(f"there is no pool {part.name!r}", hint=f"make it: pool.{part.name}.iops=500")

    def changes(self, part: Part, wants: Wants) -> list[Qmp | Agent]:
        """Make the object, set all its limits, or remove it when nothing is left of it."""
        pool, exists = part.state
        wanted = limits.lay_over(pool.limits, wants)
        if not exists:
            return [add(pool.id, wanted)]
        if pool.ours and pool.users == len(pool.orphans) and not _limits_anything(wanted):
            gone = (Qmp("blockdev-del", {"node-name": node}) for node in pool.orphans)
            return [*gone, Qmp("object-del", {"id": pool.id})]
        if wanted == pool.limits:
            return []
        path, value = f"/objects/{pool.id}", limits.write_object(wanted)
        return [Qmp("qom-set", {"path": path, "property": "limits", "value": value})]

    def apply(self, part: Part, wants: Wants, *, timeout_s: float, force: bool) -> Steps[Outcome]:
        """Send it, and read the object back: QEMU takes all its limits at once or none."""
        pool: Pool = part.state.pool
        change = [request for request in self.changes(part, wants) if isinstance(request, Qmp)]
        if not change:
            return Outcome(Verdict.APPLIED, part, notes=("already so",))
        try:
            for request in change:  # noqa: UP028 - a list takes no answers
                yield request
        except MonitorRefusedError as refusal:
            return Outcome(Verdict.REFUSED, part, by="QEMU", detail=refusal.message, hint=refusal.hint)
        wanted = limits.lay_over(pool.limits, wants)
        if change[-1].command == "object-del":
            gone = _part(pool._replace(limits=wanted, orphans=(), users=0), exists=False)
            also = f", with {', '.join(pool.orphans)} that was left over" if pool.orphans else ""
            return Outcome(Verdict.APPLIED, gone, notes=(f"pool {pool.name!r} had no disk and is removed{also}",))
        held = limits.read_object((yield Qmp("qom-get", {"path": f"/objects/{pool.id}", "property": "limits"})))
        after = _part(pool._replace(limits=held))
        if held != wanted:
            detail = "QEMU accepted the command and holds other limits: another client may be setting them too"
            return Outcome(Verdict.FAILED, after, by="QEMU", detail=detail)
        told = _members(pool) if part.state.exists else "made; a disk joins it by disk.<disk>.pool"
        return Outcome(Verdict.APPLIED, after, notes=(f"pool {pool.name!r}: {told}", *foreign_note(pool)))


def foreign_note(pool: Pool) -> tuple[str, ...]:
    """What is to be known of an object that ringfence did not make; nothing of its own."""
    if pool.ours:
        return ()
    changed = f"its limits change only by pool.{pool.id}.*, and it is never removed"
    return (f"throttle group {pool.id!r} was not made by ringfence: {changed}",)


def new_pool(name: str) -> Pool:
    """A pool of ringfence's that is not yet made.

    :raise UsageError: it cannot be called so.
    """
    if not _NAME.fullmatch(name):
        hint = "letters, digits, '.', '_' and '-', a letter or digit first, at most 63"
        raise UsageError(f"a pool cannot be called {name!r}", hint=hint)
    return Pool(f"{POOL_PREFIX}{name}", dict.fromkeys(FIELDS.values(), 0))


def add(object_id: str, wanted: Limits) -> Qmp:
    """The request that makes a throttle-group object."""
    arguments = {"qom-type": "throttle-group", "id": object_id, "limits": limits.write_object(wanted)}
    return Qmp("object-add", arguments)


def _part(pool: Pool, *, exists: bool = True) -> Part:
    return Part(pool.name, (pool.id,) if pool.ours else (), State(pool, exists), pool.id)


def _limits_anything(wanted: Limits) -> bool:
    return any(wanted[field] for field in RATES.values())


def _members(pool: Pool) -> str:
    others = pool.users - len(pool.members) - len(pool.orphans)
    text = f"shared by {', '.join(pool.members)}" if pool.members else "no disk is in it"
    if pool.orphans:
        text += f"; filters left over from disks that are gone or changes cut short: {', '.join(pool.orphans)}"
        text += "" if pool.members else f" (pool.{pool.name}.iops=unlimited removes them)"
    return f"{text}; and {others} block nodes that are no disk's" if others > 0 else text
