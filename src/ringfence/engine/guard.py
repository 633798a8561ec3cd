"""Watches the tenants of a change for a while, and puts those back that are worse off for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

from ringfence.core.model import Container, Tenant
from ringfence.engine import recovery
from ringfence.engine.driver import Edges, observe
from ringfence.engine.journal import Author, Journal
from ringfence.engine.recovery import Undo
from ringfence.engine.transaction import Doors
from ringfence.errors import MonitorGoneError, RingfenceError, UsageError
from ringfence.policies import guard
from ringfence.policies.guard import Guard, Sample

EVERY_S = 2.0


class Distress(NamedTuple):
    """A tenant that was put back. :param why: what was seen. :param undo: what became of that."""

    tenant: str
    why: str
    undo: Undo


async def sample(tenant: Tenant, edges: Edges) -> Sample:
    """What is so of a tenant now; what cannot be read is unknown."""
    steps = guard.of_container() if isinstance(tenant, Container) else guard.of_vm()
    try:
        return await observe(steps, edges)
    except MonitorGoneError:
        return Sample(status="shutdown")
    except RingfenceError:
        return Sample()


async def watch(
    record: Journal,
    number: int,
    before: Mapping[Tenant, Sample],
    names: Mapping[Tenant, str],
    doors: Doors,
    author: Author,
    *,
    seconds: float,
    pause: Callable[[float], Awaitable[None]],
    clock: Callable[[], float],
    timeout_s: float = recovery.TIMEOUT_S,
) -> list[Distress]:
    """Look at every tenant of a transaction every two seconds; who is in distress is put back at once.

    :param before: what was so of each before the change. :param names: as the journal calls them.
    :param clock: monotonic seconds.
    """
    guards = {tenant: Guard(one) for tenant, one in before.items()}
    found: list[Distress] = []
    start = clock()
    while guards and clock() - start < seconds:
        await pause(EVERY_S)
        samples = await asyncio.gather(*(_look(tenant, doors) for tenant in guards))
        for tenant, now in zip(list(guards), samples, strict=True):
            why = guards[tenant].judge(now, clock() - start)
            if why:
                del guards[tenant]
                undo = await _put_back(record, number, tenant, names[tenant], doors, author, timeout_s)
                found.append(Distress(names[tenant], why, undo))
    return found


async def _look(tenant: Tenant, doors: Doors) -> Sample:
    try:
        opened = await doors.open(tenant)
    except RingfenceError:
        return Sample()
    try:
        return await sample(tenant, opened.edges)
    finally:
        await opened.close()


async def _put_back(
    record: Journal, number: int, tenant: Tenant, name: str, doors: Doors, author: Author, timeout_s: float
) -> Undo:
    transaction = record.get(number)
    if transaction is None:
        raise UsageError(f"there is no transaction {number}")
    tenants: Sequence[Tenant] = [tenant]
    return await recovery.undo(
        record, transaction, tenants, doors, author, kind="guard", only=[name], timeout_s=timeout_s
    )
