"""`ringfence show VM`: every knob, now, its range, its mechanism, or why it is not available."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence import units
from ringfence.cli import completion, target
from ringfence.cli.output import Format, console, emit, printable
from ringfence.control.data import observation_data

if TYPE_CHECKING:
    from ringfence.core.knob import Knob, Observation, Part, Value
    from ringfence.core.model import Tenant
    from ringfence.errors import RingfenceError


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(name="show")(show)


def show(
    vm: Annotated[
        str | None, typer.Argument(metavar="VM", help=target.TENANT_HELP, autocompletion=completion.tenant_names)
    ] = None,
    qmp: Annotated[str | None, typer.Option("--qmp", help=target.QMP_HELP)] = None,
    timeout: Annotated[str | None, typer.Option("--timeout", help=target.TIMEOUT_HELP)] = None,
    every: Annotated[bool, typer.Option("--all", "-a", help="also limits that are not set")] = False,
    output: Annotated[Format, typer.Option("-o", "--output", help="how to print")] = Format.TABLE,
) -> None:
    """Every knob of a VM: what it is now, its range, and what does it, or why it is not available."""
    limits = target.deadlines(timeout)
    info = target.find_tenant(vm, qmp)
    parts, trouble = asyncio.run(_read(info, limits))
    data = {
        "vm": info.name,
        "pid": info.pid,
        "knobs": [
            observation_data(knob.observation(part, row)) | {"aliases": list(part.aliases)}
            for knob, part in parts
            for row in knob.rows
        ],
    }
    emit(data, output, lambda: _render(parts, every=every))
    if trouble is not None:  # what could be read is shown all the same
        raise trouble


async def _read(vm: Tenant, limits: target.Deadlines) -> tuple[list[tuple[Knob, Part]], RingfenceError | None]:
    from ringfence.engine.api import open_tenant

    async with open_tenant(vm, **limits) as opened:
        found = [(knob, part) for knob, parts in await opened.parts() for part in parts]
        return found, opened.trouble


def _now(observation: Observation) -> str:
    if observation.actual is None:
        return observation.row.lifted if observation.row.lifts else "unknown"
    return units.format_value(observation.row.unit, observation.actual)


def _range(observation: Observation) -> str:
    def text(value: Value | None) -> str:
        return "" if value is None else units.format_value(observation.row.unit, value)

    low, high = observation.minimum, observation.maximum
    if observation.row.unit == units.SWITCH:
        return "on or off"
    if observation.row.lifts:
        return "from " + text(low) if low is not None else "a name" if observation.row.unit == units.NAME else ""
    if low is None and high is None:
        return ""
    return f"{text(low)} to {text(high)}" if low is not None else f"up to {text(high)}"


def _render(parts: Sequence[tuple[Knob, Part]], *, every: bool) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("KNOB", "NOW", "RANGE", "BY", "NOTES"):
        table.add_column(column, overflow="fold")
    for knob, part in parts:
        others = [name for name in part.aliases if not name.startswith("/")]
        for index, row in enumerate(knob.rows):
            o = knob.observation(part, row)
            if not (every or o.row.main or o.actual is not None):
                continue
            notes = [o.unavailable] if o.unavailable else list(o.notes)
            notes += [f"start it with {advice.option}: {advice.why}" for advice in o.advice]
            if index == 0 and others:
                notes.insert(0, f"also {', '.join(others)}")
            span = "not available" if o.unavailable else _range(o)
            cells = map(printable, (o.key, _now(o), span, o.row.mechanism))
            table.add_row(*cells, "\n".join(map(printable, notes)))
    console().print(table)
    if not every:
        console(stderr=True).print("unset limits are left out: --all shows every key", style="dim")
