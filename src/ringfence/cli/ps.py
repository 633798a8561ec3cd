"""`ringfence ps`: every VM that the user may see, without any set-up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence import units
from ringfence.cli import target
from ringfence.cli.output import Format, emit, printable

if TYPE_CHECKING:
    from ringfence.engine.survey import MonitorEntry, VmEntry

_COLUMNS = ("NAME", "PID", "MANAGER", "VCPUS", "MEMORY")


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(name="ps")(ps)


def ps(
    timeout: Annotated[str, typer.Option("--timeout", help="how long each QEMU may take to answer")] = "2s",
    output: Annotated[Format, typer.Option("-o", "--output", help="how to print")] = Format.TABLE,
) -> None:
    """Every VM and container you may see: size, disks with their limits, monitors; engine and cgroup.

    Changes nothing.
    """
    from ringfence.host.containers import find_containers
    from ringfence.qemu.discovery import find_vms

    timeout_s = target.timeout(timeout)
    vms = find_vms()
    entries: list[VmEntry] = []
    if vms:
        from ringfence.engine.survey import survey
        from ringfence.host.socket_table import SocketTable

        entries = asyncio.run(survey(vms, SocketTable(), timeout_s=timeout_s))
    containers = [{"kind": "container", **c._asdict()} for c in find_containers()]
    emit([*entries, *containers], output, lambda: _render(printable(entries), printable(containers)))


def _render(entries: Sequence[VmEntry], containers: Sequence[Mapping[str, object]]) -> None:
    """A line for each tenant, and below it one for each thing it has: paths are too long for columns."""
    if not entries:
        print("No QEMU process is visible to you. `ringfence run` starts one; root sees those of every user.")
    else:
        _print_table([_COLUMNS, *map(_row, entries)], [(), *map(_details, entries)])
    if containers:
        print()
        rows = [(f"container:{c['name']}", str(c["pid"]), str(c["engine"]), str(c["id"])[:12]) for c in containers]
        places = [[("cgroup", str(c["cgroup"]))] for c in containers]
        _print_table([("NAME", "PID", "ENGINE", "ID"), *rows], [(), *places])


def _print_table(rows: Sequence[tuple[str, ...]], details: Sequence[Iterable[tuple[str, str]]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row, lines in zip(rows, details, strict=True):
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
        for kind, text in lines:
            print(f"  {kind:<4}  {text}".rstrip())


def _row(entry: VmEntry) -> tuple[str, ...]:
    now, most = (units.format_bytes(entry["memory"][key]) for key in ("now_bytes", "max_bytes"))
    vcpus = f"{entry['vcpus']['now']}/{entry['vcpus']['max']}"
    return entry["name"], str(entry["pid"]), entry["manager"], vcpus, f"{now} / {most}"


def _details(entry: VmEntry) -> Iterator[tuple[str, str]]:
    for disk in entry["disks"]:
        filters = [f"{_limits(group['limits'])} ({group['group']})" for group in disk["filters"]]
        yield "disk", " ".join(filter(None, (disk["name"], _limits(disk["limits"] or {}), *filters)))
    for nic in entry["nics"]:
        yield "nic", " ".join(filter(None, (nic["id"] or nic["model"], nic["backend"], nic["ifname"])))
    for monitor in entry["monitors"]:
        yield monitor["kind"], _monitor(monitor)
    if entry["problem"]:
        yield "note", f"{entry['problem']}; shown as it was started"


def _limits(limits: Mapping[str, int]) -> str:
    from ringfence.knobs.registry import parse_key

    return " ".join(
        f"{leaf}={units.format_value(parse_key(f'disk.any.{leaf}').row.unit, number)}"
        for leaf, number in limits.items()
    )


def _monitor(monitor: MonitorEntry) -> str:
    from ringfence.engine.survey import holder_text

    if monitor["address"] is None:
        return monitor["where"]
    held = f": {holder_text(monitor)}" if monitor["state"] == "busy" else ""
    return f"{monitor['address']}  {monitor['state'] or ''}{held}".rstrip()
