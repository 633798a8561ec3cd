"""Back to what was: undo, and what a process that died in the middle of a change has left behind.

Each tenant is looked for by its process: a VM that was started again has none of the change, and is left alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AsyncExitStack
from typing import NamedTuple

from ringfence.core.knob import Value
from ringfence.core.model import Tenant
from ringfence.engine import authors, journal, snapshot
from ringfence.engine.back import Back, go, look_again, put_back
from ringfence.engine.driver import Edges
from ringfence.engine.journal import Author, Change, Journal, Transaction
from ringfence.engine.transaction import Doors, Opened
from ringfence.errors import RingfenceError, UsageError
from ringfence.knobs import registry

RESTARTED = "its process is another one by now, and has none of the change"
TIMEOUT_S = 60.0


class Undone(NamedTuple):
    """What became of one tenant. :param state: as in the journal. :param said: what is to be known of it."""

    tenant: str
    back: Back


class Undo(NamedTuple):
    """:param number: of the transaction that took another one back; None when there was nothing to do.

    :param of: the transaction that was taken back.
    """

    number: int | None
    of: Transaction
    tenants: tuple[Undone, ...]


def latest(record: Journal, tenant: str | None = None) -> Transaction:
    """The last change that can be taken back.

    :raise UsageError: there is none.
    """
    for transaction in record.history(tenant, limit=1000):
        if transaction.kind in ("set", "apply") and transaction.state in (journal.DONE, journal.PARTLY):
            return transaction
    whose = f" of {tenant!r}" if tenant else ""
    raise UsageError(f"there is no change{whose} to take back", hint="`ringfence history` lists what was done")


async def undo(
    record: Journal,
    transaction: Transaction,
    tenants: Sequence[Tenant],
    doors: Doors,
    author: Author,
    *,
    kind: str = "undo",
    only: Collection[str] | None = None,
    force: bool = False,
    timeout_s: float = TIMEOUT_S,
) -> Undo:
    """Take a transaction back, as one that can itself be taken back.

    :param only: names of its tenants to take it back for; None is all.
    :param force: also what somebody else has set since.
    :raise UsageError: it is under way. Nothing was changed.
    :raise HostError: the change cannot be written down. Nothing was changed.
    """
    if transaction.state == journal.OPEN:
        raise UsageError(
            f"transaction {transaction.id} is not ended",
            hint="wait for it to end; when its process has died, `ringfence recover` ends it",
        )
    concerned = [c for c in transaction.changes if only is None or c.tenant in only]
    async with AsyncExitStack() as held:
        found = await _hold(concerned, tenants, doors, held)
        backs: dict[str, Back] = {c.identity: Back(journal.GONE, RESTARTED) for c in concerned}
        going: list[tuple[Change, Change]] = []
        for change in concerned:
            opened = found.get(change.identity)
            if opened is None:
                continue
            try:
                now = snapshot.values(await look_again(opened.edges, snapshot.knobs_of(change.asked)))
            except RingfenceError as error:
                backs[change.identity] = Back(journal.GONE, f"it cannot be read: {error.message}")
                continue
            asked = snapshot.way_back(change.before, change.after, now, force=force).wants
            rules = dict.fromkeys(asked, f"{kind} of {transaction.id}")
            going.append((change, Change(change.tenant, change.identity, now, asked or change.asked, rules)))
        number = record.begin(
            kind, author, [mine for _, mine in going], at_s=doors.now_s(), reverts=transaction.id
        )

        async def one(change: Change, mine: Change) -> None:
            edges = found[change.identity].edges
            back = await put_back(edges, change, timeout_s=timeout_s, force=force)
            after = await _values(edges, change)
            verdicts = {result.key: str(result.verdict) for result in back.results}
            state = {journal.OLD: journal.NEW}.get(back.state, back.state)
            record.ended(number, mine._replace(after=after, verdicts=verdicts, state=state, said=back.said))
            backs[change.identity] = back

        await asyncio.gather(*(one(change, mine) for change, mine in going))
        whole = only is None and all(back.state in (journal.OLD, journal.GONE) for back in backs.values())
        record.finish(number, journal.DONE if whole or only is not None else journal.PARTLY)
        record.finish(transaction.id, journal.UNDONE if whole else journal.PARTLY)
    told = tuple(Undone(c.tenant, backs[c.identity]) for c in concerned)
    return Undo(number, transaction, told)


class Recovered(NamedTuple):
    """One tenant of a transaction that had not ended. :param state: as in the journal."""

    transaction: Transaction
    tenant: str
    state: str
    said: str


def interrupted(record: Journal) -> list[Transaction]:
    """Transactions that had not ended when their process did, oldest first."""
    return [one for one in record.unfinished() if not authors.alive(one.author)]


async def recover(
    record: Journal, tenants: Sequence[Tenant], doors: Doors, author: Author, *, timeout_s: float = TIMEOUT_S
) -> list[Recovered]:
    """Bring every tenant of an interrupted transaction to what it was before it, or leave it where all was done.

    What cannot be put back is carried on with instead; only where neither can be is a tenant left in between, and
    that is told. What was not confirmed in time is reverted.
    """
    told: list[Recovered] = []
    for transaction in interrupted(record):
        told += await _recover(record, transaction, tenants, doors, timeout_s)
    for transaction in record.to_confirm():
        if (transaction.confirm_by_s or 0) < doors.now_s():
            undone = await undo(record, transaction, tenants, doors, author, kind="revert", timeout_s=timeout_s)
            told += [
                Recovered(transaction, one.tenant, one.back.state, one.back.said or "it was not confirmed in time")
                for one in undone.tenants
            ]
    return told


async def _recover(
    record: Journal, transaction: Transaction, tenants: Sequence[Tenant], doors: Doors, timeout_s: float
) -> list[Recovered]:
    pending = [change for change in transaction.changes if change.state == journal.PENDING]
    ended = {c.identity: c for c in transaction.changes if c.state != journal.PENDING}
    async with AsyncExitStack() as held:
        found = await _hold(pending, tenants, doors, held)

        async def one(change: Change, end: Callable[[Change], Awaitable[Change]]) -> None:
            ended[change.identity] = await end(change)
            record.ended(transaction.id, ended[change.identity])

        async def settle(change: Change) -> Change:
            if change.identity not in found:
                return change._replace(state=journal.GONE, said=RESTARTED)
            return await _settle(found[change.identity].edges, change, timeout_s)

        await asyncio.gather(*(one(change, settle) for change in pending))
        states = {change.state for change in ended.values()}
        if transaction.whole and states != {journal.NEW}:

            async def back(change: Change) -> Change:
                put = await put_back(found[change.identity].edges, change, timeout_s=timeout_s)
                return change._replace(state=put.state, said=put.said)

            new = [c for c in pending if ended[c.identity].state == journal.NEW]
            await asyncio.gather(*(one(ended[change.identity], back) for change in new))
        states = {change.state for change in ended.values()}
    if states <= {journal.NEW}:
        state = journal.DONE
    else:
        state = journal.PUT_BACK if states <= {journal.OLD, journal.GONE} else journal.PARTLY
    record.finish(transaction.id, state, confirm_by_s=transaction.confirm_by_s)
    now = [ended[change.identity] for change in pending]
    return [Recovered(transaction, change.tenant, change.state, change.said) for change in now]


async def _settle(edges: Edges, change: Change, timeout_s: float) -> Change:
    """See where a tenant stands, and bring it to one of the two ends."""
    knobs = snapshot.knobs_of(change.asked)
    try:
        seen = await look_again(edges, knobs)
    except RingfenceError as error:
        return change._replace(state=journal.GONE, said=f"it cannot be read: {error.message}")
    now = snapshot.values(seen)
    if _has_all(change, now):
        return change._replace(state=journal.NEW, after=now, said="all of it had been done")
    if not snapshot.way_back(change.before, None, now).wants:
        return change._replace(state=journal.OLD, after=now, said="nothing of it had been done")
    back = await put_back(edges, change, timeout_s=timeout_s)
    if back.state != journal.MIXED:
        said = back.said or "it was put back"
        return change._replace(state=back.state, after=await _values(edges, change), said=said)
    try:
        seen = await look_again(edges, knobs)
        await go(edges, change.asked, seen, timeout_s=timeout_s, force=False)
    except RingfenceError:
        return change._replace(state=journal.MIXED, said=back.said)
    after = await _values(edges, change)
    if after is not None and _has_all(change, after):
        return change._replace(state=journal.NEW, after=after, said=f"it was carried on with: {back.said}")
    return change._replace(state=journal.MIXED, after=after, said=back.said)


def _has_all(change: Change, now: snapshot.Values) -> bool:
    modifiers = {key for key in change.asked if registry.parse_key(key).row.modifies}
    return all(now.get(key) == value for key, value in change.asked.items() if key not in modifiers)


async def _values(edges: Edges, change: Change) -> dict[str, Value | None] | None:
    try:
        return snapshot.values(await look_again(edges, snapshot.knobs_of(change.asked)))
    except RingfenceError:
        return None


async def _hold(
    concerned: Sequence[Change], tenants: Sequence[Tenant], doors: Doors, held: AsyncExitStack
) -> dict[str, Opened]:
    """Take the turn of each tenant that is still the one that was changed, and open it; by identity."""
    wanted = {change.identity: change for change in concerned}
    found = {identity: t for t in tenants if (identity := doors.identity(t)) in wanted}
    opened: dict[str, Opened] = {}
    for identity, tenant in sorted(found.items(), key=lambda pair: (pair[1].pid, pair[1].name)):
        kinds = sorted({key.partition(".")[0] for key in wanted[identity].asked})
        await held.enter_async_context(doors.turn(tenant, kinds))
        try:
            one = await doors.open(tenant)
        except RingfenceError:
            continue
        held.push_async_callback(one.close)
        opened[identity] = one
    return opened
