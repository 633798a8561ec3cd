"""`ringfence ps`: every VM that the user may see, without any set-up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ringfence import units
from ringfence.cli.output import Format, console, emit, note

if TYPE_CHECKING:
    from ringfence.engine.survey import MonitorEntry, VmEntry

_COLUMNS = ("NAME", "PID", "MANAGER", "VCPUS", "MEMORY", "DISKS", "NICS", "MONITORS")


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(name="ps")(ps)


def ps(
    output: Annotated[Format, typer.Option("-o", "--output", help="how to print")] = Format.TABLE,
) -> None:
    """Every QEMU process you may see: its size, its disks with their limits, its monitors. Changes nothing."""
    from ringfence.qemu.discovery import find_vms

    vms = find_vms()
    entries: list[VmEntry] = []
    if vms:
        from ringfence.engine.survey import survey
        from ringfence.host.socket_table import SocketTable

        entries = asyncio.run(survey(vms, SocketTable()))
    emit([_printable(entry) for entry in entries], output, lambda: _render(entries))


def _printable(value: Any) -> Any:
    """The value without the bytes of a command line that are no text."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {key: _printable(item) for key, item in value.items()}
    return [_printable(item) for item in value] if isinstance(value, list) else value


def _render(entries: Sequence[VmEntry]) -> None:
    if not entries:
        print("No QEMU process is visible to you. `ringfence run` starts one; root sees those of every user.")
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in _COLUMNS:
        table.add_column(column, overflow="fold", no_wrap=column in ("PID", "VCPUS"))
    for entry in entries:
        table.add_row(*(Text(_printable("\n".join(lines))) for lines in _cells(entry)))
    console().print(table)
    for entry in entries:
        if entry["problem"]:
            note(_printable(f"{entry['name']}: {entry['problem']}; shown as it was started"))


def _cells(entry: VmEntry) -> Iterator[Sequence[str]]:
    yield [entry["name"]]
    yield [str(entry["pid"])]
    yield [entry["manager"]]
    yield [f"{entry['vcpus']['now']}/{entry['vcpus']['max']}"]
    yield [" / ".join(units.format_bytes(entry["memory"][key]) for key in ("now_bytes", "max_bytes"))]
    yield [
        " ".join(
            [
                disk["name"],
                _limits(disk["limits"] or {}),
                *(f"{_limits(group['limits'])} ({group['group']})" for group in disk["filters"]),
            ]
        ).rstrip()
        for disk in entry["disks"]
    ]
    yield [
        " ".join(filter(None, (nic["id"], nic["backend"], nic["ifname"]))) or nic["model"] for nic in entry["nics"]
    ]
    yield [_monitor(monitor) for monitor in entry["monitors"]]


def _limits(limits: Mapping[str, int]) -> str:
    from ringfence.knobs.registry import parse_key

    return " ".join(
        f"{leaf}={units.format_value(parse_key(f'disk.any.{leaf}').row.unit, number)}"
        for leaf, number in limits.items()
    )


def _monitor(monitor: MonitorEntry) -> str:
    from ringfence.engine.survey import holder_text

    if monitor["address"] is None:
        return f"{monitor['kind']} {monitor['where']}"
    state = monitor["state"] or ""
    held = f": {holder_text(monitor)}" if monitor["state"] == "busy" else ""
    return f"{monitor['kind']} {monitor['address']} {state}{held}".rstrip()
