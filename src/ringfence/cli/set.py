"""`ringfence set VM key=value ...`: change limits of a running VM, and say what became of each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence import units
from ringfence.cli import completion, target
from ringfence.cli.output import Format, emit, line, note, problem
from ringfence.errors import InterruptError, UsageError

if TYPE_CHECKING:
    from ringfence.core.knob import Row, Value
    from ringfence.core.model import Tenant
    from ringfence.engine.changes import Result, Step

_EPILOG = "Example: ringfence set web1 memory.target=2GiB disk.vda.iops=500 disk.vda.iops.burst=2000"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(name="set", epilog=_EPILOG)(set_)


def set_(
    words: Annotated[
        list[str],
        typer.Argument(metavar="VM KEY=VALUE...", help=target.TENANT_HELP, autocompletion=completion.set_words),
    ],
    qmp: Annotated[str | None, typer.Option("--qmp", help=target.QMP_HELP)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what would be sent, change nothing")] = False,
    timeout: Annotated[str, typer.Option("--timeout", help="how long a guest may take for one key")] = "60s",
    force: Annotated[bool, typer.Option("--force", help="also what would hurt the guest itself")] = False,
    output: Annotated[Format, typer.Option("-o", "--output", help="how to print")] = Format.TABLE,
) -> None:
    """Change limits of a running VM. All are checked before the first is changed.

    Ctrl-C ends a change that is under way: the guest keeps what it has reached.

    Exit code: 0 all applied; 2 bad request, nothing changed; 3 this VM cannot; 4 the monitor or QEMU said no;
    6 the guest did not follow, or not wholly; 130 interrupted.
    """
    selector, pairs = (None, words) if qmp is not None else (words[0], words[1:])
    if selector is not None and "=" in selector and not pairs:
        raise UsageError(f"{selector!r} stands where the VM belongs", hint=f"ringfence set VM {selector}")
    values = _parse_pairs(pairs)
    change = _Change(values, target.timeout(timeout), force, target.deadlines(timeout, at_most=True))
    vm = target.find_tenant(selector, qmp)
    if dry_run:
        _print_plan(asyncio.run(change.plan(vm)), output)
        return
    try:
        results = asyncio.run(change.apply(vm, quiet=output is not Format.TABLE))
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise change.broken_off() from None
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


class _Change:
    """What was asked for, and how far it came."""

    def __init__(self, values: dict[str, str], timeout_s: float, force: bool, limits: target.Deadlines) -> None:
        self._values = values
        self._timeout_s = timeout_s
        self._force = force
        self._limits = limits
        self._begun = False

    async def plan(self, vm: Tenant) -> list[Step]:
        from ringfence.engine.api import open_tenant

        async with open_tenant(vm, **self._limits) as opened:
            return await opened.plan(self._values, force=self._force)

    async def apply(self, vm: Tenant, *, quiet: bool) -> list[Result]:
        from ringfence.cli.progress import shown_progress
        from ringfence.engine.api import open_tenant

        async with open_tenant(vm, **self._limits) as opened, opened.turn(self._values):
            steps = await opened.plan(self._values, force=self._force)
            self._begun = True
            with shown_progress(quiet=quiet) as progress, _ended_by_signal(opened.interrupt):
                return await opened.apply(steps, timeout_s=self._timeout_s, force=self._force, progress=progress)

    def broken_off(self) -> InterruptError:
        """For a Ctrl-C before the first change, and for a second one that did not wait for the first."""
        if not self._begun:
            return InterruptError("interrupted before the first change", hint="nothing was changed")
        return InterruptError(
            "interrupted twice, so what was under way was left as it is",
            state="whether the changes took effect is not known",
            hint="`ringfence show VM` tells what is so now",
        )


@contextmanager
def _ended_by_signal(interrupt: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM let what is under way leave order; the second one cancels this task, the third kills."""
    import signal

    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    seen = 0

    def restore() -> None:
        for number in numbers:
            loop.remove_signal_handler(number)

    def end() -> None:
        nonlocal seen
        seen += 1
        if seen == 1:
            interrupt()
        elif task is not None:
            restore()
            task.cancel()

    for number in numbers:
        loop.add_signal_handler(number, end)
    try:
        yield
    finally:
        restore()


def _request(wire: Mapping[str, object]) -> str:
    """A request for people: what is asked of the kernel's files as a shell would do it."""
    import json
    import shlex

    for name in ("mkdir", "rmdir"):
        if name in wire:
            return f"{name} {shlex.quote(str(wire[name]))}"
    if "write" in wire:
        return f"echo {shlex.quote(str(wire['text']).strip())} > {shlex.quote(str(wire['write']))}"
    return json.dumps(wire)


def _print_plan(steps: Sequence[Step], output: Format) -> None:
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
                line(f"# {', '.join(k.text for k in step.keys.values())}: already so")
            for request in requests:
                line(_request(request.wire()))
            for text in step.notes():
                note(f"  {', '.join(k.text for k in step.keys.values())}: {text}")

    emit(data, output, render)


def _shown(row: Row, value: Value | None) -> str:
    if value is None:
        return row.lifted if row.lifts else "unknown"
    return units.format_value(row.unit, value)


def as_data(result: Result) -> dict[str, object]:
    """One result as plain data, for JSON and YAML."""
    return {
        "key": result.key,
        "before": result.before,
        "asked": result.asked,
        "target": result.target,
        "actual": result.actual,
        "known": result.known,
        "unit": result.row.unit,
        "verdict": str(result.verdict),
        "by": result.by,
        "detail": result.detail,
        "state": result.state,
        "hint": result.hint,
        "notes": list(result.notes),
        "took_ms": round(result.took_ms, 2),
    }


def _print_results(results: Sequence[Result], output: Format) -> None:
    def render() -> None:
        width = max(len(r.key) for r in results)
        for r in results:
            line(f"{r.key:<{width}}  {_verdict(r)}")
        for text in dict.fromkeys(text for r in results for text in r.notes):
            note(f"  {text}")

    emit([as_data(r) for r in results], output, render)
    bad = next((r for r in results if r.verdict != "applied"), None)
    if bad is not None:
        problem(f"{bad.key} {bad.verdict}: {bad.detail}", state=bad.state, hint=bad.hint)


def _verdict(r: Result) -> str:
    """Before, now, and what became of it, for people."""
    now = _shown(r.row, r.actual) if r.known else "not known"
    by = f" by {r.by}" if r.by else ""
    if r.verdict == "not attempted":
        return f"{now}  {r.verdict}"
    asked = f", asked for {_shown(r.row, r.asked)}" if r.verdict != "applied" and r.actual != r.asked else ""
    return f"{_shown(r.row, r.before)} -> {now}  {r.verdict}{by}{asked}  ({_took(r.took_ms)})"


def _took(milliseconds: float) -> str:
    return units.format_seconds(milliseconds / 1e3)
