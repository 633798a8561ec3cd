"""`ringfence confirm [ID]`: have a change stay that was made with `apply --confirm`."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from ringfence.cli.output import line
from ringfence.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(name="confirm")(confirm)


def confirm(
    number: Annotated[
        int | None,
        typer.Argument(metavar="[ID]", help="of `ringfence history` [default: the last one that waits]"),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", hidden=True)] = False,
) -> None:
    """Have a change stay. What `apply --confirm 60s` changed is taken back in 60 s unless this comes before."""
    from ringfence.engine.journal import Journal

    record = Journal.open()
    if watch and number is not None:
        asyncio.run(_watch(number))
        return
    waiting = record.to_confirm()
    if number is None and not waiting:
        raise UsageError("no change waits to be confirmed", hint="`ringfence history` tells what became of each")
    wanted = waiting[-1].id if number is None else number
    if not record.confirm(wanted):
        raise UsageError(
            f"transaction {wanted} does not wait to be confirmed",
            hint="`ringfence history` tells what became of it",
        )
    line(f"transaction {wanted} stays")
    record.close()


async def _watch(number: int) -> None:
    from ringfence.cli.recover import this_command
    from ringfence.engine import confirm, tenants
    from ringfence.engine.journal import Journal

    record = Journal.open()
    await confirm.watch(record, number, tenants.find, tenants.doors(), this_command(), asyncio.sleep)


def start_watch(number: int) -> None:
    """Start the process that takes a change back unless it is confirmed; it outlives this one and its terminal."""
    import subprocess
    import sys

    subprocess.Popen(
        [sys.executable, "-m", "ringfence", "confirm", str(number), "--watch"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
    )
