"""Which of a VM's monitor sockets to use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ringfence.cli.monitor_console import HmpOverQmp, OnScreen, PlainHmp, QmpConsole
from ringfence.engine.doors import open_session
from ringfence.errors import HostError, MonitorBusyError, MonitorError, MonitorProtocolError, TenantError
from ringfence.qemu.managers import LIBVIRT

if TYPE_CHECKING:
    from ringfence.cli.monitor_console import Console, Sent
    from ringfence.core.model import Address, Vm

_HEAD_START_S = 0.3
"""How long the QMP sockets may keep us before a human monitor's own is tried beside them."""


async def open_console(
    vm: Vm, address: Address | None = None, *, qmp: bool, sent: Sent | None = None, timeout_s: float = 2.0
) -> Console:
    """Open QMP, or HMP by the first way that lets us in: over a QMP socket, else on a socket of its own.

    :param address: use this socket of the VM only, whichever of the two speaks there.
    :param sent: is told each QMP command as it goes over the wire.
    :param timeout_s: how long each socket may take to greet.
    :raise TenantError: the VM has no socket of the kind needed.
    :raise MonitorBusyError: other clients are being served on all of them.
    :raise MonitorError: none can be reached; says why not the first one.
    """
    if address is not None:
        mux = any(monitor.mux for monitor in vm.monitors if monitor.address == address)
        if mux and not qmp:
            return await _plain_hmp(address, timeout_s, mux)
        return await (_qmp_at(address, sent, timeout_s) if qmp else _hmp_at(address, sent, timeout_s))
    if qmp:
        return QmpConsole(await open_session(vm, timeout_s=timeout_s), sent)
    ways: list[Callable[[], Coroutine[Any, Any, Console]]] = []
    if vm.qmp_addresses or vm.manager == LIBVIRT:
        ways.append(partial(_over_qmp, vm, sent, timeout_s))
    human = [(m.address, m.mux) for m in vm.monitors if m.kind == "hmp" and m.address is not None]
    ways += [partial(_plain_hmp, own, timeout_s, mux) for own, mux in sorted(human, key=lambda way: way[1])]
    if not ways:
        raise _no_socket(vm)
    return await _first_to_greet(ways)


async def open_vnc(where: str, password_file: str | None) -> Console:
    """The human monitor on a console shown by QEMU's VNC server.

    :param password_file: its first line is the password; None for a server without.
    :raise UsageError: `where` is no VNC server's place, or the password is missing or wrong.
    :raise HostError: the file cannot be read.
    :raise TenantError: no console has the monitor on it.
    :raise MonitorError: the server cannot be reached, or does not let us in.
    """
    from ringfence.qemu.screen import ScreenMonitor
    from ringfence.qemu.vnc_screen import VncScreen, parse_vnc

    address = parse_vnc(where)
    password = None if password_file is None else _first_line(password_file)
    return OnScreen(await ScreenMonitor.open(await VncScreen.open(address, password=password)))


async def open_tmux(target: str) -> Console:
    """The human monitor of a QEMU whose `-display curses` is in a pane of tmux.

    :raise UsageError: there is no such pane.
    :raise TenantError: no console has the monitor on it.
    :raise MonitorError: tmux cannot be run.
    """
    from ringfence.qemu.screen import ScreenMonitor
    from ringfence.qemu.tmux_screen import TmuxScreen

    return OnScreen(await ScreenMonitor.open(await TmuxScreen.open(target)))


def _first_line(path: str) -> str:
    try:
        with open(path) as file:
            return file.readline().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise HostError(f"{path}: {error}", path=path, hint="its first line is the password") from None


async def _over_qmp(vm: Vm, sent: Sent | None, timeout_s: float) -> Console:
    return HmpOverQmp(await open_session(vm, timeout_s=timeout_s), sent)


async def _plain_hmp(address: Address, timeout_s: float, mux: bool = False) -> Console:
    from ringfence.qemu.hmp import HmpSession

    return PlainHmp(await HmpSession.open(address, timeout_s=timeout_s, mux=mux))


async def _qmp_at(address: Address, sent: Sent | None, timeout_s: float) -> Console:
    from ringfence.qemu.session import Session

    return QmpConsole(await Session.open(address, timeout_s=timeout_s), sent)


async def _hmp_at(address: Address, sent: Sent | None, timeout_s: float) -> Console:
    from ringfence.qemu.session import Session

    try:
        return HmpOverQmp(await Session.open(address, timeout_s=timeout_s), sent)
    except MonitorProtocolError:
        return await _plain_hmp(address, timeout_s)


async def _first_to_greet(ways: Sequence[Callable[[], Coroutine[Any, Any, Console]]]) -> Console:
    """Try one way after the other, each with a head start on the next, not waiting for a silent one to fail."""
    tried: list[asyncio.Task[Console]] = []
    errors: list[MonitorError] = []
    try:
        while len(errors) < len(ways):
            if len(tried) < len(ways):
                tried.append(asyncio.create_task(ways[len(tried)]()))
            done, _ = await asyncio.wait(
                [task for task in tried if not task.done()],
                timeout=_HEAD_START_S if len(tried) < len(ways) else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                try:
                    console = task.result()
                except MonitorError as error:
                    errors.append(error)
                else:
                    tried.remove(task)
                    return console
    finally:
        for task in tried:
            task.cancel()
        for late in await asyncio.gather(*tried, return_exceptions=True):
            if not isinstance(late, BaseException):
                await late.close()
    busy = [error for error in errors if isinstance(error, MonitorBusyError)]
    raise (busy or errors)[0]


def _no_socket(vm: Vm) -> TenantError:
    where = ", ".join(monitor.where for monitor in vm.monitors)
    return TenantError(
        f"VM {vm.name!r} has no monitor on a socket" + (f", only on {where}" if where else ""),
        hint="start it with -qmp unix:/run/NAME.qmp,server=on,wait=off",
    )
