"""Which of a VM's monitor sockets to use."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from ringfence.cli.monitor_console import HmpOverQmp, PlainHmp, QmpConsole
from ringfence.errors import MonitorBusyError, MonitorError, MonitorProtocolError, TenantError
from ringfence.qemu.session import Session

if TYPE_CHECKING:
    from ringfence.cli.monitor_console import Console, Sent
    from ringfence.core.model import Address, Vm

GREETING_S = 2.0
"""QEMU greets within a millisecond when idle, within 0.1 s when short of CPU; later, it serves somebody else."""

_HEAD_START_S = 0.3
"""How long one socket may keep us before the next one is tried beside it."""


async def open_console(vm: Vm, address: Address | None = None, *, qmp: bool, sent: Sent | None = None) -> Console:
    """Open QMP, or HMP by the first way that lets us in: over a QMP socket, else on a socket of its own.

    :param address: use this socket only, whichever of the two speaks there.
    :param sent: is told each QMP command as it goes over the wire.
    :raise TenantError: the VM has no socket of the kind needed.
    :raise MonitorBusyError: other clients are being served on all of them.
    :raise MonitorError: none can be reached; says why not the first one.
    """
    if address is not None:
        return await (_plain_qmp(address, sent) if qmp else _either(address, sent))
    enter = _plain_qmp if qmp else _over_qmp
    ways = [partial(enter, address, sent) for address in vm.qmp_addresses]
    if not qmp:
        ways += [partial(_plain_hmp, address) for address in vm.hmp_addresses]
    if not ways:
        raise _no_socket(vm, qmp)
    return await _first(ways)


async def _plain_qmp(address: Address, sent: Sent | None) -> Console:
    return QmpConsole(await Session.open(address, timeout_s=GREETING_S), sent)


async def _over_qmp(address: Address, sent: Sent | None) -> Console:
    return HmpOverQmp(await Session.open(address, timeout_s=GREETING_S), sent)


async def _plain_hmp(address: Address) -> Console:
    from ringfence.qemu.hmp import HmpSession

    return PlainHmp(await HmpSession.open(address, timeout_s=GREETING_S))


async def _either(address: Address, sent: Sent | None) -> Console:
    try:
        return await _over_qmp(address, sent)
    except MonitorProtocolError:
        return await _plain_hmp(address)


async def _first(ways: Sequence[Callable[[], Awaitable[Console]]]) -> Console:
    """The first console to open, each way with a head start on the next; the others are given back."""
    tasks: list[asyncio.Future[Console]] = []
    try:
        for way in ways:
            tasks.append(asyncio.ensure_future(way()))
            await asyncio.wait(tasks[-1:], timeout=_HEAD_START_S)
            if any(_is_open(task) for task in tasks):
                break
        waiting = [task for task in tasks if not task.done()]
        while waiting and not any(_is_open(task) for task in tasks):
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            waiting = [task for task in tasks if not task.done()]
        chosen = next((task for task in tasks if _is_open(task)), None)
        if chosen is not None:
            tasks.remove(chosen)
            return chosen.result()
        raise _why(tasks)
    finally:
        await _give_back(tasks)


def _is_open(task: asyncio.Future[Console]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


async def _give_back(tasks: Sequence[asyncio.Future[Console]]) -> None:
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if not isinstance(result, BaseException):
            await result.close()


def _why(tasks: Sequence[asyncio.Future[Console]]) -> BaseException:
    errors = [error for error in (task.exception() for task in tasks) if error is not None]
    unforeseen = [error for error in errors if not isinstance(error, MonitorError)]
    busy = [error for error in errors if isinstance(error, MonitorBusyError)]
    return (unforeseen or busy or errors)[0]


def _no_socket(vm: Vm, qmp: bool) -> TenantError:
    hint = "start it with -qmp unix:/run/NAME.qmp,server=on,wait=off"
    if qmp:
        only = "; its human monitor works without --qmp" if vm.hmp_addresses else ""
        return TenantError(f"VM {vm.name!r} has no QMP socket", hint=hint + only)
    where = ", ".join(monitor.where for monitor in vm.monitors)
    return TenantError(
        f"VM {vm.name!r} has no monitor on a socket" + (f", only on {where}" if where else ""), hint=hint
    )
