"""PURE: from what is wanted of a tenant's group to the masks of everybody concerned, and to the writes in order.

A tenant that is limited in anything is in a control group of its own, `ringfence-LABEL`. Taking ways for itself
alone narrows the default group first, and with it our own groups that are not limited in that cache: they have
what the default group has. Nobody else's mask is ever moved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ringfence.core.host import OURS
from ringfence.errors import TenantError, UsageError
from ringfence.knobs.resctrl import masks, model, values
from ringfence.knobs.resctrl.model import EXCLUSIVE, SHAREABLE, Group, Machine, Resource, Values


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
    others = [group for group in machine.groups if group.name != have.name and not is_left_over(group)]
    unlimited = {name: model.unlimited(machine, name) for name in machine.resources}
    own = have if have.name else Group(model.DEFAULT, SHAREABLE, unlimited)
    mode = wish.mode or own.mode
    scene = _Scene(machine, own, others, mode == EXCLUSIVE)
    mine: dict[str, Mapping[int, int]] = {}
    for name, found in machine.resources.items():
        text = wish.texts.get(name, "")
        if found.band is not None:
            mine[name] = _bands(found, text, own)
        elif text is None or (not text and not is_limited(machine, own, name)):
            mine[name] = unlimited[name]
        else:
            mine[name] = scene.placed(found, text)
    caches = [name for name, found in machine.resources.items() if found.cache is not None]
    limited = [name for name in caches if not model.same(mine[name], unlimited[name])]
    if mode == EXCLUSIVE:
        mode = _exclusive_or_not(wish, caches, limited)
    moved: dict[str, dict[str, Mapping[int, int]]] = {}
    if EXCLUSIVE in (mode, own.mode):
        alone = [group.values for group in others if group.mode == EXCLUSIVE]
        for name in caches:
            taken = [*alone, mine] if mode == EXCLUSIVE else alone
            left = _left(machine, name, taken, kept)
            if not model.same(left, machine.default.values[name]):
                same = [g.name for g in others if g.ours and not is_limited(machine, g, name)]
                for other in (model.DEFAULT, *same):
                    moved.setdefault(other, {})[name] = left
            if name not in limited:
                mine[name] = left
            unlimited[name] = left
    needless = mode == SHAREABLE and all(model.same(mine[name], unlimited[name]) for name in mine)
    return Target(None if needless else mine, mode, moved)


def _exclusive_or_not(wish: Wish, caches: Sequence[str], limited: Sequence[str]) -> str:
    """An exclusive group shares no cache at all; one that has no share of a cache of its own is not exclusive."""
    missing = [key_of(name) for name in caches if name not in limited]
    if not missing:
        return EXCLUSIVE
    if not limited and not wish.mode:
        return SHAREABLE
    raise UsageError(
        f"cache.mode=exclusive goes for every cache, and {missing[0]} is not set",
        hint=f"give {missing[0]} as well",
    )


def _left(machine: Machine, name: str, taken: Sequence[Values], kept: Values) -> dict[int, int]:
    """What everybody who is not limited has of a cache beside the exclusive groups, in each domain."""
    cache = machine.resources[name].ways
    left: dict[int, int] = {}
    for domain, now in machine.default.values[name].items():
        gone = 0
        for held in taken:
            gone |= held[name][domain]
        free = (now | kept.get(name, {}).get(domain, now)) & ~gone
        left[domain] = free if cache.sparse else masks.longest_run(free, near=now)
    return left


def _bands(found: Resource, text: str | None, own: Group) -> dict[int, int]:
    if text is None and found.band is not None:
        return dict.fromkeys(found.domains, found.band.maximum)
    held = dict(own.values[found.name])
    if text:
        key = key_of(found.name)
        held |= {d: values.band_of(key, part, found) for d, part in values.split(key, text, found).items()}
    return held


class _Scene(NamedTuple):
    """Who is there when a group is given ways.

    :param own: the group; `others` those beside it; `exclusive` whether it is to share with nobody.
    """

    machine: Machine
    own: Group
    others: Sequence[Group]
    exclusive: bool

    def placed(self, found: Resource, text: str) -> dict[int, int]:
        """Masks for each domain: the ones asked for, else one that will do in all of them, else one for each."""
        key, held = key_of(found.name), dict(self.own.values[found.name])
        texts = (
            values.split(key, text, found) if text else {d: f"{masks.ways(held[d])}ways" for d in found.domains}
        )
        widths: dict[int, int] = {}
        for domain, part in texts.items():
            mask = values.mask_of(key, part, found)
            if mask is None:
                widths[domain] = values.width_of(key, part, found, domain)
            else:
                self._refuse_overlap(found, domain, mask)
                held[domain] = mask
        everywhere = self._common(found, widths, held)
        for domain, width in widths.items():
            blocked = self._blocked(found.name, [domain])
            mask = everywhere or self._choose(found, domain, width, held[domain], blocked)
            if not mask:
                raise self._no_room(found, domain, width)
            held[domain] = mask
        return held

    def _common(self, found: Resource, widths: Mapping[int, int], held: Mapping[int, int]) -> int:
        """One mask for all domains; 0 where they differ in what is wanted, or in what is there."""
        same = {(widths[domain], held[domain], self._default(found, domain)) for domain in widths}
        if len(same) != 1:
            return 0
        width, now, _ = next(iter(same))
        return self._choose(found, next(iter(widths)), width, now, self._blocked(found.name, list(widths)))

    def _default(self, found: Resource, domain: int) -> int:
        return self.machine.default.values[found.name][domain]

    def _choose(self, found: Resource, domain: int, width: int, now: int, blocked: Sequence[int]) -> int:
        name, default = found.name, self._default(found, domain)
        now = 0 if now == default else now  # what is not limited lies nowhere in particular
        if self.exclusive:
            return masks.exclude(found.ways, width, now=now, others=blocked, default=default | now)
        taken = 0
        for mask in blocked:
            taken |= mask
        beside = [g.values[name][domain] for g in self.others if is_limited(self.machine, g, name)]
        return masks.share(found.ways, width, now=now, exclusive_of_others=taken, others=beside)

    def _in_the_way(self, name: str) -> list[Group]:
        """Groups whose ways are not to be touched: exclusive ones; for an exclusive one, all that do not yield."""
        return [
            group
            for group in self.others
            if group.mode != SHAREABLE
            or (self.exclusive and not (group.ours and not is_limited(self.machine, group, name)))
        ]

    def _blocked(self, name: str, domains: Sequence[int]) -> list[int]:
        return [group.values[name][domain] for group in self._in_the_way(name) for domain in domains]

    def _refuse_overlap(self, found: Resource, domain: int, mask: int) -> None:
        asked = f"{key_of(found.name)}={values.shown_mask(mask, found)}"
        for group in self._in_the_way(found.name):
            held = group.values[found.name][domain]
            if mask & held:
                word = "uses some of them" if group.mode == SHAREABLE else "has some of them for itself"
                raise TenantError(
                    f"{asked}: the group {group.name} {word} ({values.shown_mask(held, found)})",
                    hint="leave the choice of the ways to ringfence: give a percentage or a size",
                )
        if self.exclusive and mask & found.ways.hardware:
            shown = values.shown_mask(found.ways.hardware, found)
            raise TenantError(f"{asked}: devices write to some of these ways ({shown})", hint="leave them out")
        rest = masks.rest(found.ways, self._default(found, domain), mask)
        if self.exclusive and masks.ways(rest) < max(found.ways.min_ways, 1):
            raise TenantError(f"{asked}: nothing would be left for everybody else", hint="ask for fewer ways")

    def _no_room(self, found: Resource, domain: int, width: int) -> TenantError:
        held = [
            f"{group.name} {values.shown_mask(group.values[found.name][domain], found)}"
            for group in self._in_the_way(found.name)
        ]
        if self.exclusive and found.ways.hardware:
            held.append(f"devices {values.shown_mask(found.ways.hardware, found)}")
        whose = "for itself alone" if self.exclusive else "beside the exclusive groups"
        apart = "" if found.ways.sparse else " side by side"
        return TenantError(
            f"{key_of(found.name)}: no {width} ways{apart} are left {whose}",
            hint=f"in use in domain {domain}: {', '.join(held) or 'nothing'}; everybody else must keep some too",
        )


def key_of(name: str) -> str:
    """The key that a resource is set by."""
    if model.is_band(name):
        return "memory.bandwidth" + (".slow" if name == "SMBA" else "")
    return f"cache.{name[:2].lower()}" + (f".{name[2:].lower()}" if len(name) > 2 else "")
