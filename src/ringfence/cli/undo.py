"""`ringfence undo [ID]`: take a change back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.cli import target
from ringfence.cli.output import Format, emit

if TYPE_CHECKING:
    from ringfence.engine.recovery import Undo

_EPILOG = "Example: ringfence undo 12"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(name="undo", epilog=_EPILOG)(undo)


def undo(
    number: Annotated[
        int | None, typer.Argument(metavar="[ID]", help="of `ringfence history` [default: the last change]")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="also what somebody else has set since")] = False,
    timeout: Annotated[str, typer.Option("--timeout", help="how long a guest may take for one key")] = "60s",
    output: Annotated[Format, typer.Option("-o", "--output", help="how to print")] = Format.TABLE,
) -> None:
    """Put back what a `set` or an `apply` changed. What others have set since stays. An undo can itself be undone.

    Exit code: 0 all is as it was; 6 some of it is not, and is told.
    """
    from ringfence.cli import journal_data

    done = asyncio.run(_run(number, force, target.timeout(timeout), target.deadlines(timeout, at_most=True)))
    emit(journal_data.undo_data(done), output, lambda: journal_data.print_undo(done))
    raise typer.Exit(journal_data.undo_code(done))


async def _run(number: int | None, force: bool, timeout_s: float, limits: target.Deadlines) -> Undo:
    from ringfence.cli.recover import brought_in_order, by_number, this_command
    from ringfence.engine import recovery, tenants
    from ringfence.engine.journal import Journal

    record = Journal.open()
    try:
        await brought_in_order(record, limits)
        transaction = recovery.latest(record) if number is None else by_number(record, number)
        found = tenants.find(change.tenant for change in transaction.changes)
        return await recovery.undo(
            record,
            transaction,
            found,
            tenants.doors(**limits),
            this_command(),
            force=force,
            timeout_s=timeout_s,
        )
    finally:
        record.close()
