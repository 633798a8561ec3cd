"""`ringfence plan FILE`: what a file of fences would change, and what it would touch. Changes nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.cli import target
from ringfence.cli.output import Format, emit

if TYPE_CHECKING:
    from ringfence.engine.fences import Plan

FILE_HELP = "a file of fences, or a directory of them; - is standard input [default: /etc/ringfence/fences.d]"
OUT_OF_STEP = 7
"""With --detailed-exitcode, the exit code of what is out of step. Terraform's 2 is a bad request here."""
_EPILOG = "Example: ringfence plan fences.yaml"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(name="plan", epilog=_EPILOG)(plan)


def plan(
    file: Annotated[str | None, typer.Argument(metavar="[FILE]", help=FILE_HELP)] = None,
    requests: Annotated[bool, typer.Option("--requests", help="also print the exact requests")] = False,
    detailed: Annotated[
        bool, typer.Option("--detailed-exitcode", help=f"end with {OUT_OF_STEP} when something is out of step")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="plan also what would hurt the guest itself")] = False,
    timeout: Annotated[str | None, typer.Option("--timeout", help=target.TIMEOUT_HELP)] = None,
    json: Annotated[bool, typer.Option("--json", help="the same as -o json")] = False,
    output: Annotated[Format, typer.Option("-o", "--output", help="how to print")] = Format.TABLE,
) -> None:
    """What a file of fences would change: from what, to what, by which mechanism, in which order. Changes nothing.

    Exit code: 0 nothing stands against it; with --detailed-exitcode 0 is in step, 7 is not; 2 the file is wrong.
    """
    from ringfence.cli import fence_data

    found = asyncio.run(made(file, target.deadlines(timeout), force=force))
    emit(
        fence_data.plan_data(found),
        Format.JSON if json else output,
        lambda: fence_data.print_plan(found, requests=requests),
    )
    if detailed and not found.empty:
        raise typer.Exit(OUT_OF_STEP)
    problems = [problem.error for tenant in found.tenants for problem in tenant.problems]
    raise typer.Exit(next((error.exit_code for error in (*found.complaints, *problems)), 0))


async def made(file: str | None, limits: target.Deadlines, *, force: bool = False) -> Plan:
    """Read the file, look at its tenants, and plan."""
    from ringfence.engine import fences, spec_files, tenants, transaction

    spec = spec_files.load(file or spec_files.DEFAULT_PATH)
    seen = await transaction.look(spec, tenants.find(tenants.named_by(spec)), tenants.doors(**limits))
    return fences.plan(spec, seen, force=force, host=tenants.capacity())
