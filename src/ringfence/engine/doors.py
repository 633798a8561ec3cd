"""Getting in: which of a VM's sockets to use, and what to say when none lets us."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ringfence.core.model import Address, Vm
from ringfence.errors import MonitorBusyError, MonitorError, TenantError
from ringfence.qemu.managers import INCUS, LIBVIRT, PROXMOX, is_own_socket

if TYPE_CHECKING:
    import asyncio

    from ringfence.qemu.brief import BriefSession
    from ringfence.qemu.door import QmpDoor
    from ringfence.qemu.session import Session

GREETING_TIMEOUT_S = 2.0
"""A hundred times what a free monitor takes; who holds one for a burst of commands has left it by then."""

_HEAD_START_S = 0.02
"""A free monitor greets within a millisecond or two; who has not by then may be serving somebody else."""

_BRIEFLY_S = 0.2
"""On a busy host a free monitor may take a while, too; to load what waits better takes half as long."""

_INCUS_OWN = "/qemu.monitor"
_MANAGERS_ADVICE = {
    INCUS: 'Give the VM a second monitor and restart it: incus config set {name} raw.qemu="-qmp '
    'unix:/run/incus/{name}/ringfence.qmp,server=on,wait=off"',
    PROXMOX: "Proxmox takes this monitor for a moment now and then; who holds it longer (`qm monitor`) has "
    "to end, or the VM needs a second one: qm set VMID --args "
    "'-qmp unix:/run/qemu-server/VMID-ringfence.qmp,server=on,wait=off'",
}
_MANAGERS_OWN = ("/var/lib/libvirt/", "/run/libvirt/", "/var/run/qemu-server/", "/run/qemu-server/")


async def open_session(vm: Vm, *, timeout_s: float = GREETING_TIMEOUT_S) -> QmpDoor:
    """A way to the VM's QMP: the first socket that greets, a manager's own tried last.

    A VM of libvirt is asked through libvirtd when it has no other socket that greets, and libvirt's own socket is
    tried only when that fails: who queues there takes the monitor from libvirtd when that is started again.

    :raise TenantError: the VM has no QMP socket.
    :raise MonitorBusyError: every socket is held by another client; the hint names it where it can be seen.
    :raise MonitorError: no socket can be reached; the first reason is given.
    """
    if vm.manager == LIBVIRT and vm.uuid:
        return await _beside_libvirt(vm, timeout_s)
    if not vm.qmp_addresses:
        raise _no_socket(vm)
    addresses = sorted(vm.qmp_addresses, key=lambda address: _is_managers(vm, address))
    try:
        if vm.manager == INCUS:
            addresses = _not_held(vm, addresses)
        return await _any_of(addresses, timeout_s)
    except MonitorBusyError as busy:
        advice = _MANAGERS_ADVICE.get(vm.manager, "").format(name=vm.name)
        busy.hint = f"{_holders(vm.qmp_addresses, vm.pid)}{advice or busy.hint}"
        raise


def _is_managers(vm: Vm, address: Address) -> bool:
    """Whether a socket is the one that its manager made for itself."""
    return address.path.startswith(_MANAGERS_OWN) or (vm.manager == INCUS and address.path.endswith(_INCUS_OWN))


def _not_held(vm: Vm, addresses: Sequence[Address]) -> list[Address]:
    """Without a socket that incusd is served on: it never lets go, and who queues there would be served next.

    :raise MonitorBusyError: no other is left.
    """
    from ringfence.host.socket_table import BUSY, SocketTable

    table = SocketTable()
    free = [a for a in addresses if not _is_managers(vm, a) or table.state(a, vm.pid) != BUSY]
    if not free:
        raise MonitorBusyError(f"{addresses[0]}: incusd is being served there")
    return free


def open_briefly(vm: Vm, *, timeout_s: float = GREETING_TIMEOUT_S) -> BriefSession | None:
    """A session without an event loop on a socket that is no manager's; None when none greets at once."""
    from ringfence.qemu.brief import BriefSession

    patience_s = min(timeout_s, _BRIEFLY_S / len(vm.qmp_addresses)) if vm.qmp_addresses else 0.0
    for address in vm.qmp_addresses:
        if address.path and not _is_managers(vm, address) and not is_own_socket(address):
            try:
                return BriefSession.open(address, timeout_s=patience_s)
            except MonitorError:
                continue
    return None


def _holders(addresses: Sequence[Address], pid: int) -> str:
    """Which processes are being served on these sockets, as a sentence; empty when that cannot be seen."""
    from ringfence.host.socket_table import SocketTable

    table = SocketTable()
    found = [table.holder(address, pid) for address in addresses]
    names = dict.fromkeys(f"{name} (pid {holder})" for holder, name in filter(None, found))
    return f"Held by {', '.join(names)}. " if names else ""


async def _beside_libvirt(vm: Vm, timeout_s: float) -> QmpDoor:
    others = [address for address in vm.qmp_addresses if not is_own_socket(address)]
    own = [address for address in vm.qmp_addresses if is_own_socket(address)]
    if others:
        try:
            return await _any_of(others, timeout_s)
        except MonitorError:
            pass  # libvirtd is another way to the same QEMU; what it says is what counts
    return await open_through_libvirtd(vm, own, timeout_s=timeout_s)


async def open_through_libvirtd(
    vm: Vm, own: Sequence[Address] = (), *, timeout_s: float = GREETING_TIMEOUT_S
) -> QmpDoor:
    """A way to the QMP of a VM of libvirt by libvirtd.

    :param own: sockets that libvirt made for itself, tried when libvirtd does not help.
    :raise MonitorError: neither lets us in.
    """
    from ringfence.qemu.libvirt import LibvirtSession

    try:
        return await LibvirtSession.open(vm, timeout_s=timeout_s)
    except MonitorError as through_libvirt:
        if not own:
            raise
        try:
            return await _any_of(own, timeout_s)
        except MonitorBusyError as busy:
            busy.hint = f"libvirtd holds it, and through libvirtd: {through_libvirt}. {through_libvirt.hint}"
            raise


async def _any_of(addresses: Sequence[Address], timeout_s: float) -> Session:
    from ringfence.qemu.session import Session

    if len(addresses) == 1:
        return await Session.open(addresses[0], timeout_s=timeout_s)
    return await _first_to_greet(addresses, timeout_s)


def _no_socket(vm: Vm) -> TenantError:
    human = "; its human monitor works with `ringfence monitor`" if vm.hmp_addresses else ""
    return TenantError(
        f"VM {vm.name!r} has no QMP socket",
        hint=f"start it with -qmp unix:/run/NAME.qmp,server=on,wait=off{human}",
    )


async def _first_to_greet(addresses: Sequence[Address], timeout_s: float) -> Session:
    """Try one socket after the other, each with a head start on the next, not waiting for a silent one to fail."""
    import asyncio

    from ringfence.qemu.session import Session

    waiting = list(addresses)
    running: set[asyncio.Task[Session]] = set()
    errors: list[MonitorError] = []
    late: set[Session] = set()
    try:
        while waiting or running:
            if waiting:
                running.add(asyncio.ensure_future(Session.open(waiting.pop(0), timeout_s=timeout_s)))
            done, running = await asyncio.wait(
                running, timeout=_HEAD_START_S if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            sessions = [task.result() for task in done if not task.exception()]
            errors += [error for task in done if isinstance(error := task.exception(), MonitorError)]
            if sessions:
                late.update(sessions[1:])
                return sessions[0]
    finally:
        for task in running:
            task.cancel()
        late.update(s for s in await asyncio.gather(*running, return_exceptions=True) if isinstance(s, Session))
        for session in late:
            await session.close()
    busy = [error for error in errors if isinstance(error, MonitorBusyError)]
    raise (busy or errors)[0]
