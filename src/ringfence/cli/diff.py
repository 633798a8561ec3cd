"""`ringfence diff [FILE]`: where this host is not as its fences say, and by whose hand."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ringfence.cli import target
from ringfence.cli.output import Format, emit, line, note
from ringfence.cli.plan import FILE_HELP, OUT_OF_STEP

if TYPE_CHECKING:
    from ringfence.engine.drift import Difference


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(name="diff")(diff)


def diff(
    file: Annotated[str | None, typer.Argument(metavar="[FILE]", help=FILE_HELP)] = None,
    detailed: Annotated[
        bool, typer.Option("--detailed-exitcode", help=f"end with {OUT_OF_STEP} when something differs")
    ] = False,
    timeout: Annotated[str | None, typer.Option("--timeout", help=target.TIMEOUT_HELP)] = None,
    output: Annotated[Format, typer.Option("-o", "--output", help="how to print")] = Format.TABLE,
) -> None:
    """Where what QEMU and the kernel hold differs from the fences, and by whose hand, where that can be told."""
    from ringfence.cli import fence_data, journal_data
    from ringfence.cli.plan import made
    from ringfence.engine import authors, drift
    from ringfence.engine.journal import Journal

    plan = asyncio.run(made(file, target.deadlines(timeout)))
    record = Journal.open()
    found = [
        difference
        for tenant in plan.tenants
        for difference in drift.differences(
            tenant,
            record.history(tenant.name, limit=200),
            authors.identity(tenant.seen.tenant),
            authors.started_at_s(tenant.seen.tenant.pid) if tenant.seen.tenant.pid else None,
        )
    ]

    def render() -> None:
        for one in found:
            want, have = (fence_data.shown(one.observation.row, v) for v in (one.want, one.observation.actual))
            line(f"{one.tenant}  {one.observation.key}  {have}, fenced to be {want}")
            line(f"    {one.hand.said}{_last(one)}")
        for tenant in plan.tenants:
            for problem in tenant.problems:
                line(f"{tenant.name}  ! {problem.error.message}")
        for rule in plan.missing:
            note(f"{rule.place}: {rule.selector.text!r} does not run now")
        if not found:
            note(fence_data.summary(plan))

    emit([_data(one) for one in found], output, render)
    journal_data.warn_of_interrupted(record)
    record.close()
    if detailed and not plan.empty:
        raise typer.Exit(OUT_OF_STEP)


def _last(one: Difference) -> str:
    from ringfence.cli import journal_data

    last = one.hand.transaction
    if last is None:
        return ""
    return f" (last by {last.author.user}, {journal_data.when(last.at_s)}: {last.author.command})"


def _data(one: Difference) -> dict[str, Any]:
    return {
        "tenant": one.tenant,
        "key": one.observation.key,
        "actual": one.observation.actual,
        "target": one.observation.target,
        "fenced": one.want,
        "by": one.hand.hand,
        "said": one.hand.said,
        "transaction": one.hand.transaction.id if one.hand.transaction else None,
    }
