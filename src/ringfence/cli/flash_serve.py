"""`ringfence flash serve`: virtual SSDs for running VMs, over NBD."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.cli.output import note

if TYPE_CHECKING:
    from ringfence.flash.geometry import Device
    from ringfence.flash.serve.server import Server
    from ringfence.flash.vssd import VirtualSsd


def register(app: typer.Typer) -> None:
    """Add the verb to `flash`."""
    app.command()(serve)


def serve(
    directory: Annotated[Path, typer.Argument(help="For data, state and sockets; kept.", show_default=False)],
    vssd: Annotated[
        list[str],
        typer.Option(
            help="NAME,size=1GiB[,channels=0-3][,chips=0-1][,isolation=channel|die|none]; once for each.",
            show_default=False,
        ),
    ],
    device: Annotated[str, typer.Option(help="The SSD: a preset of `flash sim`.")] = "vd16",
    slower: Annotated[float, typer.Option(help="All its flash and buses slower by this factor.")] = 1.0,
    instant: Annotated[bool, typer.Option(help="Answer at once, without the model: for measuring.")] = False,
) -> None:
    """Serve virtual SSDs that share one modelled SSD, until SIGTERM or Ctrl-C. Their sockets: DIRECTORY/NAME.sock

    A VM takes one by `ringfence run --disk 'nbd+unix:///?socket=DIRECTORY/NAME.sock'`. Data is safe after a
    guest's flush. Served again from the same directory, the SSD is what it was: its data, where its pages are, how
    worn its blocks.
    """
    import asyncio

    from ringfence.flash import presets
    from ringfence.flash.online import scaled
    from ringfence.flash.serve import spec

    chosen = scaled(presets.preset(device), slower)
    tenants = [spec.parse(text, chosen) for text in vssd]
    spec.check(tenants)
    server = _server(directory, chosen, tenants, instant=instant)
    for tenant in tenants:
        rates = f"up to {tenant.bandwidth.read / 1e6:.0f} MB/s read, {tenant.bandwidth.write / 1e6:.0f} MB/s write"
        where = f"{len(tenant.dies)} dies on {len(tenant.channels)} channels"
        note(f"{tenant.name}: {tenant.isolation}, {where}, {rates}")
        note(f"  nbd+unix:///?socket={server.store.socket(tenant.name)}")
    asyncio.run(_until_told(server))


def _server(directory: Path, device: Device, tenants: list[VirtualSsd], *, instant: bool) -> Server:
    from ringfence.flash.online import OnlineDevice
    from ringfence.flash.serve.server import Export, Server
    from ringfence.flash.serve.store import Store

    directory = directory.absolute()
    model = None if instant else OnlineDevice(device, tenants)
    identity = {"device": device._asdict(), "virtual_ssds": [tenant._asdict() for tenant in tenants]}
    store = Store(directory, identity, {tenant.name: tenant.capacity_bytes for tenant in tenants})
    if model is not None:
        model.restore(store.load(len(model.pools)))
    exports = [Export(tenant.name, number, tenant.capacity_bytes) for number, tenant in enumerate(tenants)]
    return Server(model, exports, store)


async def _until_told(server: Server) -> None:
    import asyncio
    import signal

    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    await server.start()
    note("serving; Ctrl-C ends it")
    try:
        await told.wait()
    finally:
        await server.stop()
    note(f"served {server.served} requests; all is on disk")
