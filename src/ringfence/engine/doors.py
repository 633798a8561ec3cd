"""Getting in: which of a VM's sockets to use, and what to say when none lets us."""

from __future__ import annotations

from ringfence.core.model import Vm
from ringfence.errors import MonitorBusyError, MonitorError, TenantError
from ringfence.qemu.session import Session


async def open_session(vm: Vm, *, timeout_s: float = 2.0) -> Session:
    """A QMP session on the first of the VM's sockets that greets.

    :raise TenantError: the VM has no QMP socket.
    :raise MonitorBusyError: every socket is held by another client.
    :raise MonitorError: no socket can be reached; the last reason is given.
    """
    if not vm.qmp_addresses:
        raise TenantError(
            f"VM {vm.name!r} has no QMP socket",
            hint="start it with -qmp unix:/run/NAME.qmp,server=on,wait=off"
            + ("; its human monitor works with `ringfence monitor`" if vm.hmp_addresses else ""),
        )
    errors: list[MonitorError] = []
    for address in vm.qmp_addresses:
        try:
            return await Session.open(address, timeout_s=timeout_s)
        except MonitorError as error:
            errors.append(error)
    busy = [error for error in errors if isinstance(error, MonitorBusyError)]
    raise busy[-1] if busy else errors[-1]
