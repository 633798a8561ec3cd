"""The knob of caches and memory bandwidth: a tenant's ways of L3 and L2, and its share of the memory's speed.

A tenant that is limited in any of these is in a control group of its own. `cache.mode` goes for the whole group,
as resctrl has it. Threads that a tenant starts later inherit its group; those that come from elsewhere, such as
kernel threads of vhost, join when it is set again. Source: the kernel's Documentation/arch/x86/resctrl.rst.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ringfence import units
from ringfence.core import host_requests as ask
from ringfence.core.host import OURS
from ringfence.core.knob import EVERY_TENANT, Observation, Outcome, Part, Row, Value, Verdict, Wants
from ringfence.core.requests import Change, Clock, HostRequest, Steps, Wait
from ringfence.errors import HostError, RingfenceError, TenantError, UsageError
from ringfence.knobs.resctrl import carry, model, plan, values
from ringfence.knobs.resctrl.masks import ways
from ringfence.knobs.resctrl.model import EXCLUSIVE, ROOT, SHAREABLE, Group, Machine
from ringfence.knobs.resctrl.plan import Target, Wish
from ringfence.knobs.resctrl.read import State, read

_ENOSPC = 28
_PATIENCE_S, _POLL_S = 5.0, 0.02
_MODES = {"shared": SHAREABLE, "shareable": SHAREABLE, "exclusive": EXCLUSIVE}
_STEMS = {
    "cache.l3": "L3",
    "cache.l2": "L2",
    "cache.l3.code": "L3CODE",
    "cache.l3.data": "L3DATA",
    "cache.l2.code": "L2CODE",
    "cache.l2.data": "L2DATA",
    "memory.bandwidth": "MB",
    "memory.bandwidth.slow": "SMBA",
}
_COUNTS = {
    "cache.l3.occupancy": "llc_occupancy",
    "memory.bandwidth.moved": "mbm_total_bytes",
    "memory.bandwidth.moved_local": "mbm_local_bytes",
}


def _share(key: str, help_: str, *, main: bool = False) -> Row:
    return Row(key, units.NAME, "resctrl schemata", help_, lifts=True, main=main)


def _count(key: str, help_: str) -> Row:
    return Row(key, units.BYTES, "resctrl mon_data", help_, main=False, read_only=True)


ROWS = (
    _share(
        "cache.l3", "ways of the last level cache it may fill: 25%, 8MiB, 4ways, 0x00f, or 0=25%;1=50%", main=True
    ),
    _share("cache.l2", "ways of the second level caches, in the same words"),
    _share("cache.l3.code", "ways for its code alone, where resctrl is mounted with cdp"),
    _share("cache.l3.data", "ways for its data alone, where resctrl is mounted with cdp"),
    _share("cache.l2.code", "ways for its code alone, where resctrl is mounted with cdpl2"),
    _share("cache.l2.data", "ways for its data alone, where resctrl is mounted with cdpl2"),
    Row(
        "cache.mode",
        units.NAME,
        "resctrl mode",
        "exclusive keeps everybody else out of its ways",
        lifts=True,
        main=False,
        lifted="shared",
    ),
    Row(
        "cache.monitor",
        units.SWITCH,
        "resctrl mon_groups",
        "count what it has in the cache and moves through memory, also without limits",
        lifts=True,
        main=False,
        lifted="off",
    ),
    _count("cache.l3.occupancy", "bytes it has in the last level caches"),
    _share("memory.bandwidth", "how much of the memory's speed it may use: 40%, or 2GB/s", main=True),
    _share("memory.bandwidth.slow", "the same of slow memory, such as CXL (AMD)"),
    _count("memory.bandwidth.moved", "bytes moved to and from memory since it was first watched"),
    _count("memory.bandwidth.moved_local", "the same of its own socket's memory"),
)


class CacheShares:
    """See the module."""

    prefix = "cache"
    tenants = EVERY_TENANT
    rows: tuple[Row, ...] = ROWS
    events: tuple[str, ...] = ()

    def observe(self) -> Steps[tuple[Part, ...]]:
        """Read every group's shares, and where the tenant's threads are; one Part."""
        return (Part("", (), (yield from read())),)

    def observation(self, part: Part, row: Row) -> Observation:
        """What the tenant's group holds."""
        state: State = part.state
        machine = state.machine
        if machine is None:
            return Observation(row, row.key, None, None, unavailable=state.why, advice=state.advice)
        why = _why_not(machine, row.key)
        now: Value | None = None
        notes: tuple[str, ...] = ()
        if row.key in _COUNTS:
            why = why or ("" if state.watched else "it is not watched: cache.monitor=on")
            now = state.counts.get(_COUNTS[row.key])
        elif row.key == "cache.mode":
            now = "exclusive" if state.group.mode == EXCLUSIVE else None
        elif row.key == "cache.monitor":
            now = "on" if state.monitor in state.group.monitors else None
        elif not _missing(machine, row.key):
            now, notes = _held(state, machine, row.key)
        if state.foreign:
            why = why or f"its threads are in the group {state.group.name}, which ringfence did not make"
        return Observation(row, row.key, now, now, unavailable=why, notes=notes)

    def check(self, part: Part, wants: Wants, *, force: bool) -> None:
        """Raise UsageError for what this processor cannot, TenantError for what cannot be beside the others."""
        state: State = part.state
        for row in self.rows:
            if _leaf(row.key) in wants:
                seen = self.observation(part, row)
                if state.foreign and seen.unavailable:
                    hint = "its manager changes it, such as libvirt's <cachetune>"
                    raise TenantError(f"{seen.key}: {seen.unavailable}", hint=hint)
                seen.refuse_unavailable()
        if state.machine is None:
            return
        found = _target(state, state.machine, wants)
        empty = [n for n, held in (found.group or {}).items() if not model.is_band(n) and not all(held.values())]
        if empty and not force:
            key = plan.key_of(empty[0])
            raise TenantError(
                f"{key}: with no way at all nothing of it is cached", hint="--force does it all the same"
            )

    def changes(self, part: Part, wants: Wants) -> list[Change]:
        """The writes to resctrl; the threads join one by one, as every kernel takes it."""
        state: State = part.state
        if state.machine is None:
            return []
        target = _target(state, state.machine, wants)
        todo = [step.request for step in carry.steps(state, state.machine, target)]
        return [*todo, *_joining(state, state.machine, target), *_watching(state, state.machine, target, wants)]

    def apply(self, part: Part, wants: Wants, *, timeout_s: float, force: bool) -> Steps[Outcome]:
        """Under resctrl's own lock: read anew, write, have the threads join, read back."""
        yield from _lock()
        try:
            outcome = yield from self._changed(wants)
        except RingfenceError:
            yield ask.Unlock(ROOT)
            raise
        yield ask.Unlock(ROOT)
        return outcome

    def _changed(self, wants: Wants) -> Steps[Outcome]:
        state = yield from read()
        if state.machine is None:
            raise HostError(state.why, path=ROOT)
        target = _target(state, state.machine, wants)
        notes = yield from _made(state, state.machine, target, wants)
        (after,) = yield from self.observe()
        return _verdict(after, target, (*notes, *_rounded(state.machine, wants, target)))


def _leaf(key: str) -> str:
    return key.removeprefix("cache.")


def _key(leaf: str) -> str:
    return leaf if leaf.startswith("memory.") else f"cache.{leaf}"


def _missing(machine: Machine, key: str) -> bool:
    return not model.kinds(machine, _STEMS[key])


def _why_not(machine: Machine, key: str) -> str:
    """Why this processor, or the way resctrl is mounted, does not have a key."""
    if key in _COUNTS:
        return "" if _COUNTS[key] in machine.events else "this processor does not count it"
    if key == "cache.monitor":
        return "" if machine.events else "this processor does not count it"
    if key == "cache.mode":
        return (
            "" if any(found.cache for found in machine.resources.values()) else "no cache can be shared out here"
        )
    if not _missing(machine, key):
        return ""
    if key.endswith((".code", ".data")):
        option = "cdp" if key.startswith("cache.l3") else "cdpl2"
        return (
            f"code and data have no ways of their own; resctrl mounted with the option {option} may give them some"
        )
    return "this processor cannot limit it"


def _held(state: State, machine: Machine, key: str) -> tuple[Value | None, tuple[str, ...]]:
    """The value of a share, None when it is not limited, and what it comes to."""
    names = model.kinds(machine, _STEMS[key])
    group = state.group if state.group.name else machine.default
    found = machine.resources[names[-1]]
    held = group.values[names[-1]]
    notes: list[str] = []
    if len(names) > 1 and not model.same(group.values[names[0]], held):
        notes.append(f"of {names[-1]}; {names[0]} has {values.shown(group.values[names[0]], found)}")
    if not group.name and found.cache and any(mask != found.cache.full for mask in held.values()):
        notes.append(f"shared by all that have no group: {values.shown(held, found)}")
    if not group.name or not any(plan.is_limited(machine, group, name) for name in names):
        return None, tuple(notes)
    notes += [text] if (text := values.described(held, found)) else []
    if state.outside and not state.foreign:
        notes.append(f"{len(state.outside)} of its threads are not in its group; setting it again has them join")
    return values.shown(held, found), tuple(notes)


def _wish(machine: Machine, wants: Wants) -> Wish:
    texts: dict[str, str | None] = {}
    mode: str | None = None
    for leaf, want in wants.items():
        key = _key(leaf)
        if key == "cache.mode":
            word = "shared" if want is None else str(want)
            if word not in _MODES:
                raise UsageError(
                    f"cache.mode={word} is neither shared nor exclusive", hint="write cache.mode=shared"
                )
            mode = _MODES[word]
        elif key in _STEMS:
            for name in model.kinds(machine, _STEMS[key]):
                texts[name] = None if want is None else str(want)
    return Wish(texts, mode)


def _target(state: State, machine: Machine, wants: Wants) -> Target:
    return plan.target(machine, state.group, _wish(machine, wants), state.kept)


def _folder(state: State, machine: Machine, target: Target) -> str:
    """The group that the tenant's threads belong in."""
    return ROOT if target.group is None else f"{ROOT}/{carry.home(state, machine)}"


def _joining(state: State, machine: Machine, target: Target) -> list[HostRequest]:
    folder = _folder(state, machine, target)
    if folder == ROOT:
        return []
    inside = state.group.tids if folder == state.group.path else frozenset()
    return [ask.WriteFile(f"{folder}/tasks", f"{tid}\n") for tid in state.tids if tid not in inside]


def _watching(state: State, machine: Machine, target: Target, wants: Wants) -> list[HostRequest]:
    """A monitoring group made, or taken away, in the group that the tenant is in by then."""
    folder = _folder(state, machine, target)
    was = state.monitor in state.group.monitors
    if "monitor" in wants and wants["monitor"] is None:
        return [ask.RemoveDir(f"{state.group.path}/mon_groups/{state.monitor}")] if was else []
    moved = folder != state.group.path
    if not ("monitor" in wants or (was and moved)) or (was and not moved):
        return []
    path = f"{folder}/mon_groups/{state.monitor}"
    return [ask.MakeDir(path), *(ask.WriteFile(f"{path}/tasks", f"{tid}\n") for tid in state.tids)]


def _made(state: State, machine: Machine, target: Target, wants: Wants) -> Steps[tuple[str, ...]]:
    """Carry a target out; answers notes for the user."""
    notes: tuple[str, ...] = ()
    todo = carry.steps(state, machine, target)
    folder = _folder(state, machine, target)
    joining = _joining(state, machine, target)
    watching = _watching(state, machine, target, wants)
    if not (todo or joining or watching):
        return ("already so",)
    try:
        yield from carry.perform(todo)
    except HostError as error:
        friend = carry.partner(machine, state, target)
        if error.errno != _ENOSPC or friend is None:
            raise _too_many(machine, error) from None
        folder = friend.path
        path = f"{folder}/mon_groups/{state.monitor}"
        watching = [ask.MakeDir(path), *(ask.WriteFile(f"{path}/tasks", f"{tid}\n") for tid in state.tids)]
        notes = (
            f"all {machine.closids} groups of the processor are in use: it shares {friend.name}, which has this",
        )
    if folder != ROOT:
        yield from _all_join(folder, state, _inside(state, folder))
    for step in carry.leave_shared(state, folder.removeprefix(f"{ROOT}/")):
        yield step.request
    yield from _watch(watching)
    return notes


def _inside(state: State, folder: str) -> frozenset[int]:
    return state.group.tids if folder == state.group.path else frozenset()


def _all_join(folder: str, state: State, inside: frozenset[int]) -> Steps[None]:
    """Those there are now, and those that are started meanwhile by one that had not joined yet."""
    left = [tid for tid in state.tids if tid not in inside]
    seen = set(state.tids)
    while left:
        yield from carry.join(folder, left)
        tasks = yield ask.Tasks()
        left = [task.tid for task in tasks if task.tid not in seen]
        seen.update(left)


def _watch(requests: Iterable[HostRequest]) -> Steps[None]:
    for request in requests:
        try:
            yield request
        except HostError as error:
            if error.errno != 3:  # a thread that has ended
                raise (yield from carry.explained(error)) from None


def _too_many(machine: Machine, error: HostError) -> HostError:
    if error.errno != _ENOSPC:
        return error
    ours = [group.name for group in machine.groups]
    return HostError(
        f"this processor has {machine.closids} groups, and all are in use: {', '.join(ours)}",
        path=ROOT,
        errno=_ENOSPC,
        hint=f"lift the limits of one of them, or ask for what one of {OURS}'s groups has: it can be shared",
        state=error.state,
    )


def _verdict(after: Part, target: Target, notes: tuple[str, ...]) -> Outcome:
    """What the kernel holds, compared with what was written."""
    state: State = after.state
    held: Group = state.group
    if target.group is None:
        if held.name:
            return Outcome(Verdict.PARTIAL, after, "kernel", f"it is still in the group {held.name}", notes)
        return Outcome(Verdict.APPLIED, after, notes=notes)
    machine = state.machine
    if machine is not None and held.name:
        off = [name for name, wanted in target.group.items() if not _holds(machine, held, name, wanted)]
        if not off and held.mode == target.mode:
            return Outcome(Verdict.APPLIED, after, notes=notes)
        detail = f"the kernel holds another {' and '.join(map(plan.key_of, off)) or 'mode'} than was written"
        return Outcome(Verdict.PARTIAL, after, "kernel", detail, notes)
    return Outcome(Verdict.PARTIAL, after, "kernel", "its threads are not in its group", notes)


def _holds(machine: Machine, held: Group, name: str, wanted: Mapping[int, int]) -> bool:
    """The same; of a cache that is shared with a partner as many ways."""
    found = held.values[name]
    if machine.resources[name].cache is None:
        return model.same(found, wanted)
    return {d: ways(mask) for d, mask in found.items()} == {d: ways(mask) for d, mask in wanted.items()}


class _Asked(NamedTuple):
    key: str
    text: str


def _rounded(machine: Machine, wants: Wants, target: Target) -> tuple[str, ...]:
    """What became of figures that this processor cannot hold as they were given."""
    notes: list[str] = []
    for asked in (_Asked(_key(leaf), str(want)) for leaf, want in wants.items() if want is not None):
        for name in model.kinds(machine, _STEMS.get(asked.key, "")):
            found = machine.resources[name]
            shown = values.shown((target.group or {}).get(name, {}), found) if target.group else asked.text
            if found.band is not None and shown != asked.text.replace(" ", ""):
                notes.append(f"{asked.key}={asked.text} is held as {shown}: the processor has such steps")
            elif found.cache is not None and "%" in asked.text and target.group:
                notes.append(f"{asked.key}={asked.text} is {values.described(target.group[name], found)}")
    return tuple(dict.fromkeys(notes))


def _lock() -> Steps[None]:
    """The lock that resctrl's documentation asks for, and that libvirt and pqos hold while they change.

    :raise HostError: somebody has held it for five seconds.
    """
    deadline = (yield Clock()) + _PATIENCE_S
    while not (yield ask.Lock(ROOT)):
        if (yield Clock()) > deadline:
            raise HostError(
                "somebody else is changing resctrl, and holds its lock", path=ROOT, hint="set it again"
            )
        yield Wait((), _POLL_S)
