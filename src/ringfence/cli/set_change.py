"""What `ringfence set` does, without what reads its options: with none given, nothing of that is needed."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from ringfence import units
from ringfence.cli import target
from ringfence.cli.interrupts import ended_by_signal
from ringfence.cli.output import Format, emit, line, note, problem
from ringfence.errors import HostError, InterruptError, UsageError

if TYPE_CHECKING:
    from ringfence.core.knob import Row, Value
    from ringfence.core.model import Tenant
    from ringfence.engine.api import OpenVm
    from ringfence.engine.changes import Result, Step
    from ringfence.engine.notes import Noted

T = TypeVar("T")


def change(
    words: Sequence[str],
    *,
    qmp: str | None = None,
    dry_run: bool = False,
    timeout: str = "60s",
    force: bool = False,
    output: Format = Format.TABLE,
) -> int:
    """Change limits, print what became of them, and give the exit code; the options are those of `set`."""
    selector, pairs = (None, words) if qmp is not None else (words[0], words[1:])
    if selector is not None and "=" in selector and not pairs:
        raise UsageError(f"{selector!r} stands where the VM belongs", hint=f"ringfence set VM {selector}")
    values = _parse_pairs(pairs)
    wanted = _Change(values, target.timeout(timeout), force, target.deadlines(timeout, at_most=True))
    vm = target.find_tenant(selector, qmp)
    if dry_run:
        _print_plan(wanted.run(vm, wanted.plan), output)
        return 0
    try:
        results = wanted.run(vm, lambda opened: wanted.apply(opened, quiet=output is not Format.TABLE))
    except KeyboardInterrupt:
        raise wanted.broken_off() from None
    _print_results(results, output)
    return next((r.exit_code for r in results if r.exit_code), 0)


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

    def run(self, vm: Tenant, work: Callable[[OpenVm], Coroutine[Any, Any, T]]) -> T:
        """What is done to the open VM: without an event loop where that can be, as loading one takes so long.

        :raise KeyboardInterrupt: also for what cancels the work.
        """
        from ringfence.engine.api import open_briefly, open_tenant

        opened = open_briefly(vm, self._values, **self._limits)
        if opened is not None:
            from ringfence.qemu.brief import finish

            return finish(work(opened))
        import asyncio

        async def open_and_work() -> T:
            return await work(open_tenant(vm, **self._limits))

        try:
            return asyncio.run(open_and_work())
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None

    async def plan(self, opened: OpenVm) -> list[Step]:
        """Read and check."""
        async with opened:
            return await opened.plan(self._values, force=self._force)

    async def apply(self, opened: OpenVm, *, quiet: bool) -> list[Result]:
        """Read, check, and change, in our turn."""
        from ringfence.cli.progress import shown_progress

        async with opened, opened.turn(self._values):
            steps = await opened.plan(self._values, force=self._force)
            noted = _written_down(opened.info, steps)
            self._begun = True
            with shown_progress(quiet=quiet) as progress, ended_by_signal(opened.interrupt):
                results = await opened.apply(
                    steps,
                    timeout_s=self._timeout_s,
                    force=self._force,
                    progress=progress,
                    watch=True,
                    ended=noted.step,
                )
            noted.end(results)
            return results

    def broken_off(self) -> InterruptError:
        """For a Ctrl-C before the first change, and for a second one that did not wait for the first."""
        if not self._begun:
            return InterruptError("interrupted before the first change", hint="nothing was changed")
        return InterruptError(
            "interrupted twice, so what was under way was left as it is",
            state="whether the changes took effect is not known",
            hint="`ringfence show VM` tells what is so now",
        )


def _written_down(tenant: Tenant, steps: Sequence[Step]) -> Noted:
    """Write down what is about to be changed, for `undo` and `why`; for want of a journal nothing is refused."""
    import sys

    from ringfence.core.model import Container
    from ringfence.engine import authors
    from ringfence.engine.notes import Noted

    name = tenant.selector if isinstance(tenant, Container) else tenant.name
    noted = Noted(name, authors.identity(tenant), " ".join(("ringfence", *sys.argv[1:])))
    try:
        noted.begin(steps)
    except HostError as error:
        note(f"it is not written down, so `undo` will not know it: {error.message}")
    return noted


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
        said: set[str] = set()  # several limits may need the same group
        for step in steps:
            requests = step.requests()
            if not requests:
                line(f"# {', '.join(k.text for k in step.keys.values())}: already so")
            for text in map(_request, (request.wire() for request in requests)):
                if text not in said or text.startswith("{"):
                    line(text)
                said.add(text)
            for text in step.notes():
                note(f"  {', '.join(k.text for k in step.keys.values())}: {text}")

    emit(data, output, render)


def _shown(row: Row, value: Value | None) -> str:
    if value is None:
        return row.lifted if row.lifts else "unknown"
    return units.format_value(row.unit, value)


def _print_results(results: Sequence[Result], output: Format) -> None:
    def render() -> None:
        width = max(len(r.key) for r in results)
        for r in results:
            line(f"{r.key:<{width}}  {_verdict(r)}")
        for text in dict.fromkeys(text for r in results for text in r.notes):
            note(f"  {text}")

    from ringfence.control.data import result_data

    emit([result_data(r) for r in results], output, render)
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
