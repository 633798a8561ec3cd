"""PURE: from what is wanted of a tenant's group to the masks of everybody concerned, and to the writes in order.

A tenant that is limited in anything is in a control group of its own, `ringfence-LABEL`. Taking ways for itself
alone narrows the default group first, and with it our own groups that are not limited in that cache: they have
what the default group has. Nobody else's mask is ever moved.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ringfence.core.host import OURS
from ringfence.errors import TenantError, UsageError
from ringfence.knobs.resctrl import masks, model, values
from ringfence.knobs.resctrl.model import EXCLUSIVE, SHAREABLE, Group, Machine, Resource, Values

KEPT = "/run/ringfence/resctrl-default"
"""Where the default group's schemata are kept from before the first ways were taken from it."""


class Wish(NamedTuple):
    """What a tenant is to have.

    :param texts: resource to what was written for it; None lifts the limit, a resource that is missing stays.
    :param mode: `exclusive` or `shareable`; None leaves it.
    """

    texts: Mapping[str, str | None]
    mode: str | None = None


class Target(NamedTuple):
    """What everybody concerned is to have.

    :param group: the tenant's values of every resource; None when it needs no group any more.
    :param mode: of its group.
    :param others: new values of other groups, the default one first, by their names.
    """

    group: Values | None
    mode: str
    others: Mapping[str, Values]


def name_for(label: str, machine: Machine) -> str:
    """What a new group for a tenant is called: no name that a group with others' threads in it has."""
    number = 1
    while True:
        name = f"{OURS}-{label}" + (f".{number}" if number > 1 else "")
        found = machine.group(name)
        if found is None or is_left_over(found):
            return name
        number += 1


def is_left_over(group: Group) -> bool:
    """Whether a group of ours has nobody in it any more."""
    return group.ours and not group.tids and not guests(group)


def guests(group: Group) -> tuple[str, ...]:
    """Tenants that share a group of ours, by the names of their monitoring groups."""
    return tuple(name for name in group.monitors if name.startswith(f"{OURS}-"))


def is_limited(machine: Machine, group: Group, name: str) -> bool:
    """Whether a group has less of a resource than one that was never limited."""
    return not model.same(group.values[name], model.unlimited(machine, name))


def target(machine: Machine, have: Group, wish: Wish, kept: Values) -> Target:
    """Work out everybody's masks.

    :param have: the group that the tenant is in now, perhaps the default one.
    :param kept: what the default group had before ways were taken from it.
    :raise UsageError: the wish cannot be on this processor; TenantError: it cannot be beside the others.
    """
    own = have if have.name else have._replace(values=_all_unlimited(machine), mode=SHAREABLE)
    mode = wish.mode or own.mode
    others = [group for group in machine.groups if group.name != have.name and not is_left_over(group)]
    mine: dict[str, dict[int, int]] = {}
    moved: dict[str, dict[str, Mapping[int, int]]] = {}
    for name, found in machine.resources.items():
        text = wish.texts.get(name, "")
        if found.band is not None:
            mine[name] = _bands(name, found, text, own)
        elif text is None or (not text and not is_limited(machine, own, name)):
            mine[name] = dict(model.unlimited(machine, name))
        elif mode == EXCLUSIVE:
            mine[name] = _alone(machine, found, text, own, others)
        else:
            mine[name] = _beside(machine, found, text, own, others)
    limited = [n for n in mine if machine.resources[n].cache and not _as_default(machine, mine, n)]
    if mode == EXCLUSIVE and not limited:
        if wish.mode:
            raise UsageError("cache.mode=exclusive: no share of a cache is set", hint="give cache.l3 as well")
        mode = SHAREABLE
    if mode == EXCLUSIVE:
        _refuse_unlimited(machine, mine, limited)
    for name, found in machine.resources.items():
        if found.cache is not None:
            _follow(machine, found, mine, mode, others, kept, moved)
    nothing = all(model.same(mine[n], _final_unlimited(machine, n, moved)) for n in mine)
    return Target(None if nothing and mode == SHAREABLE else mine, mode, moved)


def _all_unlimited(machine: Machine) -> Values:
    return {name: model.unlimited(machine, name) for name in machine.resources}


def _as_default(machine: Machine, mine: Values, name: str) -> bool:
    return model.same(mine[name], machine.default.values[name])


def _final_unlimited(machine: Machine, name: str, moved: Mapping[str, Values]) -> Mapping[int, int]:
    return moved.get(model.DEFAULT, {}).get(name) or model.unlimited(machine, name)


def _refuse_unlimited(machine: Machine, mine: Mapping[str, dict[int, int]], limited: Iterable[str]) -> None:
    """An exclusive group shares no cache at all: one in which it has everybody's ways is in the way."""
    shared = [n for n in mine if machine.resources[n].cache and n not in limited]
    if shared:
        key = f"cache.{shared[0][:2].lower()}"
        raise UsageError(f"cache.mode=exclusive: it goes for every cache, and {key} is not set", hint=f"give {key} too")


def _bands(name: str, found: Resource, text: str | None, own: Group) -> dict[int, int]:
    if text is None and found.band is not None:
        return dict.fromkeys(found.domains, found.band.maximum)
    held = dict(own.values[name])
    if text:
        for domain, part in values.split(_key(name), text, found).items():
            held[domain] = values.band_of(_key(name), part, found)
    return held


def _beside(
    machine: Machine, found: Resource, text: str | None, own: Group, others: list[Group]
) -> dict[int, int]:
    """Masks for a group that shares, in each domain."""
    return _placed(machine, found, text, own, others, exclusive=False)


def _alone(machine: Machine, found: Resource, text: str | None, own: Group, others: list[Group]) -> dict[int, int]:
    """Masks for a group that shares with nobody, in each domain."""
    return _placed(machine, found, text, own, others, exclusive=True)


def _placed(
    machine: Machine, found: Resource, text: str | None, own: Group, others: list[Group], *, exclusive: bool
) -> dict[int, int]:
    """First one mask that will do in all domains alike, else one for each."""
    key, cache = _key(found.name), found.cache
    assert cache is not None  # noqa: S101 - the callers sort bandwidth out
    held = dict(own.values[found.name])
    texts = values.split(key, text, found) if text else {d: f"{masks.ways(held[d])}ways" for d in found.domains}
    explicit = {domain: values.mask_of(key, part, found) for domain, part in texts.items()}
    blocked: dict[int, list[int]] = {}
    for domain in texts:
        blocked[domain] = _blocking(machine, found.name, domain, others, exclusive=exclusive)
    for domain, mask in explicit.items():
        if mask is not None:
            _refuse_overlap(machine, found, domain, mask, others, exclusive=exclusive)
            held[domain] = mask
    widths = {
        domain: values.width_of(key, part, found, domain)
        for domain, part in texts.items()
        if explicit[domain] is None
    }
    chosen = {
        domain: _choose(machine, found, domain, width, held[domain], blocked[domain], others, exclusive=exclusive)
        for domain, width in widths.items()
    }
    everywhere = sorted({mask for masks_ in blocked.values() for mask in masks_})
    if len(set(widths.values())) == 1 and not masks.in_all(list(chosen.values())):
        first = next(iter(widths))
        one = _choose(
            machine, found, first, widths[first], held[first], everywhere, others, exclusive=exclusive
        )
        chosen = dict.fromkeys(widths, one) if one else chosen
    for domain, mask in chosen.items():
        if not mask:
            raise _no_room(machine, found, domain, widths[domain], others, exclusive=exclusive)
        held[domain] = mask
    return held


def _choose(
    machine: Machine,
    found: Resource,
    domain: int,
    width: int,
    now: int,
    blocked: list[int],
    others: list[Group],
    *,
    exclusive: bool,
) -> int:
    cache, name = found.cache, found.name
    assert cache is not None  # noqa: S101 - as above
    default = machine.default.values[name][domain]
    if not is_own(now, default):
        now = 0
    if exclusive:
        return masks.exclude(cache, width, now=now, others=blocked, default=default | now)
    taken = 0
    for mask in blocked:
        taken |= mask
    beside = [group.values[name][domain] for group in others if is_limited(machine, group, name)]
    return masks.share(cache, width, now=now, exclusive_of_others=taken, others=beside)


def is_own(now: int, default: int) -> bool:
    """Whether a mask is a place of one's own: what is not limited lies nowhere in particular."""
    return now != default


def _blocking(machine: Machine, name: str, domain: int, others: list[Group], *, exclusive: bool) -> list[int]:
    """Masks that the tenant's must not touch: exclusive ones, and when it wants its own, all that will not give way."""
    return [group.values[name][domain] for group in _in_the_way(machine, name, others, exclusive=exclusive)]


def _in_the_way(machine: Machine, name: str, others: list[Group], *, exclusive: bool) -> list[Group]:
    return [
        group
        for group in others
        if group.mode != SHAREABLE or (exclusive and not (group.ours and not is_limited(machine, group, name)))
    ]


def _refuse_overlap(
    machine: Machine, found: Resource, domain: int, mask: int, others: list[Group], *, exclusive: bool
) -> None:
    for group in _in_the_way(machine, found.name, others, exclusive=exclusive):
        if mask & group.values[found.name][domain]:
            word = "has some of them for itself" if group.mode != SHAREABLE else "uses some of them"
            shown = values.shown_mask(group.values[found.name][domain], found)
            raise TenantError(
                f"{_key(found.name)}={values.shown_mask(mask, found)}: the group {group.name} {word} ({shown})",
                hint="leave the choice of the ways to ringfence: give a percentage or a size",
            )
    cache = found.cache
    if exclusive and cache is not None and mask & cache.hardware:
        shown = values.shown_mask(cache.hardware, found)
        raise TenantError(
            f"{_key(found.name)}: devices write to some of these ways ({shown}), so that they are nobody's alone",
            hint="leave them out",
        )


def _no_room(
    machine: Machine, found: Resource, domain: int, width: int, others: list[Group], *, exclusive: bool
) -> TenantError:
    held = [
        f"{group.name} {values.shown_mask(group.values[found.name][domain], found)}"
        for group in _in_the_way(machine, found.name, others, exclusive=exclusive)
    ]
    cache = found.cache
    if exclusive and cache is not None and cache.hardware:
        held.append(f"devices {values.shown_mask(cache.hardware, found)}")
    side = "" if cache is not None and cache.sparse else " side by side"
    whose = "for itself alone" if exclusive else "beside the exclusive ones"
    return TenantError(
        f"{_key(found.name)}: no {width} ways{side} are left {whose} in domain {domain}",
        hint=f"in use: {', '.join(held) or 'nothing'}; the other groups must keep some as well",
    )


def _follow(
    machine: Machine,
    found: Resource,
    mine: Values,
    mode: str,
    others: list[Group],
    kept: Values,
    moved: dict[str, dict[str, Mapping[int, int]]],
) -> None:
    """What the default group, and those that are not limited in this cache, have beside all exclusive ones."""
    cache, name = found.cache, found.name
    assert cache is not None  # noqa: S101 - as above
    alone = [group.values[name] for group in others if group.mode == EXCLUSIVE]
    if mode == EXCLUSIVE:
        alone.append(mine[name])
    new: dict[int, int] = {}
    for domain in found.domains:
        taken = 0
        for held in alone:
            taken |= held[domain]
        now = machine.default.values[name][domain]
        was = kept.get(name, {}).get(domain, now)
        left = (was | now) & ~taken
        new[domain] = left if cache.sparse else masks.longest_run(left, near=now & ~taken)
    if model.same(new, machine.default.values[name]):
        return
    followers = [group.name for group in others if group.ours and not is_limited(machine, group, name)]
    for group_name in (model.DEFAULT, *followers):
        moved.setdefault(group_name, {})[name] = new
    if mode != EXCLUSIVE and _as_default(machine, mine, name):
        dict_of(mine)[name] = new


def dict_of(values_: Values) -> dict[str, Mapping[int, int]]:
    """The same object, to change it."""
    assert isinstance(values_, dict)  # noqa: S101 - it was made here
    return values_


def _key(name: str) -> str:
    """The key that a resource is set by."""
    if model.is_band(name):
        return "memory.bandwidth" + (".slow" if name == "SMBA" else "")
    return f"cache.{name[:2].lower()}" + (f".{name[2:].lower()}" if len(name) > 2 else "")


key_of = _key
