"""`ringfence set VM key=value ...`: change limits of a running VM, and say what became of each."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence import units
from ringfence.cli import target
from ringfence.cli.output import Format, emit, note
from ringfence.errors import UsageError

if TYPE_CHECKING:
    from ringfence.core.model import Vm
    from ringfence.engine.changes import Result, Step

_EPILOG = "Example: ringfence set web1 memory.target=2GiB disk.vda.iops=500 disk.vda.iops.burst=2000"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(name="set", epilog=_EPILOG)(set_)


def set_(
    words: Annotated[list[str], typer.Argument(metavar="VM KEY=VALUE...", help=target.VM_HELP)],
    qmp: Annotated[str | None, typer.Option("--qmp", help=target.QMP_HELP)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the exact QMP, change nothing")] = False,
    timeout: Annotated[str, typer.Option("--timeout", help="how long a guest may take for one key")] = "60s",
    force: Annotated[bool, typer.Option("--force", help="also what would hurt the guest itself")] = False,
    output: Annotated[Format, typer.Option("-o", "--output", help="how to print")] = Format.TABLE,
) -> None:
    """Change limits of a running VM. All are checked before the first is changed.

    Exit code: 0 all applied; 2 bad request, nothing changed; 3 this VM cannot; 4 the monitor or QEMU said no;
    6 the guest did not follow, or not wholly.
    """
    selector = None if qmp is not None else words[0]
    values = _parse_pairs(words if qmp is not None else words[1:])
    timeout_s = units.parse_seconds(timeout)
    vm = target.find(selector, qmp)
    if dry_run:
        _print_plan(asyncio.run(_plan(vm, values, force)), output)
        return
    results = asyncio.run(_set(vm, values, timeout_s, force, quiet=output is not Format.TABLE))
    _print_results(results, output)
    raise typer.Exit(next((r.exit_code for r in results if r.exit_code), 0))


def _parse_pairs(words: Sequence[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key or not value:
            raise UsageError(
                f"{word!r} is not KEY=VALUE", hint="such as memory.target=2GiB; `ringfence show VM` lists keys"
            )
        if key in values:
            raise UsageError(f"{key} is given twice", hint="give it once")
        values[key] = value
    if not values:
        raise UsageError("nothing to set", hint="add KEY=VALUE, such as memory.target=2GiB")
    return values


async def _plan(vm: Vm, values: dict[str, str], force: bool) -> list[Step]:
    from ringfence.engine.api import open_vm

    async with await open_vm(vm) as opened:
        return await opened.plan(values, force=force)


async def _set(vm: Vm, values: dict[str, str], timeout_s: float, force: bool, *, quiet: bool) -> list[Result]:
    from ringfence.cli.progress import shown_progress
    from ringfence.engine.api import open_vm

    async with await open_vm(vm) as opened:
        with shown_progress(quiet=quiet) as progress:
            return await opened.set(values, timeout_s=timeout_s, force=force, progress=progress)


def _print_plan(steps: Sequence[Step], output: Format) -> None:
    import json

    data = [
        {
            "part": step.part.name,
            "keys": [k.text for k in step.keys.values()],
            "requests": [r.wire() for r in step.requests()],
            "notes": list(step.notes()),
        }
        for step in steps
    ]

    def render() -> None:
        for step in steps:
            requests = step.requests()
            if not requests:
                print(f"# {', '.join(k.text for k in step.keys.values())}: already so")
            for request in requests:
                print(json.dumps(request.wire()))
            for text in step.notes():
                note(f"  {', '.join(k.text for k in step.keys.values())}: {text}")

    emit(data, output, render)


def _shown(result: Result, value: int | str | None) -> str:
    if value is None:
        return result.row.lifted if result.row.lifts else "unknown"
    return units.format_value(result.row.unit, value)


def as_data(result: Result) -> dict[str, object]:
    """One result as plain data, for JSON and YAML."""
    return {
        "key": result.key,
        "before": result.before,
        "asked": result.asked,
        "target": result.target,
        "actual": result.actual,
        "unit": result.row.unit,
        "verdict": str(result.verdict),
        "by": result.by,
        "detail": result.detail,
        "notes": list(result.notes),
        "took_ms": round(result.took_ms, 2),
    }


def _print_results(results: Sequence[Result], output: Format) -> None:
    def render() -> None:
        width = max(len(r.key) for r in results)
        for r in results:
            now = _shown(r, r.actual)
            by = f" by {r.by}" if r.by else ""
            print(f"{r.key:<{width}}  {_shown(r, r.before)} -> {now}  {r.verdict}{by}  ({_took(r.took_ms)})")
            if r.verdict != "applied" and r.actual != r.asked:
                note(f"  asked for {_shown(r, r.asked)}")
        for text in dict.fromkeys(t for r in results for t in (r.detail, *r.notes) if t):
            note(f"  {text}")

    emit([as_data(r) for r in results], output, render)


def _took(milliseconds: float) -> str:
    return units.format_seconds(milliseconds / 1e3)
