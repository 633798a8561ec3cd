"""`ringfence recover`: bring in order what a ringfence that died in the middle of a change has left."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.cli import target
from ringfence.cli.output import Format, emit, note
from ringfence.errors import UsageError

if TYPE_CHECKING:
    from ringfence.engine.journal import Author, Journal, Transaction
    from ringfence.engine.recovery import Recovered


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(name="recover")(recover)


def recover(
    timeout: Annotated[str, typer.Option("--timeout", help="how long a guest may take for one key")] = "60s",
    output: Annotated[Format, typer.Option("-o", "--output", help="how to print")] = Format.TABLE,
) -> None:
    """Bring every VM of an interrupted change to what it was before, or leave it where all was done; say which.

    `apply` and `undo` do so first by themselves. What was to be confirmed and was not in time is taken back.

    Exit code: 0 every VM is as before or as changed; 6 one is in between.
    """
    from ringfence.cli import journal_data

    told = asyncio.run(_run(target.timeout(timeout), target.deadlines(timeout, at_most=True)))
    data = [
        {"transaction": one.transaction.id, "tenant": one.tenant, "state": one.state, "said": one.said}
        for one in told
    ]
    emit(data, output, lambda: journal_data.print_recovered(told))
    if not told and output is Format.TABLE:
        note("nothing was interrupted")
    raise typer.Exit(6 if any(one.state == "mixed" for one in told) else 0)


async def _run(timeout_s: float, limits: target.Deadlines) -> list[Recovered]:
    from ringfence.engine import recovery, tenants
    from ringfence.engine.journal import Journal

    record = Journal.open()
    try:
        found = tenants.find(_names(record))
        return await recovery.recover(record, found, tenants.doors(**limits), this_command(), timeout_s=timeout_s)
    finally:
        record.close()


def _names(record: Journal) -> list[str]:
    return [c.tenant for one in (*record.unfinished(), *record.to_confirm()) for c in one.changes]


async def brought_in_order(record: Journal, limits: target.Deadlines) -> None:
    """Recover before something else is changed, and say so."""
    from ringfence.cli import journal_data
    from ringfence.engine import recovery, tenants

    if not recovery.interrupted(record) and not record.to_confirm():
        return
    found = tenants.find(_names(record))
    for one in await recovery.recover(record, found, tenants.doors(**limits), this_command()):
        said = f": {one.said}" if one.said else ""
        state = journal_data.STATES[one.state]
        note(f"transaction {one.transaction.id} was not ended: {one.tenant} is {state}{said}")


def by_number(record: Journal, number: int) -> Transaction:
    """The transaction of that number.

    :raise UsageError: there is none.
    """
    found = record.get(number)
    if found is None:
        raise UsageError(f"there is no transaction {number}", hint="`ringfence history` lists them")
    return found


def this_command() -> Author:
    """Who runs this, with which words."""
    from ringfence.engine import authors
    from ringfence.engine.journal import Author

    return Author(*authors.me(" ".join(("ringfence", *sys.argv[1:]))))
