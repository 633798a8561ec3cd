"""`ringfence history [VM]`: what was changed, when, by whom, from what to what."""

from __future__ import annotations

from typing import Annotated

import typer

from ringfence.cli import completion
from ringfence.cli.output import Format, emit, note


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(name="history")(history)


def history(
    vm: Annotated[
        str | None,
        typer.Argument(metavar="[VM]", help="name of a VM or container", autocompletion=completion.vm_names),
    ] = None,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, help="how many at most")] = 20,
    output: Annotated[Format, typer.Option("-o", "--output", help="how to print")] = Format.TABLE,
) -> None:
    """What this user's ringfence has changed, the last first: of one VM, or of all."""
    from ringfence.cli import journal_data
    from ringfence.engine.journal import Journal

    record = Journal.open()
    found = record.history(vm, limit=limit)

    def render() -> None:
        for transaction in found:
            journal_data.print_transaction(transaction)
        if not found:
            note("nothing was changed yet")

    emit([journal_data.as_data(one) for one in found], output, render)
    journal_data.warn_of_interrupted(record)
    record.close()
