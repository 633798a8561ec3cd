"""Carries a plan out as one transaction: written down first, what frees before what takes, put back on failure.

Every tenant is held from before it is read until its part has ended: turns are taken in one order, so that two
transactions on the same tenants come one after the other, and never wait for each other in a ring.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import NamedTuple, Protocol, TypeAlias

from ringfence.core.host_check import Capacity
from ringfence.core.knob import Knob, Verdict
from ringfence.core.model import Tenant
from ringfence.core.spec import Fence, Spec
from ringfence.engine import changes, fences, journal, order, snapshot
from ringfence.engine.back import put_back
from ringfence.engine.changes import Result
from ringfence.engine.driver import Edges
from ringfence.engine.fences import Plan, Seen, TenantPlan
from ringfence.engine.journal import Author, Change, Journal
from ringfence.errors import RingfenceError

AT_ONCE = 100
"""Sessions at a time: each takes a few file descriptors, of which a process usually has 1024."""


class Opened(Protocol):
    """A tenant that is open: `engine.api.OpenVm`."""

    info: Tenant
    edges: Edges

    async def close(self) -> None:
        """Release it."""


class Doors(NamedTuple):
    """How tenants are reached.

    :param open: opens one. :param turn: the turn to change these kinds of knobs of one.
    :param identity: what tells its process from a later one of its name. :param now_s: seconds since 1970.
    """

    open: Callable[[Tenant], Awaitable[Opened]]
    turn: Callable[[Tenant, Iterable[str]], AbstractAsyncContextManager[None]]
    identity: Callable[[Tenant], str]
    now_s: Callable[[], float]


class Options(NamedTuple):
    """:param timeout_s: how long a guest may take for one step.

    :param force: also what would hurt the guest itself.
    :param all_or_nothing: one failure puts all tenants back.
    :param confirm_s: how long it may stay without being confirmed.
    """

    timeout_s: float = 60.0
    force: bool = False
    all_or_nothing: bool = False
    confirm_s: float | None = None


class Ended(NamedTuple):
    """What became of one tenant.

    :param state: as in the journal; `untouched` when nothing was to be done, or done.
    :param said: what is to be known of how it ended.
    """

    plan: TenantPlan
    results: tuple[Result, ...]
    state: str
    said: str = ""


UNTOUCHED = "untouched"


class Report(NamedTuple):
    """What became of a plan. :param number: of its transaction; None when there was nothing to do."""

    plan: Plan
    number: int | None
    tenants: tuple[Ended, ...]
    confirm_by_s: float | None = None


OnEnded: TypeAlias = Callable[[Ended], None]


def fenced(spec: Spec, tenants: Sequence[Tenant]) -> list[tuple[Tenant, Fence]]:
    """The tenants that have a fence, each with it."""
    found = fences.fences(spec)
    pairs = ((tenant, found.of(fences.names(tenant))) for tenant in tenants)
    return [(tenant, fence) for tenant, fence in pairs if fence is not None]


async def look(spec: Spec, tenants: Sequence[Tenant], doors: Doors, *, at_once: int = AT_ONCE) -> list[Seen]:
    """Read every tenant that has a fence, many at a time. Changes nothing, and raises nothing for one of them."""
    gate = asyncio.Semaphore(at_once)

    async def one(tenant: Tenant, fence: Fence) -> Seen:
        async with gate:
            try:
                opened = await doors.open(tenant)
            except RingfenceError as error:
                return Seen(tenant, fence, {}, error)
            try:
                return await _see(opened, fence)
            finally:
                await opened.close()

    return list(await asyncio.gather(*(one(tenant, fence) for tenant, fence in fenced(spec, tenants))))


async def _see(opened: Opened, fence: Fence) -> Seen:
    try:
        return Seen(
            opened.info, fence, await changes.observe_all(opened.edges, fences.knobs_of(fence, opened.info))
        )
    except RingfenceError as error:
        return Seen(opened.info, fence, {}, error)


async def apply(
    spec: Spec,
    tenants: Sequence[Tenant],
    doors: Doors,
    record: Journal,
    author: Author,
    options: Options,
    *,
    host: Capacity | None = None,
    check: Callable[[Plan], None] = lambda _: None,
    before: Callable[[Tenant, Edges], Awaitable[None]] | None = None,
    begun: Callable[[int], None] = lambda _: None,
) -> Report:
    """Bring the tenants in step with the spec.

    :param host: what the host has, see `fences.plan`.
    :param check: called with the plan before anything is changed; what it raises ends it there.
    :param before: called with each tenant that is to be changed, before anything is.
    :param begun: called with the transaction's number before the first change.
    :raise HostError: the change cannot be written down. Nothing was changed.
    """
    async with AsyncExitStack() as held:
        run = _Run(doors, record, options)
        held.push_async_callback(run.release)
        seen = await run.hold(fenced(spec, tenants))
        plan = fences.plan(spec, seen, force=options.force, host=host)
        check(plan)
        ready = [one for one in plan.tenants if one.ready]
        blocked = options.all_or_nothing and any(one.problems for one in plan.tenants)
        if not ready or blocked or plan.complaints:
            return Report(plan, None, tuple(Ended(one, (), UNTOUCHED) for one in plan.tenants))
        await run.release(keep=[one.seen.tenant for one in ready])
        if before is not None:
            await asyncio.gather(*(before(tenant, edges) for tenant, edges in run.held()))
        number = await run.begin(ready, author)
        begun(number)
        await run.carry_out()
        ended = await run.end(number)
        confirm_by_s = None
        if options.confirm_s is not None and any(one.state == journal.NEW for one in ended.values()):
            confirm_by_s = doors.now_s() + options.confirm_s
        record.finish(number, _state(ended.values()), confirm_by_s=confirm_by_s)
        told = tuple(ended.get(one.seen.tenant, Ended(one, (), UNTOUCHED)) for one in plan.tenants)
        return Report(plan, number, told, confirm_by_s)


def _state(ended: Iterable[Ended]) -> str:
    states = {one.state for one in ended}
    if states == {journal.NEW}:
        return journal.DONE
    return journal.PUT_BACK if states == {journal.OLD} else journal.PARTLY


class _Member:
    """One tenant of a transaction that is under way."""

    def __init__(self, plan: TenantPlan, opened: Opened, change: Change) -> None:
        self.plan = plan
        self.opened = opened
        self.change = change
        self.waves = order.waves(plan.steps)
        self.results: list[Result] = []
        self.state = journal.NEW
        self.said = ""

    @property
    def whole(self) -> bool:
        """Whether everything so far was applied."""
        return all(result.verdict is Verdict.APPLIED for result in self.results)

    @property
    def touched(self) -> list[Knob]:
        """Its knobs that are changed."""
        return list(dict.fromkeys(step.knob for step in self.plan.steps))


class _Run:
    """A transaction that is under way."""

    def __init__(self, doors: Doors, record: Journal, options: Options) -> None:
        self._doors = doors
        self._journal = record
        self._options = options
        self._held: dict[Tenant, AsyncExitStack] = {}
        self._opened: dict[Tenant, Opened] = {}
        self._members: list[_Member] = []

    async def hold(self, fenced_: Sequence[tuple[Tenant, Fence]]) -> list[Seen]:
        """Take each tenant's turn, open it and read it."""
        for tenant, fence in sorted(fenced_, key=lambda pair: (pair[0].pid, pair[0].name)):
            kinds = sorted({key.partition(".")[0] for key in fence.settings})
            self._held[tenant] = AsyncExitStack()
            await self._held[tenant].enter_async_context(self._doors.turn(tenant, kinds))

        async def one(tenant: Tenant, fence: Fence) -> Seen:
            try:
                opened = await self._doors.open(tenant)
            except RingfenceError as error:
                return Seen(tenant, fence, {}, error)
            self._opened[tenant] = opened
            self._held[tenant].push_async_callback(opened.close)
            return await _see(opened, fence)

        return list(await asyncio.gather(*(one(tenant, fence) for tenant, fence in fenced_)))

    def held(self) -> list[tuple[Tenant, Edges]]:
        """The tenants that are still held."""
        return [(tenant, self._opened[tenant].edges) for tenant in self._held if tenant in self._opened]

    async def release(self, keep: Sequence[Tenant] = ()) -> None:
        """Close all tenants but these, and give their turns back."""
        for tenant in [tenant for tenant in self._held if tenant not in keep]:
            await self._held.pop(tenant).aclose()

    async def begin(self, ready: Sequence[TenantPlan], author: Author) -> int:
        """Read what the changes may touch, and write all of it down."""

        async def one(plan: TenantPlan) -> _Member:
            opened = self._opened[plan.seen.tenant]
            touched = list(dict.fromkeys(step.knob for step in plan.steps))
            before = snapshot.values(await snapshot.look(opened.edges, touched))
            asked = {
                step.knob.observation(step.part, step.keys[leaf].row).key: want
                for step in plan.steps
                for leaf, want in step.wants.items()
            }
            rules = {key: f"{one.place} ({one.rule})" for key, one in plan.settings.items()}
            identity = self._doors.identity(plan.seen.tenant)
            return _Member(plan, opened, Change(plan.name, identity, before, asked, rules))

        self._members = list(await asyncio.gather(*map(one, ready)))
        now_s = self._doors.now_s()
        confirm_s = self._options.confirm_s
        return self._journal.begin(
            "apply",
            author,
            [member.change for member in self._members],
            at_s=now_s,
            confirm_by_s=None if confirm_s is None else now_s + confirm_s,
            whole=self._options.all_or_nothing,
        )

    async def carry_out(self) -> None:
        """What frees, of all tenants; then what takes; then back to where it was, where that did not do."""
        for wave in ("freeing", "taking"):
            going = [m for m in self._members if m.whole]
            if self._options.all_or_nothing and len(going) < len(self._members):
                break
            await asyncio.gather(*(self._steps(member, getattr(member.waves, wave)) for member in going))
        failed = [member for member in self._members if not member.whole]
        if failed and self._options.all_or_nothing:
            failed = self._members
        await asyncio.gather(*map(self._put_back, failed))

    async def _steps(self, member: _Member, steps: Sequence[changes.Step]) -> None:
        edges, taken = member.opened.edges, list(steps)
        results = await changes.apply(edges, taken, timeout_s=self._options.timeout_s, force=self._options.force)
        member.results += await changes.watched(edges, taken, results)

    async def _put_back(self, member: _Member) -> None:
        back = await put_back(
            member.opened.edges, member.change, timeout_s=self._options.timeout_s, touched=member.touched
        )
        member.state, member.said = back.state, back.said

    async def end(self, number: int) -> dict[Tenant, Ended]:
        """Read what is so now, and write it down."""
        ended: dict[Tenant, Ended] = {}
        for member in self._members:
            try:
                after = snapshot.values(await snapshot.look(member.opened.edges, member.touched))
            except RingfenceError as error:
                after = None
                if member.state == journal.NEW:
                    member.state, member.said = journal.GONE, error.message
            verdicts = {result.key: str(result.verdict) for result in member.results}
            change = member.change._replace(after=after, verdicts=verdicts, state=member.state, said=member.said)
            self._journal.ended(number, change)
            ended[member.plan.seen.tenant] = Ended(member.plan, tuple(member.results), member.state, member.said)
        return ended
