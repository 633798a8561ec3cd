"""`ringfence pool`: one quota over disks of several VMs, shared by weight and lent to whoever uses it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence import units
from ringfence.cli.output import note
from ringfence.errors import UsageError

if TYPE_CHECKING:
    from ringfence.engine.tenant_pool import Tick

_EPILOG = "Example: ringfence pool --iops 2000 web1:vda web2:vda batch:vdb=0.5"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(name="pool", epilog=_EPILOG)(pool)


def pool(
    members: Annotated[list[str], typer.Argument(metavar="VM:DISK[=WEIGHT]...", help="the disks that share")],
    iops: Annotated[str | None, typer.Option(help="requests per second of all together")] = None,
    bps: Annotated[str | None, typer.Option(help="bytes per second of all together, such as 100MiB/s")] = None,
    every: Annotated[str, typer.Option(help="how often to print what each does")] = "1s",
) -> None:
    """Keep one quota over disks of several VMs until Ctrl-C; what is left then are fixed shares by weight.

    Who uses less than its share lends the rest to those that want more. A VM that ends leaves the pool.
    """
    if (iops is None) == (bps is None):
        raise UsageError("a pool has one quota", hint="give either --iops or --bps")
    kind = "iops" if iops is not None else "bps"
    quota = units.parse(units.IOPS, iops) if iops is not None else units.parse(units.BYTES_PER_S, bps or "")
    asyncio.run(_run(members, kind, quota, units.parse_seconds(every)))


async def _run(texts: Sequence[str], kind: str, quota: int, every_s: float) -> None:
    import signal

    from ringfence.engine.api import OpenVm, connect
    from ringfence.engine.tenant_pool import Member, PoolLoop, parse_member

    wanted = [parse_member(text) for text in texts]
    async with connect() as host:
        vms: dict[str, OpenVm] = {}
        for vm, _, _ in wanted:
            if vm not in vms:
                vms[vm] = await host.vm(vm)
        loop = PoolLoop([Member(vms[vm], disk, weight) for vm, disk, weight in wanted], kind, quota)
        await loop.start()
        note(f"keeping {len(wanted)} disks within {quota} {kind} together; Ctrl-C ends it")
        running = asyncio.ensure_future(loop.run(_Printer(kind, every_s)))
        ended_by: list[int] = []

        def end(number: int) -> None:
            ended_by.append(number)
            running.cancel()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, end, number)
        try:
            await running
        except asyncio.CancelledError:
            note("ended: each disk keeps its share by weight as a fixed limit")
    raise typer.Exit(128 + ended_by[0])


class _Printer:
    """Prints one line every so often, and every departure at once."""

    def __init__(self, kind: str, every_s: float) -> None:
        self._unit = units.IOPS if kind == "iops" else units.BYTES_PER_S
        self._every_s = every_s
        self._next_s = 0.0

    def __call__(self, tick: Tick) -> None:
        import time

        for name, why in tick.dropped.items():
            note(f"{name} left the pool: {why}")
        now = time.monotonic()
        if now < self._next_s:
            return
        self._next_s = now + self._every_s
        parts = [
            f"{name} {self._shown(use.used_per_s)} of {self._shown(use.limit_per_s)}"
            + (f" -> {self._shown(tick.shares[name].limit_per_s)} ({tick.shares[name].reason})")
            for name, use in tick.uses.items()
        ]
        sys.stdout.write("; ".join(parts) + "\n")
        sys.stdout.flush()

    def _shown(self, value: float) -> str:
        return units.format_value(self._unit, round(value))
