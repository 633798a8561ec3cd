"""Which VM a command is about: by name, UUID, pid or socket."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ringfence.errors import UsageError

if TYPE_CHECKING:
    from ringfence.core.model import Vm

VM_HELP = "name, UUID or pid of the VM, or the path or HOST:PORT of its QMP socket"
QMP_HELP = "path or HOST:PORT of a QMP socket, instead of VM"


def find(selector: str | None, qmp: str | None = None) -> Vm:
    """The VM that a person named.

    :raise UsageError: none or both ways to name it were used, or the name fits no VM or several.
    """
    from ringfence.qemu import discovery

    if qmp is not None:
        if selector is not None:
            raise UsageError(f"both {selector!r} and --qmp name a VM", hint="give one of them")
        return discovery.vm_at(discovery.parse_address(qmp))
    if selector is None:
        raise UsageError("which VM?", hint="`ringfence ps` lists them; --qmp PATH names one by its socket")
    host, _, port = selector.rpartition(":")
    if "/" in selector or (host not in ("", "pid") and port.isdecimal()):
        return discovery.vm_at(discovery.parse_address(selector))
    return discovery.find_vm(selector)
