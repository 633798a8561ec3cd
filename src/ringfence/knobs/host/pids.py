"""PURE: how many processes and threads a tenant may have: `pids.limit`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ringfence import units
from ringfence.core.host import Placement
from ringfence.core.knob import EVERY_TENANT, Observation, Outcome, Part, Row, Wants
from ringfence.core.requests import Change, ReadFile, Steps
from ringfence.core.requests import Placement as AskPlacement
from ringfence.errors import UsageError
from ringfence.knobs.host import bandwidth, numbers
from ringfence.knobs.host.carry import applied
from ringfence.knobs.host.home import Do, Home, home_of, why_not
from ringfence.knobs.host.numbers import Held, Setting

ROW = Row("pids.limit", units.COUNT, "pids.max", "processes and threads at most", lifts=True, main=False)
SETTING = Setting(ROW, "pids.max", "pids.max", "TasksMax")
_MOST = 2**22
"""PID_MAX_LIMIT on 64-bit kernels."""


class State(NamedTuple):
    """:param used: how many there are; None where that is not counted."""

    home: Home | None
    held: Held
    reason: str
    used: int | None


class PidsLimit:
    """See the module."""

    prefix = "pids"
    tenants = EVERY_TENANT
    rows: tuple[Row, ...] = (ROW,)
    events: tuple[str, ...] = ()

    def observe(self) -> Steps[tuple[Part, ...]]:
        """Find the tenant's group, and read what it holds; one Part."""
        placement: Placement = yield AskPlacement()
        home = home_of(placement, "pids")
        held, used = Held({}), None
        if home is not None:
            held = yield from numbers.read(home, (SETTING,))
            used = (yield ReadFile(home.file("pids.current"), optional=True)) if home.exists else None
        return (Part("", (), State(home, held, why_not(placement, "pids"), None if used is None else int(used))),)

    def observation(self, part: Part, row: Row) -> Observation:
        """What the kernel holds."""
        state: State = part.state
        limit = state.held.values.get("limit")
        notes = () if state.used is None else (f"{state.used} now",)
        return Observation(row, row.key, limit, limit, 1, _MOST, state.reason, notes)

    def check(self, part: Part, wants: Wants, *, force: bool) -> None:
        """Raise UsageError out of range, or below what there is, as nothing could be started then."""
        self.observation(part, ROW).refuse_unavailable()
        state: State = part.state
        want = wants["limit"]
        if want is None:
            return
        if not 1 <= int(want) <= _MOST:
            raise UsageError(f"pids.limit={want} is out of range", hint=f"from 1 to {_MOST}")
        if state.used is not None and int(want) < state.used and not force:
            hint = "none of them would be ended, but no new one could begin; --force sets it all the same"
            raise UsageError(f"pids.limit={want} is below the {state.used} that there are", hint=hint)

    def changes(self, part: Part, wants: Wants) -> Sequence[Change]:
        """The group when it is to be made, then the limit."""
        return bandwidth.requests(self._steps(part, wants))

    def apply(self, part: Part, wants: Wants, *, timeout_s: float, force: bool) -> Steps[Outcome]:
        """Write, and read back."""
        return (yield from applied(self, part, wants, self._steps))

    def _steps(self, part: Part, wants: Wants) -> Sequence[Do]:
        state: State = part.state
        return [] if state.home is None else numbers.steps(state.home, (SETTING,), state.held, wants)
