"""What a tenant's knobs are, as plain values that can be kept and gone back to. Pure, but for `look`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple, TypeAlias

from ringfence.core.knob import Knob, Part, Value
from ringfence.engine.changes import observe_all
from ringfence.engine.driver import Edges, observe
from ringfence.errors import MonitorError, RingfenceError
from ringfence.knobs import registry

Values: TypeAlias = Mapping[str, Value | None]
"""Every key that can be set, to what was asked for last; None is unlimited. What is not there is left out."""


class Return(NamedTuple):
    """What leads back to an earlier state.

    :param wants: key to the value to set.
    :param elsewhere: keys that somebody else has set since, to what they are now.
    """

    wants: dict[str, Value | None]
    elsewhere: dict[str, Value | None]


def cluster(knob: Knob) -> str:
    """What knobs have in common whose changes touch each other: a disk's pool is one of its limits too."""
    return knob.prefix.replace("pool", "disk")


async def look(edges: Edges, touched: Collection[Knob]) -> dict[Knob, tuple[Part, ...]]:
    """Read the touched knobs, and all that a change of them may change too.

    :raise MonitorError: QEMU went away, does not answer, or answers what cannot be read.
    """
    seen = await observe_all(edges, touched)
    clusters = {cluster(knob) for knob in touched}
    for knob in registry.knobs():
        if knob not in seen and cluster(knob) in clusters:
            try:
                seen[knob] = await observe(knob.observe(), edges)
            except MonitorError:
                raise
            except RingfenceError:  # nobody asked for this one; what cannot be read cannot be put back either
                continue
    return seen


def values(seen: Mapping[Knob, tuple[Part, ...]]) -> dict[str, Value | None]:
    """The values of every key that can be set."""
    found: dict[str, Value | None] = {}
    for knob, parts in seen.items():
        rows = [row for row in knob.rows if not row.read_only and not row.modifies]
        for part in parts:
            for row in rows:
                observation = knob.observation(part, row)
                if not observation.unavailable:
                    found[observation.key] = observation.target
    return found


def knobs_of(keys: Iterable[str]) -> list[Knob]:
    """The knobs that have these keys."""
    return list(dict.fromkeys(registry.parse_key(key).knob for key in keys))


def way_back(before: Values, after: Values | None, now: Values, *, force: bool = False) -> Return:
    """What to set to go from `now` back to `before`.

    :param after: how the change left it; None where nobody read that: then all that differs is its doing.
    :param force: also what somebody else has set since.
    """
    wants: dict[str, Value | None] = {}
    elsewhere: dict[str, Value | None] = {}
    for key in dict.fromkeys((*before, *now)):
        old, new = before.get(key), now.get(key)
        if old == new or (key not in now and old is None):
            continue
        if after is not None:
            if after.get(key) == old:
                continue  # not our doing
            if after.get(key) != new and not force:
                elsewhere[key] = new
                continue
        if key in now or not _instance_gone(key, now):
            wants[key] = old
    return Return(wants, elsewhere)


def _instance_gone(key: str, now: Values) -> bool:
    """Whether the instance that a key names is not there any more, and cannot be made by naming it."""
    return not key.startswith("pool.") and key not in now
