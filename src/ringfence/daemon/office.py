"""What all keepers share: the spec, the tenants that run, the journal, and the ways to look at and change them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ringfence.core.spec import Spec
from ringfence.daemon import kinds
from ringfence.daemon.pace import Pace
from ringfence.daemon.service import log
from ringfence.engine import authors, confirm, fences, recovery, tenants, transaction
from ringfence.engine.journal import Author, Journal

if TYPE_CHECKING:
    from ringfence.core.model import Tenant
    from ringfence.core.spec import Fence
    from ringfence.engine.fences import TenantPlan
    from ringfence.engine.transaction import Doors, Options, Report


class Office:
    """:param record: where changes are written down before they are made.

    :ivar spec: what the files say now. :ivar running: every tenant that runs, with the fence it has, if any.
    :ivar repairs: how often anything was put right. :ivar verdicts: how often each was given.
    """

    def __init__(
        self, record: Journal, *, doors: Doors | None = None, now_s: Callable[[], float] = time.time
    ) -> None:
        self.record = record
        self.doors = doors or tenants.doors()
        self.now_s = now_s
        self.spec = Spec()
        self._fences = fences.fences(self.spec)
        self.running: dict[str, Tenant] = {}
        self.repairs = 0
        self.verdicts: Counter[str] = Counter()
        self.pace = Pace()
        self._by_kind: dict[str, Spec] = {}
        self._looking = asyncio.Lock()
        self._author = Author(*authors.me("ringfence daemon"))

    def rules(self, spec: Spec) -> None:
        """Go by another spec from now on."""
        self.spec = spec
        self._fences = fences.fences(spec)
        self._by_kind = {}

    def fence_of(self, tenant: Tenant) -> Fence | None:
        """What is wanted of a tenant; None when no rule names it."""
        return self._fences.of(fences.names(tenant))

    async def look(self, tenant: Tenant, fence: Fence, kind: str) -> TenantPlan | None:
        """What stands between a tenant and this kind of its fence; None when nothing is known of it any more."""
        async with self._looking:
            with self.pace:
                seen = await transaction.look(self._only(kind), self._concerned(tenant, fence, kind), self.doors)
                plan = fences.plan(self._only(kind), seen)
        return next((one for one in plan.tenants if one.seen.tenant == tenant), None)

    async def apply(self, tenant: Tenant, fence: Fence, kind: str, options: Options) -> Report:
        """Bring this kind of a tenant's fence about, and that of the tenants it shares a pool with.

        :raise HostError: it cannot be written down. Nothing was changed.
        """
        concerned = self._concerned(tenant, fence, kind)
        report = await transaction.apply(
            self._only(kind), concerned, self.doors, self.record, self._author, options
        )
        for ended in report.tenants:
            self.verdicts.update(str(result.verdict) for result in ended.results)
            for text in dict.fromkeys(text for result in ended.results for text in result.notes):
                log("info", f"{ended.plan.name}: {text}")
        return report

    async def tidy(self) -> list[asyncio.Task[str]]:
        """Bring in order what a ringfence that died has begun, and go on waiting for what is to be confirmed.

        :return: who waits, until it is confirmed or reverted.
        """
        everybody = tenants.find(c.tenant for one in self.record.unfinished() for c in one.changes)
        for told in await recovery.recover(self.record, everybody, self.doors, self._author):
            log(
                "warning", f"{told.tenant}: a change was interrupted; it is {told.state} now. {told.said}".rstrip()
            )
        return [
            asyncio.create_task(
                confirm.watch(self.record, one.id, tenants.find, self.doors, self._author, asyncio.sleep)
            )
            for one in self.record.to_confirm()
        ]

    def interval_s(self) -> float:
        """Between two looks at one kind of one tenant that is in step."""
        return self.pace.interval_s()

    def repaired(self, tenant: Tenant, kind: str, differs: Sequence[str]) -> None:
        """Say that something was put right."""
        self.repairs += 1
        log("warning", f"{tenant.name}: {kind} had drifted and was put right: {'; '.join(differs)}")

    def _only(self, kind: str) -> Spec:
        if kind not in self._by_kind:
            self._by_kind[kind] = kinds.only(self.spec, kind)
        return self._by_kind[kind]

    def _concerned(self, tenant: Tenant, fence: Fence, kind: str) -> list[Tenant]:
        pools = kinds.pools_of(fence, self.spec) if kind == "disk" else frozenset()
        if not pools:
            return [tenant]
        return [other for other in self.running.values() if other == tenant or self._shares(other, pools)]

    def _shares(self, other: Tenant, pools: frozenset[str]) -> bool:
        fence = self.fence_of(other)
        return fence is not None and bool(kinds.pools_of(fence, self.spec) & pools)
