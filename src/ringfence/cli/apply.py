"""`ringfence apply FILE`: bring the tenants of this host in step with a file of fences, as one transaction."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.cli import target
from ringfence.cli.output import Format, emit, line, note
from ringfence.cli.plan import FILE_HELP
from ringfence.errors import GuestError

if TYPE_CHECKING:
    from ringfence.core.model import Tenant
    from ringfence.engine.driver import Edges
    from ringfence.engine.guard import Distress
    from ringfence.engine.transaction import Options, Report
    from ringfence.policies.guard import Sample

_EPILOG = "Example: ringfence apply fences.yaml --confirm 60s"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(name="apply", epilog=_EPILOG)(apply)


def apply(
    file: Annotated[str | None, typer.Argument(metavar="[FILE]", help=FILE_HELP)] = None,
    all_or_nothing: Annotated[
        bool, typer.Option("--all-or-nothing", help="one failure puts all tenants back, not only its own")
    ] = False,
    confirm: Annotated[
        str | None,
        typer.Option(
            "--confirm", metavar="TIME", help="take it back after this, unless `ringfence confirm` comes"
        ),
    ] = None,
    guard: Annotated[
        str | None,
        typer.Option("--guard", metavar="TIME", help="for this long put back who shows distress after the change"),
    ] = None,
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

    confirm_s, guard_s = (None if text is None else target.timeout(text) for text in (confirm, guard))
    options = Options(target.timeout(timeout), force, all_or_nothing, confirm_s)
    limits = target.deadlines(timeout, at_most=True)
    report, distressed = asyncio.run(_run(file, options, limits, guard_s))

    def render() -> None:
        fence_data.print_report(report)
        if report.plan.empty:
            note(fence_data.summary(report.plan))
        elif report.number is not None:
            note(f"transaction {report.number}; `ringfence undo {report.number}` takes it back")
        if report.confirm_by_s is not None:
            note(f"it is taken back in {confirm} unless `ringfence confirm {report.number}` comes before")
        for one in distressed:
            line(f"{one.tenant}  put back, in distress after the change: {one.why}")

    data = fence_data.report_data(report)
    data["distress"] = [{"tenant": one.tenant, "why": one.why} for one in distressed]
    emit(data, output, render)
    raise typer.Exit(fence_data.exit_code(report) or (GuestError.exit_code if distressed else 0))


async def _run(
    file: str | None, options: Options, limits: target.Deadlines, guard_s: float | None
) -> tuple[Report, list[Distress]]:
    import time

    from ringfence.cli.confirm import start_watch
    from ringfence.cli.recover import brought_in_order, this_command
    from ringfence.engine import guard, spec_files, tenants, transaction
    from ringfence.engine.journal import NEW, Journal

    spec = spec_files.load(file or spec_files.DEFAULT_PATH)
    record = Journal.open()
    doors, author = tenants.doors(**limits), this_command()
    samples: dict[Tenant, Sample] = {}

    async def take_sample(tenant: Tenant, edges: Edges) -> None:
        samples[tenant] = await guard.sample(tenant, edges)

    try:
        await brought_in_order(record, limits)
        report = await transaction.apply(
            spec,
            tenants.find(tenants.named_by(spec)),
            doors,
            record,
            author,
            options,
            host=tenants.capacity(),
            check=_refuse,
            before=take_sample if guard_s is not None else None,
            begun=start_watch if options.confirm_s is not None else _nothing,
        )
        if guard_s is None or report.number is None:
            return report, []
        changed = {one.plan.seen.tenant: one.plan.name for one in report.tenants if one.state == NEW}
        samples = {tenant: one for tenant, one in samples.items() if tenant in changed}
        distressed = await guard.watch(
            record,
            report.number,
            samples,
            changed,
            doors,
            author,
            seconds=guard_s,
            pause=asyncio.sleep,
            clock=time.monotonic,
        )
        return report, distressed
    finally:
        record.close()


def _nothing(_: int) -> None:
    """Nobody waits for it to be confirmed."""


def _refuse(plan: object) -> None:
    """End it before the first change where the host as a whole cannot bear it."""
    from ringfence.engine.changes import together
    from ringfence.engine.fences import Plan

    if isinstance(plan, Plan) and plan.complaints:
        raise together(plan.complaints)
