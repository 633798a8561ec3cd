"""Commit-confirm, as on routers: a change that nobody confirms in time is taken back.

A process of its own waits for that, so that it happens also when the terminal, or the connection behind it, is
what the change has cut off.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

from ringfence.core.model import Tenant
from ringfence.engine import authors, journal, recovery
from ringfence.engine.journal import Author, Journal
from ringfence.engine.transaction import Doors

_LOOK_EVERY_S = 1.0
REVERTED, CONFIRMED, ENDED = "reverted", "confirmed", "ended"


async def watch(
    record: Journal,
    number: int,
    find: Callable[[Iterable[str]], Sequence[Tenant]],
    doors: Doors,
    author: Author,
    pause: Callable[[float], Awaitable[None]],
) -> str:
    """Wait until a transaction is confirmed, or its time is up, and take it back then.

    When the process that makes the change dies, what it left is brought in order first.

    :param find: the tenants of this host, given the names in question.
    :return: one of the words above; `ended` when there was nothing to confirm any more.
    """
    while True:
        transaction = record.get(number)
        if transaction is None or transaction.state in (journal.UNDONE, journal.PUT_BACK):
            return ENDED
        if transaction.state == journal.OPEN and not authors.alive(transaction.author):
            await recovery.recover(record, find(c.tenant for c in transaction.changes), doors, author)
            continue
        if transaction.confirm_by_s is None:
            return CONFIRMED
        left_s = transaction.confirm_by_s - doors.now_s()
        if left_s <= 0 and transaction.state != journal.OPEN:
            found = find(change.tenant for change in transaction.changes)
            await recovery.undo(record, transaction, found, doors, author, kind="revert")
            return REVERTED
        await pause(min(max(left_s, 0.05), _LOOK_EVERY_S))
