"""`ringfence apply FILE`: bring the tenants of this host in step with a file of fences, as one transaction."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.cli import target
from ringfence.cli.output import Format, emit, note
from ringfence.cli.plan import FILE_HELP

if TYPE_CHECKING:
    from ringfence.engine.transaction import Options, Report

_EPILOG = "Example: ringfence apply fences.yaml --confirm 60s"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(name="apply", epilog=_EPILOG)(apply)


def apply(
    file: Annotated[str | None, typer.Argument(metavar="[FILE]", help=FILE_HELP)] = None,
    all_or_nothing: Annotated[
        bool, typer.Option("--all-or-nothing", help="one failure puts all tenants back, not only its own")
    ] = False,
    timeout: Annotated[str, typer.Option("--timeout", help="how long a guest may take for one key")] = "60s",
    force: Annotated[bool, typer.Option("--force", help="also what would hurt the guest itself")] = False,
    output: Annotated[Format, typer.Option("-o", "--output", help="how to print")] = Format.TABLE,
) -> None:
    """Change what is out of step with a file of fences. All is checked, and written down, before the first change.

    A tenant whose fence cannot wholly be met is put back to what it was. `ringfence undo` takes it all back.

    Exit code: as of `set`; 0 only when every tenant is as fenced.
    """
    from ringfence.cli import fence_data
    from ringfence.engine.transaction import Options

    options = Options(target.timeout(timeout), force, all_or_nothing)
    report = asyncio.run(_run(file, options, target.deadlines(timeout, at_most=True)))

    def render() -> None:
        fence_data.print_report(report)
        if report.plan.empty:
            note(fence_data.summary(report.plan))
        elif report.number is not None:
            note(f"transaction {report.number}; `ringfence undo {report.number}` takes it back")

    emit(fence_data.report_data(report), output, render)
    raise typer.Exit(fence_data.exit_code(report))


async def _run(file: str | None, options: Options, limits: target.Deadlines) -> Report:
    from ringfence.cli.recover import brought_in_order, this_command
    from ringfence.engine import spec_files, tenants, transaction
    from ringfence.engine.journal import Journal

    spec = spec_files.load(file or spec_files.DEFAULT_PATH)
    record = Journal.open()
    try:
        await brought_in_order(record, limits)
        return await transaction.apply(
            spec,
            tenants.find(tenants.named_by(spec)),
            tenants.doors(**limits),
            record,
            this_command(),
            options,
            check=_refuse,
        )
    finally:
        record.close()


def _refuse(plan: object) -> None:
    """End it before the first change where the host as a whole cannot bear it."""
    from ringfence.engine.changes import together
    from ringfence.engine.fences import Plan

    if isinstance(plan, Plan) and plan.complaints:
        raise together(plan.complaints)
