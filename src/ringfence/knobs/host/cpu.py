"""PURE: how much CPU time a tenant gets: `cpu.cap`, `cpu.weight`, `cpu.burst`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ringfence import units
from ringfence.core.host import Placement
from ringfence.core.knob import EVERY_TENANT, Observation, Outcome, Part, Row, Wants
from ringfence.core.requests import Change, Steps
from ringfence.core.requests import Placement as AskPlacement
from ringfence.errors import UsageError
from ringfence.knobs.host import bandwidth
from ringfence.knobs.host.bandwidth import Bandwidth
from ringfence.knobs.host.carry import applied
from ringfence.knobs.host.home import Do, Home, home_of, why_not

CAP_MAX_PERCENT = 100 * 8192
"""As many CPUs as Linux can be built for."""

ROWS = (
    Row("cpu.cap", units.PERCENT, "cpu.max", "CPU time at most, in percent of one CPU", lifts=True),
    Row("cpu.weight", units.COUNT, "cpu.weight", "share of the CPU while others want it too; 100 is usual"),
    Row(
        "cpu.burst",
        units.MICROSECONDS,
        "cpu.max.burst",
        "CPU time that may be saved while below the cap, to be used above it",
        lifts=True,
        main=False,
        lifted="none",
    ),
)


class State(NamedTuple):
    """:param home: None where there is no such controller; `reason` then says so."""

    home: Home | None
    now: Bandwidth
    reason: str
    short: bool


class CpuTime:
    """See the module."""

    prefix = "cpu"
    tenants = EVERY_TENANT
    rows: tuple[Row, ...] = ROWS
    events: tuple[str, ...] = ()

    def observe(self) -> Steps[tuple[Part, ...]]:
        """Find the tenant's group, and read what it holds; one Part."""
        placement: Placement = yield AskPlacement()
        home = home_of(placement, "cpu")
        now = Bandwidth() if home is None else (yield from bandwidth.read(home))
        return (Part("", (), State(home, now, why_not(placement, "cpu"), placement.virtual)),)

    def observation(self, part: Part, row: Row) -> Observation:
        """What the kernel holds."""
        state: State = part.state
        now = state.now
        if row.key == "cpu.cap":
            notes = (
                () if now.quota_us is None or whole(now) else (f"exactly {now.quota_us} of {now.period_us} us",)
            )
            return Observation(row, row.key, now.percent, now.percent, 1, CAP_MAX_PERCENT, state.reason, notes)
        if row.key == "cpu.weight":
            return Observation(row, row.key, now.weight, now.weight, 1, 10_000, state.reason)
        reason = state.reason or ("" if now.burst_us is not None else "this kernel lets no CPU time be saved")
        burst = now.burst_us or None
        return Observation(row, row.key, burst, burst, 0, now.quota_us, reason)

    def check(self, part: Part, wants: Wants, *, force: bool) -> None:
        """Raise UsageError out of range, or for a burst that has no cap, or is more than it."""
        for row in self.rows:
            leaf = row.key.removeprefix("cpu.")
            if leaf not in wants:
                continue
            observation = self.observation(part, row)
            observation.refuse_unavailable()
            want = wants[leaf]
            low, high = (0, bandwidth.PERIOD_MAX_US * 8192) if leaf == "burst" else (1, observation.maximum or 0)
            if want is not None and not low <= int(want) <= high:
                raise UsageError(f"{row.key}={want} is out of range", hint=f"from {low} to {high}")
        then = self._then(part, wants)
        if then.burst_us and (then.quota_us is None or then.burst_us > then.quota_us):
            most = "set cpu.cap with it" if then.quota_us is None else f"at most {then.quota_us}us with this cap"
            raise UsageError(f"cpu.burst={then.burst_us}us cannot be more than the cap allows a period", hint=most)

    def changes(self, part: Part, wants: Wants) -> Sequence[Change]:
        """The group when it is to be made, then the files that differ."""
        return bandwidth.requests(self._steps(part, wants))

    def apply(self, part: Part, wants: Wants, *, timeout_s: float, force: bool) -> Steps[Outcome]:
        """Write, and read back."""
        return (yield from applied(self, part, wants, self._steps))

    def _steps(self, part: Part, wants: Wants) -> Sequence[Do]:
        state: State = part.state
        if state.home is None:
            return []
        return bandwidth.changes(state.home, state.now, self._then(part, wants))

    def _then(self, part: Part, wants: Wants) -> Bandwidth:
        state: State = part.state
        then = state.now
        if "cap" in wants:
            cap = wants["cap"]
            then = bandwidth.capped(then, None if cap is None else int(cap), short=state.short)
        if "weight" in wants:
            then = then._replace(weight=int(wants["weight"] or 0))
        if "burst" in wants:
            then = then._replace(burst_us=int(wants["burst"] or 0))
        return then


def whole(now: Bandwidth) -> bool:
    """Whether a cap is a whole number of percent."""
    return now.quota_us is None or now.quota_us * 100 % now.period_us == 0
