"""PURE: what a file of fences says, and which fence it comes to for one tenant.

A fence is put together from rules: `defaults`, then labels, then globs, then names, each in the order of the text;
what comes later goes before. `defaults` hold for tenants that some rule names: nobody is fenced by accident.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from fnmatch import fnmatchcase
from typing import NamedTuple

from ringfence import units
from ringfence.core.knob import Row, Value
from ringfence.core.spec_yaml import Place

GLOB = frozenset("*?[")
KINDS = ("vm", "container", "cgroup")
DRIFT = ("repair", "warn", "off")
"""What is done when a tenant no longer is as its fence says."""

BOUNDS = (
    Row("memory.min", units.BYTES, "fences", "the least the tenant is to have; counted against the host's memory"),
    Row("memory.max", units.BYTES, "fences", "the most the tenant may be given"),
)
"""Keys that limit what may be asked for, and are no knobs. A knob of that name goes before."""


class Setting(NamedTuple):
    """:param value: in the base unit; None lifts the limit. :param rule: the selector whose rule says so."""

    key: str
    value: Value | None
    place: Place
    rule: str


class Rank(IntEnum):
    """How near a selector is to a tenant: the nearer goes before."""

    DEFAULT = 0
    LABEL = 1
    GLOB = 2
    NAME = 3


class Selector(NamedTuple):
    """Whom a rule is for.

    :param kind: `vm`, `container` or `cgroup`; empty for a label, and for the defaults.
    :param pattern: the name, the glob or the label.
    """

    text: str
    rank: Rank
    kind: str
    pattern: str

    def meets(self, names: Iterable[tuple[str, str]], labels: Iterable[str]) -> bool:
        """Whether a tenant with these names, as `(kind, name)`, and labels is meant."""
        if self.rank is Rank.DEFAULT:
            return True
        if self.rank is Rank.LABEL:
            return self.pattern in labels
        if self.rank is Rank.NAME:
            return (self.kind, self.pattern) in names
        return any(kind == self.kind and fnmatchcase(name, self.pattern) for kind, name in names)


class Rule(NamedTuple):
    """One entry of `fences`, or the defaults. :param drift: None where it says nothing of it."""

    selector: Selector
    settings: tuple[Setting, ...]
    place: Place
    drift: str | None = None


class Pool(NamedTuple):
    """A quota of the host for the disks that join it. :param settings: by leaf, such as `iops`."""

    name: str
    settings: Mapping[str, Setting]
    place: Place


class Spec(NamedTuple):
    """Everything that the files say. :param files: those that were read, in the order that counts."""

    rules: tuple[Rule, ...] = ()
    labels: Mapping[str, tuple[Selector, ...]] = {}
    pools: Mapping[str, Pool] = {}
    drift: str = "repair"
    files: tuple[str, ...] = ()


class Fence(NamedTuple):
    """What is wanted of one tenant.

    :param settings: by key. :param bounds: those of `BOUNDS`, by key.
    :param rules: the selectors that it was put together from, the nearest last.
    """

    settings: Mapping[str, Setting]
    bounds: Mapping[str, Setting]
    rules: tuple[str, ...]
    drift: str


def selector(text: str) -> Selector:
    """Read `web1`, `batch-*`, `label:bronze`, `container:cache` or `cgroup:/path`."""
    head, colon, rest = text.partition(":")
    if colon and head == "label":
        return Selector(text, Rank.LABEL, "", rest)
    kind, name = (head, rest) if colon and head in KINDS else ("vm", text)
    return Selector(text, Rank.GLOB if GLOB & set(name) else Rank.NAME, kind, name)


class Fences:
    """Finds the fence of each tenant; tenants that the same rules meet share one object.

    :param bound_keys: keys that are bounds only, see `BOUNDS`.
    """

    def __init__(self, spec: Spec, bound_keys: Iterable[str]) -> None:
        self.spec = spec
        self._bounds = frozenset(bound_keys)
        self._built: dict[tuple[int, ...], Fence] = {}
        self._named: dict[tuple[str, str], list[int]] = {}
        self._others: list[int] = []
        for index, rule in enumerate(spec.rules):
            if rule.selector.rank is Rank.NAME:
                where = self._named.setdefault((rule.selector.kind, rule.selector.pattern), [])
                where.append(index)
            else:
                self._others.append(index)

    def of(self, names: Sequence[tuple[str, str]]) -> Fence | None:
        """The fence of the tenant with these names, as `(kind, name)`; None when no rule names it."""
        labels = self.labels_of(names)
        met = [i for i in self._others if self.spec.rules[i].selector.meets(names, labels)]
        met += [index for name in dict.fromkeys(names) for index in self._named.get(name, ())]
        if all(self.spec.rules[index].selector.rank is Rank.DEFAULT for index in met):
            return None
        met.sort(key=lambda index: (self.spec.rules[index].selector.rank, index))
        key = tuple(met)
        if key not in self._built:
            self._built[key] = self._build([self.spec.rules[index] for index in met])
        return self._built[key]

    def labels_of(self, names: Sequence[tuple[str, str]]) -> frozenset[str]:
        """The labels of the tenant with these names; a label may have others as its members."""
        found: set[str] = set()
        while True:
            more = {
                label
                for label, members in self.spec.labels.items()
                if label not in found and any(member.meets(names, found) for member in members)
            }
            if not more:
                return frozenset(found)
            found |= more

    def missing(self, present: Iterable[Sequence[tuple[str, str]]]) -> list[Rule]:
        """Rules for a name that no tenant has."""
        known = {name for names in present for name in names}
        rules = (self.spec.rules[index] for found in self._named.values() for index in found)
        return [rule for rule in rules if (rule.selector.kind, rule.selector.pattern) not in known]

    def _build(self, rules: Sequence[Rule]) -> Fence:
        settings = {setting.key: setting for rule in rules for setting in rule.settings}
        drift = next((rule.drift for rule in reversed(rules) if rule.drift), self.spec.drift)
        return Fence(
            {key: setting for key, setting in settings.items() if key not in self._bounds},
            {key: setting for key, setting in settings.items() if key in self._bounds},
            tuple(rule.selector.text for rule in rules),
            drift,
        )
