"""PURE: how much a tenant waits for what it is short of: pressure stall information of its group, to read.

Source: the kernel's Documentation/accounting/psi.rst. Only groups of v2 have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ringfence import units
from ringfence.core.host import Placement
from ringfence.core.knob import EVERY_TENANT, Observation, Outcome, Part, Row, Wants
from ringfence.core.requests import Change, ReadFile, Steps
from ringfence.core.requests import Placement as AskPlacement
from ringfence.errors import UsageError

KINDS = ("cpu", "memory", "io")
ROWS = tuple(
    Row(
        f"pressure.{kind}",
        units.PERCENT,
        f"{kind}.pressure",
        f"share of the last 10 s in which some of it waited for {'the ' if kind == 'cpu' else ''}{name}",
        main=False,
        read_only=True,
    )
    for kind, name in zip(KINDS, ("CPU", "memory", "block I/O"), strict=True)
)


class State(NamedTuple):
    """:param some: percent by kind, as the kernel prints it; None where it is not told."""

    some: dict[str, str | None]
    reason: str


class Pressure:
    """See the module."""

    prefix = "pressure"
    tenants = EVERY_TENANT
    rows: tuple[Row, ...] = ROWS
    events: tuple[str, ...] = ()

    def observe(self) -> Steps[tuple[Part, ...]]:
        """Read the files of the tenant's group; one Part."""
        placement: Placement = yield AskPlacement()
        group = placement.unified
        if group is None or not group.dedicated:
            reason = placement.absent or "it has no cgroup of version 2 of its own"
            return (Part("", (), State(dict.fromkeys(KINDS), reason)),)
        texts = yield [ReadFile(f"{group.folder}/{kind}.pressure", optional=True) for kind in KINDS]
        some = {kind: _some(text) for kind, text in zip(KINDS, texts, strict=True)}
        return (Part("", (), State(some, "" if any(some.values()) else "this kernel does not tell it (psi=1)")),)

    def observation(self, part: Part, row: Row) -> Observation:
        """In whole percent; exactly in a note."""
        state: State = part.state
        text = state.some[row.key.removeprefix("pressure.")]
        value = None if text is None else round(float(text))
        notes = () if text is None else (f"{text}% of the last 10 s",)
        return Observation(row, row.key, value, value, unavailable=state.reason, notes=notes)

    def check(self, part: Part, wants: Wants, *, force: bool) -> None:
        """Nothing of it can be set: raises UsageError."""
        raise UsageError("pressure is what is, and cannot be set", hint="raise the limit that it comes from")

    def changes(self, part: Part, wants: Wants) -> Sequence[Change]:
        """None."""
        return []

    def apply(self, part: Part, wants: Wants, *, timeout_s: float, force: bool) -> Steps[Outcome]:
        """Never called, as `check` refuses."""
        yield from ()
        raise UsageError("pressure cannot be set")


def _some(text: str | None) -> str | None:
    """avg10 of the line `some avg10=0.12 avg60=... total=...`."""
    for line in (text or "").splitlines():
        if line.startswith("some "):
            return line.split()[1].removeprefix("avg10=")
    return None
