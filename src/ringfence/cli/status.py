"""`ringfence status`: how it stands with the fences of this host, by the daemon's word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from ringfence.cli.output import Format, emit, line
from ringfence.control import client


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(name="status")(status)


def status(
    socket: Annotated[str | None, typer.Option("--socket", help="the daemon's socket")] = None,
    reload: Annotated[bool, typer.Option("--reload", help="have it read its files anew first")] = False,
    output: Annotated[Format, typer.Option("-o", "--output", help="how to print")] = Format.TABLE,
) -> None:
    """How the daemon is, and how it stands with every tenant that has a fence.

    Exit code: 0 all in step; 6 something is not; 5 no daemon answers.
    """
    with client.required(socket) as daemon:
        if reload:
            daemon.call("reload")
        found = daemon.call("status")
    emit(found, output, lambda: _render(found))
    kinds = [kept for tenant in found["tenants"] for kept in tenant["kinds"].values()]
    raise typer.Exit(0 if all(kept["state"] == "in step" for kept in kinds) else 6)


def _render(found: Mapping[str, Any]) -> None:
    line(f"ringfence {found['version']}, pid {found['pid']}, {len(found['tenants'])} tenants fenced")
    line(f"looks for drift every {found['look_every_s']:g} s; put right {found['repairs']} times")
    for tenant in found["tenants"]:
        line(f"{tenant['tenant']}  ({', '.join(tenant['rules'])}; drift: {tenant['drift']})")
        for kind, kept in tenant["kinds"].items():
            line(f"  {kind:<8}  {kept['state']}{': ' + kept['reason'] if kept['reason'] else ''}")
            for text in kept["differs"]:
                line(f"            {text}")
