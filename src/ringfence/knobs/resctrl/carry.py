"""PURE: the writes that bring everybody to a plan, in an order that the kernel takes, and what takes them back.

Ways are taken from the default group before they are given to another, and given back after they were left: the
kernel refuses an exclusive group that overlaps for a moment. A refusal is explained by `info/last_cmd_status`,
read right after a failed write and at no other time, as it keeps old texts.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ringfence.core import host_requests as ask
from ringfence.core.requests import HostRequest, Steps
from ringfence.errors import HostError, RingfenceError
from ringfence.knobs.resctrl import model, plan
from ringfence.knobs.resctrl.model import DEFAULT, EXCLUSIVE, ROOT, SHAREABLE, Group, Machine, Values
from ringfence.knobs.resctrl.plan import Target
from ringfence.knobs.resctrl.read import KEPT, State, kept_folders

_STATUS = f"{ROOT}/info/last_cmd_status"
_HINTS = {
    "Out of CLOSIDs": "lift another tenant's limits, or give this one the same as one of ringfence's groups has",
    "Out of RMIDs": "the processor watches no more groups at once; some are free a little after a group has gone",
    "Schemata overlaps": "another group took some of these ways meanwhile: set it again",
    "Overlaps with exclusive group": "another group took some of these ways for itself meanwhile: set it again",
    "Overlaps with other group": "another group took some of these ways meanwhile: set it again",
    "Pseudo-locking not supported": "ringfence never asks for that",
}


class Do(NamedTuple):
    """One step, and what takes it back."""

    request: HostRequest
    undo: HostRequest | None = None


def steps(state: State, machine: Machine, target: Target) -> list[Do]:
    """Everything but the tenant's threads, who join last."""
    if target.group is None:
        return [*_leave(state), *_move_others(machine, target.others), *_forget(state, machine, "")]
    name = home(state, machine)
    before = machine.group(name)
    have = None if before is None or plan.is_left_over(before) else before
    path = f"{ROOT}/{name}"
    narrow = {other: _narrowed(machine, other, values) for other, values in target.others.items()}
    done = [Do(ask.MakeDir(path), ask.RemoveDir(path))] if have is None else []
    if before is not None and before.mode != target.mode and before.mode == EXCLUSIVE:
        done.append(_mode(path, SHAREABLE, before.mode))
    if target.mode == EXCLUSIVE and target.others:
        done += _remember(state, machine)
    done += _move_others(machine, narrow)
    changed = _changed(have, target.group)
    if changed:
        undo = ask.WriteFile(f"{path}/schemata", model.schemata(have.values)) if have else None
        done.append(Do(ask.WriteFile(f"{path}/schemata", model.schemata(changed)), undo))
    if target.mode == EXCLUSIVE and (have is None or have.mode != EXCLUSIVE):
        done.append(_mode(path, EXCLUSIVE, SHAREABLE))
    done += _move_others(machine, target.others, since=narrow)
    if target.mode != EXCLUSIVE:
        done += _forget(state, machine, name)
    return done


def home(state: State, machine: Machine) -> str:
    """The group that the tenant's limits go into: the one it is in when that is its alone, else a new one."""
    shared = [name for name in plan.guests(state.group) if name != state.monitor]
    is_host = state.group.name.partition(".")[0] == state.monitor or state.monitor not in state.group.monitors
    if state.group.ours and not shared and is_host:
        return state.group.name
    return plan.name_for(state.label, machine)


def leave_shared(state: State, name: str) -> list[Do]:
    """Once its threads have gone to the group `name`: remove its monitoring group where it was."""
    if state.monitor in state.group.monitors and state.group.name != name:
        return [Do(ask.RemoveDir(f"{state.group.path}/mon_groups/{state.monitor}"))]
    return []


def _leave(state: State) -> list[Do]:
    group = state.group
    if not group.name:
        return []
    others = [name for name in plan.guests(group) if name != state.monitor]
    strangers = group.tids - frozenset(state.tids)
    if not others and not strangers:
        return [Do(ask.RemoveDir(group.path))]  # its threads go to the default group
    back = [
        Do(ask.WriteFile(f"{ROOT}/tasks", f"{tid}\n"), ask.WriteFile(f"{group.path}/tasks", f"{tid}\n"))
        for tid in state.tids
        if tid in group.tids
    ]
    return [*back, *leave_shared(state, DEFAULT)]


def _mode(path: str, mode: str, before: str) -> Do:
    return Do(ask.WriteFile(f"{path}/mode", f"{mode}\n"), ask.WriteFile(f"{path}/mode", f"{before}\n"))


def _changed(have: Group | None, wanted: Values) -> dict[str, Mapping[int, int]]:
    """Lines to write: those that differ; of a new group all, as the kernel gives it what happens to be free."""
    if have is None:
        return dict(wanted)
    return {name: held for name, held in wanted.items() if not model.same(have.values[name], held)}


def _narrowed(machine: Machine, name: str, wanted: Values) -> dict[str, Mapping[int, int]]:
    """What a group keeps of what it has on the way to `wanted`; what is nothing at all is left for later."""
    group = machine.group(name)
    if group is None:
        return {}
    return {
        resource: {domain: (mask & group.values[resource][domain]) or mask for domain, mask in held.items()}
        for resource, held in wanted.items()
    }


def _move_others(
    machine: Machine, wanted: Mapping[str, Values], since: Mapping[str, Values] | None = None
) -> list[Do]:
    """Writes that give other groups their new values; `since` is what they have been given already."""
    done: list[Do] = []
    for name, values in wanted.items():
        group = machine.group(name)
        if group is None:
            continue
        held = {**group.values, **((since or {}).get(name) or {})}
        changed = {resource: new for resource, new in values.items() if not model.same(held[resource], new)}
        if changed:
            path = f"{group.path}/schemata"
            old = {resource: held[resource] for resource in changed}
            done.append(Do(ask.WriteFile(path, model.schemata(changed)), ask.WriteFile(path, model.schemata(old))))
    return done


def _remember(state: State, machine: Machine) -> list[Do]:
    """Keep what the default group has, the first time that something is taken from it."""
    if state.kept:
        return []
    folders = kept_folders(machine.default.values)
    return [Do(ask.MakeDir(KEPT)), *(Do(ask.MakeDir(folder), ask.RemoveDir(folder)) for folder in folders)]


def _forget(state: State, machine: Machine, name: str) -> list[Do]:
    """When nobody of ours has ways for himself any more."""
    alone = [
        g for g in machine.groups if g.ours and g.mode == EXCLUSIVE and g.name not in (name, state.group.name)
    ]
    if alone or not state.kept:
        return []
    return [*(Do(ask.RemoveDir(folder)) for folder in kept_folders(state.kept)), Do(ask.RemoveDir(KEPT))]


def perform(todo: Sequence[Do]) -> Steps[None]:
    """Send the requests in order; after a refusal take back those before it.

    :raise HostError: the refusal, with resctrl's own word for it.
    """
    undo: list[HostRequest] = []
    for step in todo:
        try:
            answer = yield step.request
        except RingfenceError as refusal:
            error = (yield from explained(refusal)) if isinstance(refusal, HostError) else refusal
            stuck: list[str] = []
            for back in reversed(undo):
                try:
                    yield back
                except HostError as second:
                    stuck.append(second.message)
            if undo:
                error.add_state("; ".join(stuck) or "everything was put back as it was")
            raise error from None
        if step.undo is not None and not (isinstance(step.request, ask.MakeDir) and not answer):
            undo.append(step.undo)


def explained(refusal: HostError) -> Steps[HostError]:
    """A refusal with what resctrl says to it; the text of another process's command is told by the errno alone."""
    if not refusal.path.endswith(("schemata", "mode", "tasks")) and refusal.errno not in (
        errno.ENOSPC,
        errno.EBUSY,
    ):
        return refusal
    try:
        said = ((yield ask.ReadFile(_STATUS, True)) or "").strip().splitlines()
    except HostError:
        said = []
    last = said[-1] if said and said[-1] != "ok" else ""
    if not last:
        return refusal
    hint = next((hint for start, hint in _HINTS.items() if last.startswith(start)), "the reason is resctrl's own")
    return HostError(f"{refusal.message} ({last})", path=refusal.path, errno=refusal.errno, hint=hint)


def join(folder: str, tids: Sequence[int]) -> Steps[int]:
    """Put threads into a group, one a write as every kernel takes it; those that have ended are passed over.

    :return: how many joined.
    """
    joined = 0
    for tid in tids:
        try:
            yield ask.WriteFile(f"{folder}/tasks", f"{tid}\n")
            joined += 1
        except HostError as error:
            if error.errno != errno.ESRCH:
                raise (yield from explained(error)) from None
    return joined


def partner(machine: Machine, state: State, target: Target) -> Group | None:
    """A group of ours that has what the tenant is to have, for when the processor has no more groups.

    Of a cache it counts how many ways there are, not which: nobody asked for certain ones.
    """
    if target.group is None or target.mode == EXCLUSIVE or target.others:
        return None
    wanted = target.group
    for group in machine.groups:
        usable = group.ours and group.mode == SHAREABLE and not plan.is_left_over(group)
        same = (_as_much(machine, name, group.values[name], held) for name, held in wanted.items())
        if usable and group.name != state.group.name and all(same):
            return group
    return None


def _as_much(machine: Machine, name: str, a: Mapping[int, int], b: Mapping[int, int]) -> bool:
    if machine.resources[name].cache is None:
        return model.same(a, b)
    unlimited = model.unlimited(machine, name)
    if model.same(a, unlimited) or model.same(b, unlimited):
        return model.same(a, b)
    return {d: mask.bit_count() for d, mask in a.items()} == {d: mask.bit_count() for d, mask in b.items()}
