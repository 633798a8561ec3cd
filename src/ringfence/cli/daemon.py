"""`ringfence daemon`: keeps the fences of this host true while VMs come and go."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

_FENCES = "/etc/ringfence/fences.d"
SOCKET_HELP = "where it listens [default: /run/ringfence/control.sock, or $RINGFENCE_SOCKET]"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(name="daemon")(daemon)


def daemon(
    fences: Annotated[Path, typer.Option("--fences", help="the file of fences, or a directory of them")] = Path(
        _FENCES
    ),
    socket: Annotated[Path | None, typer.Option("--socket", help=SOCKET_HELP)] = None,
    metrics: Annotated[
        str,
        typer.Option("--metrics", metavar="WHERE", help="tell Prometheus on 127.0.0.1:PORT, or on a unix socket"),
    ] = "",
) -> None:
    """Keep the fences of this host true: applied when a VM appears, put right when they drift.

    It stays in the foreground, for a service manager. SIGHUP has it read the files anew; when it ends, limits stay
    as they are.
    """
    from ringfence.control import protocol
    from ringfence.daemon.main import Daemon, Settings

    async def run() -> None:
        await Daemon(Settings(fences, socket or Path(protocol.socket_path()), metrics)).run()

    asyncio.run(run())
