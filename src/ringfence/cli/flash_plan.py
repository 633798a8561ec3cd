"""`ringfence flash plan`: who gets which part of an SSD, and who cannot. Changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ringfence import units
from ringfence.cli.output import Format, emit, note

if TYPE_CHECKING:
    from ringfence.flash.drives import Drive
    from ringfence.flash.geometry import Device
    from ringfence.flash.planning import Refusal, Wanted
    from ringfence.flash.planning_file import TenantsFile
    from ringfence.flash.vssd import VirtualSsd

HOST = "host"
_EPILOG = "Example: ringfence flash plan tenants.yaml --device flashblox"
_UNMEASURED = (
    "no drive says what it can do at once: the bandwidth is not planned; "
    "hold the neighbours by `ringfence set VM disk.vda.bps=...`"
)


def register(app: typer.Typer) -> None:
    """Add the verb to `flash`."""
    app.command(epilog=_EPILOG)(plan)


def plan(
    file: Annotated[
        str, typer.Argument(help="the tenants, as YAML or JSON; - is standard input", show_default=False)
    ],
    device: Annotated[
        str | None,
        typer.Option(
            help="the SSD: a preset of `flash sim`; or this host's NVMe drives, such as nvme0 or nvme0,nvme1, or "
            "`host` for all that it does not use",
            show_default="what the file names",
        ),
    ] = None,
    output: Annotated[Format, typer.Option("-o", "--output", help="how to print")] = Format.TABLE,
) -> None:
    """Which class of isolation and which channels and dies each tenant gets; who is refused, and what would help.

    In the file: `tenants: {db: {capacity: 200GiB, bandwidth: 100MB/s, class: channel}}`. `class` is channel, die,
    software, none or auto, the best that can be had. Those named first go before those named later.

    Exit code: 0 all get what they want; 2 the file is wrong, or a tenant is refused.
    """
    from ringfence.errors import UsageError
    from ringfence.flash.presets import PRESETS

    wanted = _read(file)
    chosen = device or wanted.device
    if not chosen:
        hint = f"--device with {HOST}, nvme0 or one of {', '.join(PRESETS)}; or `device:` in the file"
        raise UsageError("plan for which SSD?", hint=hint)
    if chosen in PRESETS:
        found = _on_preset(PRESETS[chosen], wanted.tenants)
    else:
        found = _on_drives(_drives(chosen), wanted.tenants)
        if any(any(one.bandwidth) for one in wanted.tenants):
            note(_UNMEASURED)
    emit(found, output, lambda: _render(found))
    if found["refused"]:
        raise typer.Exit(UsageError.exit_code)


def _read(file: str) -> TenantsFile:
    import sys

    from ringfence.core.spec_yaml import MAX_BYTES
    from ringfence.errors import HostError, UsageError
    from ringfence.flash.planning_file import parse

    if file == "-":
        return parse(sys.stdin.buffer.read(MAX_BYTES + 1), "standard input")
    try:
        with Path(file).open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
    except (FileNotFoundError, ValueError):
        raise UsageError(
            f"there is no file of tenants {file!r}", hint="name one, or - for standard input"
        ) from None
    except OSError as error:
        raise HostError(
            f"cannot read {file}: {error.strerror}",
            path=file,
            errno=error.errno or 0,
            hint="name a file of tenants that this user may read",
        ) from error
    return parse(data, file)


def _drives(chosen: str) -> tuple[Drive, ...]:
    from ringfence.core.vocabulary import nearest
    from ringfence.errors import HostError, UsageError
    from ringfence.flash.presets import PRESETS
    from ringfence.host.nvme import find_drives

    there = {drive.name: drive for drive in find_drives()}
    if chosen == HOST:
        free = tuple(drive for drive in there.values() if not drive.uses)
        for drive in there.values():
            if drive.uses:
                note(f"left out: {drive.name}, which the host uses ({', '.join(drive.uses[:4])})")
        if not free:
            hint = f"name one by --device, or a preset: {', '.join(PRESETS)}"
            raise HostError("this host has no NVMe drive to give away", path="/sys/class/nvme", hint=hint)
        return free
    names = list(dict.fromkeys(chosen.split(",")))
    unknown = [name for name in names if name not in there]
    if unknown:
        known = (HOST, *there, *PRESETS)
        hint = nearest(unknown[0], known) or f"there are {', '.join(known)}"
        raise UsageError(f"there is no SSD {unknown[0][:60]!r}", hint=hint)
    for name in names:
        if there[name].uses:
            note(f"{name} is used by the host itself ({', '.join(there[name].uses[:4])})")
    return tuple(there[name] for name in names)


def _on_preset(device: Device, wanted: Sequence[Wanted]) -> dict[str, Any]:
    from ringfence.flash.planning import plan as planned

    found = planned(device, wanted)
    asked = {one.name: one for one in wanted}
    return {
        "device": device.name,
        "tenants": [_virtual(device, asked[tenant.name], tenant) for tenant in found.tenants],
        "refused": [_refused(refusal) for refusal in found.refused],
        "free_channels": list(found.free_channels),
    }


_SHARES = {
    "channel": "nothing but the link to the host",
    "die": "buses",
    "software": "buses and dies, by limits",
    "none": "all, collection too",
}


def _virtual(device: Device, one: Wanted, tenant: VirtualSsd) -> dict[str, Any]:
    return {
        "tenant": tenant.name,
        "wanted": one.wanted_class,
        "class": tenant.isolation.value,
        "capacity_bytes": tenant.capacity_bytes,
        "channels": list(tenant.channels),
        "dies": sorted(device.geometry.die_index(die) for die in tenant.dies),
        "blocks_per_plane": tenant.blocks or None,
        "read_bytes_per_s": tenant.bandwidth.read or None,
        "write_bytes_per_s": tenant.bandwidth.write or None,
        "shares": _SHARES[tenant.isolation],
    }


def _on_drives(drives: Sequence[Drive], wanted: Sequence[Wanted]) -> dict[str, Any]:
    from ringfence.flash.planning_drives import plan_drives

    found = plan_drives(drives, wanted)
    return {
        "device": ",".join(drive.name for drive in drives),
        "tenants": [
            {
                "tenant": placed.tenant.name,
                "wanted": placed.tenant.wanted_class,
                "class": placed.isolation.value,
                "capacity_bytes": placed.tenant.capacity_bytes,
                "drive": placed.placement.drive,
                "by": placed.placement.kind,
                "isolates": placed.placement.isolates,
                "command": placed.placement.command,
            }
            for placed in found.tenants
        ],
        "refused": [_refused(refusal) for refusal in found.refused],
    }


def _refused(refusal: Refusal) -> dict[str, Any]:
    return {
        "tenant": refusal.tenant.name,
        "wanted": refusal.tenant.wanted_class,
        "why": refusal.why,
        "helps": list(refusal.helps),
    }


def numbers(values: Sequence[int]) -> str:
    """Ascending numbers as `0-3,7`."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs) or "-"


def _render(found: dict[str, Any]) -> None:
    from rich.table import Table

    from ringfence.cli.output import console, line, printable

    table = Table(box=None, pad_edge=False)
    real = "free_channels" not in found
    titles = ("DRIVE", "BY", "ISOLATES") if real else ("CHANNELS", "DIES", "READ", "WRITE", "SHARES")
    for title in ("TENANT", "WANTED", "CLASS", "CAPACITY", *titles):
        table.add_column(title)
    for row in found["tenants"]:
        size = units.format_bytes(row["capacity_bytes"])
        where = [row[key] for key in ("drive", "by", "isolates")] if real else _where(row)
        table.add_row(printable(row["tenant"]), row["wanted"], row["class"], size, *where)
    if found["tenants"]:
        console().print(table)
    for command in dict.fromkeys(row["command"] for row in found["tenants"] if real):
        line(f"by: {command}")
    for row in found["refused"]:
        line(f"refused: {row['tenant']}: {row['why']}")
        for text in row["helps"]:
            line(f"  would help: {text}")
    if not real:
        line(f"free channels: {numbers(sorted(found['free_channels']))}")


def _where(row: dict[str, Any]) -> list[str]:
    """Dies are numbered within chips within channels, from 0."""
    rates = [
        f"{rate / 1e6:,.0f} MB/s" if rate else "-" for rate in (row["read_bytes_per_s"], row["write_bytes_per_s"])
    ]
    return [numbers(row["channels"]), numbers(row["dies"]), *rates, row["shares"]]
