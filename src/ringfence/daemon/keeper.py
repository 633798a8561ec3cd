"""Keeps one tenant as its fence says: at once when it appears, again when it has drifted, each kind for itself.

What cannot be done yet, because the guest boots or the monitor is busy, is tried again with growing pauses. What
somebody keeps changing back is put right more and more rarely, and said so: two programs that fight over a limit
help nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from ringfence.core.knob import Verdict
from ringfence.daemon import kinds
from ringfence.engine import journal
from ringfence.engine.transaction import UNTOUCHED, Options
from ringfence.errors import GuestError, HostError, MonitorError, RingfenceError

if TYPE_CHECKING:
    from ringfence.core.model import Tenant
    from ringfence.core.spec import Fence
    from ringfence.daemon.office import Office
    from ringfence.engine.fences import TenantPlan
    from ringfence.engine.transaction import Ended

FIRST_PAUSE_S = 0.02
LAST_PAUSE_S = 60.0
"""A guest boots in seconds to a minute; what has not been possible by then is tried once a minute."""

CALM_S = 600.0
"""A limit that was put right and has stayed for ten minutes counts as undisputed again."""

LAST_REPAIR_PAUSE_S = 3600.0

_PATIENCE_S = 60.0  # for one step, as of `ringfence apply`
_LATER = (MonitorError, GuestError, HostError)
"""What may be otherwise in a while; a wrong request, or how the VM was started, will not be."""

IN_STEP, WAITING, DRIFTED, REFUSED, UNKNOWN = "in step", "waiting", "drifted", "refused", "unknown"


class Kept(NamedTuple):
    """How it stands with one kind of one tenant.

    :param state: `in step`; `waiting`: it cannot be done yet, `reason` why; `drifted`: it differs and is left so
        by policy, or for a while; `refused`: it cannot be done; `unknown` before the first look.
    :param differs: keys that are not as fenced, with what they are and what they should be, for people.
    :param at_s: seconds since 1970 of the last look.
    :param repairs: how often it was put right since it was last undisputed.
    """

    state: str = UNKNOWN
    reason: str = ""
    differs: tuple[str, ...] = ()
    at_s: float = 0.0
    repairs: int = 0


class _Due:
    """When a kind is looked at next, and what is known of how that goes."""

    def __init__(self, now_s: float) -> None:
        self.at_s = now_s
        self.kept = Kept()
        self.fresh = True
        """Whether the fence has not been met since the tenant appeared, or the files changed."""
        self.failures = 0
        self.repaired_s = 0.0
        self.poked_s: float | None = None
        self.poked_fresh = False

    def poke(self, when_s: float, fresh: bool) -> None:
        """Have it looked at by `when_s`; remembered, as a look that is under way settles when the next one is."""
        self.poked_s = when_s if self.poked_s is None else min(self.poked_s, when_s)
        self.poked_fresh = self.poked_fresh or fresh
        self.heed()

    def heed(self) -> None:
        """Go by what was asked for since the last look began."""
        if self.poked_s is not None:
            self.at_s = min(self.at_s, self.poked_s)
            self.fresh = self.fresh or self.poked_fresh


class Keeper:
    """Keeps one tenant. `run` ends when it is cancelled; what is in force then stays.

    :param changed: called when the state of a kind has.
    """

    def __init__(
        self, tenant: Tenant, fence: Fence, office: Office, changed: Callable[[Keeper, str], None]
    ) -> None:
        self.tenant = tenant
        self.fence = fence
        self._office = office
        self._changed = changed
        self._due = {kind: _Due(office.now_s()) for kind in kinds.kinds(fence)}
        self._woken = asyncio.Event()

    @property
    def kept(self) -> Mapping[str, Kept]:
        """How it stands with each kind of the fence."""
        return {kind: due.kept for kind, due in self._due.items()}

    def refence(self, fence: Fence) -> None:
        """Keep it by another fence from now on; kinds that say the same as before are only looked at."""
        before = self.fence
        self.fence = fence
        now_s = self._office.now_s()
        old = self._due
        self._due = {}
        for kind in kinds.kinds(fence):
            same = kind in old and _settings(before, kind) == _settings(fence, kind)
            self._due[kind] = old[kind] if same else _Due(now_s)
        self.poke()

    def poke(self, only: str | None = None, *, in_s: float = 0.0, fresh: bool = False) -> None:
        """Have it looked at soon: all, or one kind.

        :param fresh: as if the tenant had just appeared.
        """
        when_s = self._office.now_s() + in_s
        for kind, due in self._due.items():
            if only in (None, kind):
                due.poke(when_s, fresh)
        self._woken.set()

    async def run(self) -> None:
        """Look at each kind when it is due."""
        while True:
            now_s = self._office.now_s()
            for kind, due in list(self._due.items()):
                if due.at_s <= now_s and self._due.get(kind) is due:
                    await self._tend(kind, due)
            self._woken.clear()
            next_s = min((due.at_s for due in self._due.values()), default=now_s + LAST_PAUSE_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, next_s - self._office.now_s())):
                    await self._woken.wait()

    async def _tend(self, kind: str, due: _Due) -> None:
        before = due.kept
        due.poked_s, due.poked_fresh = None, False
        try:
            due.kept = await (self._enforce(kind, due) if due.fresh else self._look(kind, due))
        except RingfenceError as error:
            due.kept = self._not_now(due, error.message)
        due.heed()
        due.kept = due.kept._replace(at_s=self._office.now_s())
        if (before.state, before.reason, before.differs) != (due.kept.state, due.kept.reason, due.kept.differs):
            self._changed(self, kind)

    async def _enforce(self, kind: str, due: _Due) -> Kept:
        """Bring the kind in step, whatever it was before."""
        report = await self._office.apply(self.tenant, self.fence, kind, Options(timeout_s=_PATIENCE_S))
        mine = next((one for one in report.tenants if one.plan.seen.tenant == self.tenant), None)
        if mine is None:
            return self._rest(due, Kept(IN_STEP))
        if mine.plan.problems:
            return self._problem(kind, due, mine.plan)
        if mine.state in (journal.NEW, UNTOUCHED):
            due.fresh = False
            return self._rest(due, Kept(IN_STEP, repairs=due.kept.repairs))
        return self._not_now(due, _why(mine))

    async def _look(self, kind: str, due: _Due) -> Kept:
        """See whether the kind is in step, and do what the policy says when it is not."""
        if self.fence.drift == "off":
            return self._rest(due, due.kept)
        plan = await self._office.look(self.tenant, self.fence, kind)
        if plan is None or not (plan.steps or plan.problems):
            calm = self._office.now_s() - due.repaired_s > CALM_S
            return self._rest(due, Kept(IN_STEP, repairs=0 if calm else due.kept.repairs))
        if plan.problems:
            return self._problem(kind, due, plan)
        differs = _differs(plan)
        if self.fence.drift == "warn":
            return self._rest(due, Kept(DRIFTED, "left so: drift is 'warn'", differs))
        return await self._repair(kind, due, differs)

    async def _repair(self, kind: str, due: _Due, differs: tuple[str, ...]) -> Kept:
        now_s = self._office.now_s()
        repairs = due.kept.repairs
        wait_s = min(LAST_REPAIR_PAUSE_S, 30.0 * 2 ** (repairs - 1)) if repairs else 0.0
        if due.repaired_s + wait_s > now_s:
            due.at_s = due.repaired_s + wait_s
            reason = f"somebody keeps changing it: put right {repairs} times, the next time later"
            return Kept(DRIFTED, reason, differs, repairs=repairs)
        kept = await self._enforce(kind, due)
        if kept.state != IN_STEP:
            return kept._replace(differs=differs)
        due.repaired_s = now_s
        self._office.repaired(self.tenant, kind, differs)
        return kept._replace(repairs=repairs + 1)

    def _problem(self, kind: str, due: _Due, plan: TenantPlan) -> Kept:
        error = plan.problems[0].error
        if error.retryable or isinstance(error, _LATER) or (due.fresh and kinds.waits_for_guest(kind)):
            return self._not_now(due, error.message)
        return self._rest(due, Kept(REFUSED, f"{error.message} ({error.hint})" if error.hint else error.message))

    def _not_now(self, due: _Due, reason: str) -> Kept:
        """It could not be done: try again, the sooner the younger the trouble."""
        pause_s = min(LAST_PAUSE_S, FIRST_PAUSE_S * 2**due.failures)
        due.failures += 1
        due.at_s = self._office.now_s() + pause_s
        return Kept(WAITING, reason, repairs=due.kept.repairs)

    def _rest(self, due: _Due, kept: Kept) -> Kept:
        """Nothing to do for now."""
        due.failures = 0
        due.at_s = self._office.now_s() + self._office.interval_s()
        return kept


def _settings(fence: Fence, kind: str) -> dict[str, object]:
    return {key: one.value for key, one in fence.settings.items() if kinds.kind_of(key) == kind}


def _why(ended: Ended) -> str:
    """Why a tenant's part was not applied, in a sentence."""
    bad = next((r for r in ended.results if r.verdict is not Verdict.APPLIED), None)
    return f"{bad.key} {bad.verdict}: {bad.detail}" if bad else ended.said or ended.state


def _differs(plan: TenantPlan) -> tuple[str, ...]:
    from ringfence import units

    told: list[str] = []
    for step in plan.steps:
        for leaf, want in step.wants.items():
            seen = step.knob.observation(step.part, step.keys[leaf].row)
            if seen.target != want:
                now, wanted = (
                    "unlimited" if value is None else units.format_value(seen.row.unit, value)
                    for value in (seen.target, want)
                )
                told.append(f"{seen.key} is {now}, fenced at {wanted}")
    return tuple(told)
