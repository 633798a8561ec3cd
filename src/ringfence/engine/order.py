"""PURE: in which order the steps of a plan are taken, and why.

What frees something comes first, over all tenants, so that who grows takes what who shrinks has given back. Steps
of one tenant whose knobs touch each other (a disk and its pool) stay together in their own order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ringfence import units
from ringfence.core.knob import Value
from ringfence.engine.changes import Step
from ringfence.engine.snapshot import cluster

_WORDS = frozenset({units.NAME, units.SWITCH})
FREES, TAKES = "first: it only lowers limits, so that others can take what it frees", "after all that frees"


class Waves(NamedTuple):
    """The steps of one tenant: those that free, and those that take, or may."""

    freeing: tuple[Step, ...]
    taking: tuple[Step, ...]


def waves(steps: Sequence[Step]) -> Waves:
    """Divide the steps of a tenant."""
    kinds: dict[str, list[Step]] = {}
    for step in steps:
        kinds.setdefault(cluster(step.knob), []).append(step)
    freeing = {kind for kind, found in kinds.items() if all(map(frees, found))}
    return Waves(
        tuple(step for step in steps if cluster(step.knob) in freeing),
        tuple(step for step in steps if cluster(step.knob) not in freeing),
    )


def frees(step: Step) -> bool:
    """Whether a step lowers something and raises nothing."""
    lower = False
    for leaf, want in step.wants.items():
        row = step.keys[leaf].row
        if row.modifies:
            continue
        have = step.knob.observation(step.part, row).target
        if have == want:
            continue
        if row.unit in _WORDS or not _is_less(want, have):
            return False
        lower = True
    return lower


def _is_less(want: Value | None, have: Value | None) -> bool:
    if have is None:
        return True
    return want is not None and not isinstance(want, str) and not isinstance(have, str) and want < have
