"""The daemon's heart: a keeper for each tenant that runs and has a fence, from the moment it appears.

Containers start no program that tells what they are, so they are looked for when programs have started, and not
more often than every two seconds; only while some rule names one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ringfence.core.model import Container, Tenant, Vm
from ringfence.daemon import kinds
from ringfence.daemon.guest_events import GuestEvents
from ringfence.daemon.keeper import Keeper
from ringfence.daemon.service import log
from ringfence.daemon.watch import VmWatch
from ringfence.engine import authors, tenants

if TYPE_CHECKING:
    from ringfence.core.spec import Fence, Spec
    from ringfence.daemon.office import Office

_CONTAINERS_APART_S = 2.0
_SETTLE_S = 2.0  # after the guest was reset: its drivers are gone, and come back with its kernel


class Warden:
    """Starts and ends keepers as tenants come and go, and as the files change.

    :ivar keepers: by the tenant's identity (`engine.authors.identity`).
    """

    def __init__(self, office: Office, *, proc: str = "/proc") -> None:
        self.office = office
        self.keepers: dict[str, Keeper] = {}
        self.watch = VmWatch(self._appeared, self._vm_ended, started=self._programs_started, proc=proc)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._guests: dict[str, GuestEvents] = {}
        self._containers_timer: asyncio.TimerHandle | None = None

    def start(self, spec: Spec) -> None:
        """Begin to keep the tenants as the spec says."""
        self.office.rules(spec)
        self.watch.start()
        if self.watch.why_not is not None:
            log("warning", f"{self.watch.why_not.message}; {self.watch.why_not.hint}")
        self._look_for_containers()

    async def stop(self) -> None:
        """End all keepers. What is in force stays."""
        self.watch.stop()
        if self._containers_timer is not None:
            self._containers_timer.cancel()
        for identity in list(self._tasks):
            self._dismiss(identity)
        await asyncio.sleep(0)

    def reload(self, spec: Spec) -> None:
        """Go by another spec: tenants it no longer names are left as they are."""
        self.office.rules(spec)
        for identity, tenant in list(self.office.running.items()):
            fence = self.office.fence_of(tenant)
            if fence is None:
                self._dismiss(identity)
            elif identity in self.keepers:
                self.keepers[identity].refence(fence)
            else:
                self._employ(identity, tenant, fence)
        self._look_for_containers()

    def _appeared(self, tenant: Tenant) -> None:
        identity = authors.identity(tenant)
        self.office.running[identity] = tenant
        fence = self.office.fence_of(tenant)
        if fence is not None:
            self._employ(identity, tenant, fence)
            self._pools_changed(fence)

    def _vm_ended(self, vm: Vm) -> None:
        found = next((i for i, tenant in self.office.running.items() if tenant is vm), None)
        if found is not None:
            self._ended(found)

    def _ended(self, identity: str) -> None:
        self.office.running.pop(identity)
        keeper = self.keepers.get(identity)
        self._dismiss(identity)
        if keeper is not None:
            self._pools_changed(keeper.fence)

    def _employ(self, identity: str, tenant: Tenant, fence: Fence) -> None:
        keeper = Keeper(tenant, fence, self.office, self._told)
        self.keepers[identity] = keeper
        self.office.pace.things = sum(len(one.kept) for one in self.keepers.values())
        self._tasks[identity] = asyncio.create_task(self._keep(keeper))
        if isinstance(tenant, Vm):
            self._guests[identity] = GuestEvents(tenant, lambda event: self._guest_said(keeper, event))

    async def _keep(self, keeper: Keeper) -> None:
        try:
            await keeper.run()
        except Exception as error:
            # Whatever is wrong with one tenant must not go unsaid, nor end the others.
            log("error", f"{keeper.tenant.name}: no longer kept: {error!r}")
            raise

    def _dismiss(self, identity: str) -> None:
        self.keepers.pop(identity, None)
        task = self._tasks.pop(identity, None)
        if task is not None:
            task.cancel()
        guest = self._guests.pop(identity, None)
        if guest is not None:
            guest.close()

    def _pools_changed(self, fence: Fence) -> None:
        """Who shares a pool with a tenant that came or went has another share of it now."""
        pools = kinds.pools_of(fence, self.office.spec)
        for keeper in self.keepers.values() if pools else ():
            if kinds.pools_of(keeper.fence, self.office.spec) & pools:
                keeper.poke("disk", fresh=True)

    def _guest_said(self, keeper: Keeper, event: str) -> None:
        if event == "RESET":
            keeper.poke(in_s=_SETTLE_S, fresh=True)
        else:
            keeper.poke()

    def _told(self, keeper: Keeper, kind: str) -> None:
        kept = keeper.kept[kind]
        level = "info" if kept.state == "in step" else "warning"
        why = "; ".join(filter(None, (kept.reason, *kept.differs)))
        log(level, f"{keeper.tenant.name}: {kind} {kept.state}{f': {why}' if why else ''}")

    def _programs_started(self) -> None:
        if self._containers_timer is None and self._wants_containers():
            loop = asyncio.get_running_loop()
            self._containers_timer = loop.call_later(_CONTAINERS_APART_S, self._look_for_containers)

    def _wants_containers(self) -> bool:
        return any(rule.selector.kind in ("container", "cgroup") for rule in self.office.spec.rules)

    def _look_for_containers(self) -> None:
        self._containers_timer = None
        if not self._wants_containers():
            return
        found = {authors.identity(one): one for one in self._containers()}
        for identity, tenant in list(self.office.running.items()):
            if isinstance(tenant, Container) and identity not in found:
                self._ended(identity)
        for identity, tenant in found.items():
            if identity not in self.office.running:
                self._appeared(tenant)

    def _containers(self) -> Iterator[Container]:
        found = tenants.find(tenants.named_by(self.office.spec))
        return (one for one in found if isinstance(one, Container))
