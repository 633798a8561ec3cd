"""PURE: CPU time of a VM's vCPUs, while its emulator stays free: `cpu.vcpus.cap`, and `cpu.vcpu.<n>.cap` of each.

The VM's own `cpu.cap` also stops the thread that answers the monitor, and those that do the disks' work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ringfence import units
from ringfence.core.host import Placement, Task
from ringfence.core.knob import ONLY_VMS, Observation, Outcome, Part, Row, Wants
from ringfence.core.requests import Change, Steps
from ringfence.core.requests import Placement as AskPlacement
from ringfence.errors import UsageError
from ringfence.knobs.host import bandwidth, threads, vcpu_groups
from ringfence.knobs.host.bandwidth import Bandwidth
from ringfence.knobs.host.carry import applied
from ringfence.knobs.host.cpu import CAP_MAX_PERCENT, whole
from ringfence.knobs.host.home import Do, Home, home_of, why_not

TOGETHER = Row(
    "cpu.vcpus.cap",
    units.PERCENT,
    "cpu.max",
    "CPU time of all vCPUs together, in percent of one CPU; the emulator stays free",
    lifts=True,
    main=False,
)
EACH = Row(
    "cpu.vcpu.<n>.cap",
    units.PERCENT,
    "cpu.max",
    "CPU time of one vCPU, in percent of one CPU",
    lifts=True,
    main=False,
)


class State(NamedTuple):
    """:param home: None where caps cannot be; `reason` then says so."""

    home: Home | None
    now: Bandwidth
    reason: str


class _Caps:
    """What both have in common."""

    prefix: str
    tenants = ONLY_VMS
    rows: tuple[Row, ...]
    events: tuple[str, ...] = ()

    def observe(self) -> Steps[tuple[Part, ...]]:
        """Find the vCPUs' threads and their groups, and read what these hold."""
        placement: Placement = yield AskPlacement()
        home = home_of(placement, "cpu")
        reason = why_not(placement, "cpu")
        found = threads.vcpus((yield from threads.tasks("cpu")) if home else ())
        if not found or home is None:
            return self._without(reason or threads.UNKNOWN)
        return (yield from self._parts(home, found))

    def _without(self, reason: str) -> tuple[Part, ...]:
        raise NotImplementedError

    def _parts(self, home: Home, found: Mapping[int, Task]) -> Steps[tuple[Part, ...]]:
        raise NotImplementedError

    def observation(self, part: Part, row: Row) -> Observation:
        """What the kernel holds."""
        state: State = part.state
        now = state.now
        notes = () if whole(now) else (f"exactly {now.quota_us} of {now.period_us} us",)
        key = row.key.replace("<n>", part.name)
        return Observation(row, key, now.percent, now.percent, 1, CAP_MAX_PERCENT, state.reason, notes)

    def check(self, part: Part, wants: Wants, *, force: bool) -> None:
        """Raise UsageError out of range, TenantError where it cannot be."""
        observation = self.observation(part, self.rows[0])
        observation.refuse_unavailable()
        want = wants["cap"]
        if want is not None and not 1 <= int(want) <= CAP_MAX_PERCENT:
            raise UsageError(
                f"{observation.key}={want} is out of range", hint=f"from 1 to {CAP_MAX_PERCENT} percent"
            )

    def changes(self, part: Part, wants: Wants) -> Sequence[Change]:
        """The groups when they are to be made, with the threads in them; then the cap."""
        return bandwidth.requests(self._steps(part, wants))

    def apply(self, part: Part, wants: Wants, *, timeout_s: float, force: bool) -> Steps[Outcome]:
        """Write, and read back."""
        return (yield from applied(self, part, wants, self._steps))

    def _steps(self, part: Part, wants: Wants) -> Sequence[Do]:
        state: State = part.state
        if state.home is None:
            return []
        cap = wants["cap"]
        then = bandwidth.capped(state.now, None if cap is None else int(cap), short=True)
        return bandwidth.changes(state.home, state.now, then)


class VcpusTime(_Caps):
    """All vCPUs together."""

    prefix = "cpu.vcpus"
    rows: tuple[Row, ...] = (TOGETHER,)

    def _without(self, reason: str) -> tuple[Part, ...]:
        return (Part("", (), State(None, Bandwidth(), reason)),)

    def _parts(self, home: Home, found: Mapping[int, Task]) -> Steps[tuple[Part, ...]]:
        if vcpu_groups.of_manager(found):
            return self._without(vcpu_groups.OF_MANAGER)
        group = vcpu_groups.all_of_them(home, found)
        now = yield from bandwidth.read(group)
        return (Part("", (), State(group, now, "")),)


class VcpuTime(_Caps):
    """Each vCPU; its name is its number."""

    prefix = "cpu.vcpu"
    rows: tuple[Row, ...] = (EACH,)

    def _without(self, reason: str) -> tuple[Part, ...]:
        return ()

    def _parts(self, home: Home, found: Mapping[int, Task]) -> Steps[tuple[Part, ...]]:
        parts: list[Part] = []
        for index in found:
            group = vcpu_groups.one_of_them(home, found, index)
            now = yield from bandwidth.read(group)
            parts.append(Part(str(index), (), State(group, now, "")))
        return tuple(parts)
