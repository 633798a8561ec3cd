"""Which VM a command is about: by name, UUID, pid or socket; and how long it may take to answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from ringfence import units
from ringfence.errors import UsageError

if TYPE_CHECKING:
    from ringfence.core.model import Address, Tenant, Vm

VM_HELP = "name, UUID or pid of the VM, or the path or HOST:PORT of its QMP socket"
TENANT_HELP = f"{VM_HELP}; or container:NAME, or cgroup:/PATH"
CONTAINER_PREFIXES = ("container:", "cgroup:")
QMP_HELP = "path or HOST:PORT of a QMP socket, instead of VM"
TIMEOUT_HELP = "how long QEMU may take to greet us, and to answer [default: 2s, and 5s]"


class Deadlines(TypedDict, total=False):
    """Keywords of `ringfence.engine.api.open_vm`; its own defaults hold for what is left out."""

    greeting_timeout_s: float
    answer_timeout_s: float


def timeout(text: str) -> float:
    """The value of a `--timeout` in seconds.

    :raise UsageError: it is no duration, or nothing can be done in it.
    """
    try:
        seconds = units.parse_seconds(text)
    except UsageError as error:
        raise UsageError(f"--timeout: {error.message}", hint=error.hint) from None
    if seconds <= 0:
        raise UsageError(f"--timeout {text} leaves no time at all", hint="write 10s, 500ms or 2min")
    return seconds


def deadlines(text: str | None, *, at_most: bool = False) -> Deadlines:
    """What QEMU itself is allowed by a `--timeout`, None when none was given.

    :param at_most: the time is not QEMU's alone: less than the defaults shortens them, more changes nothing.
    :raise UsageError: as in `timeout`.
    """
    if text is None:
        return {}
    seconds = timeout(text)
    if not at_most:
        return {"greeting_timeout_s": seconds, "answer_timeout_s": seconds}
    from ringfence.engine.doors import GREETING_TIMEOUT_S
    from ringfence.engine.driver import ANSWER_TIMEOUT_S

    return {
        "greeting_timeout_s": min(seconds, GREETING_TIMEOUT_S),
        "answer_timeout_s": min(seconds, ANSWER_TIMEOUT_S),
    }


def find_tenant(selector: str | None, qmp: str | None = None) -> Tenant:
    """As `find`, for commands that work on containers too: `container:NAME`, `cgroup:/PATH`.

    :raise UsageError: as `find`.
    """
    if selector is not None and qmp is None and selector.startswith(CONTAINER_PREFIXES):
        from ringfence.host import containers

        return containers.find(selector)
    return find(selector, qmp)


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
    address = socket_named(selector)
    return discovery.find_vm(selector) if address is None else discovery.vm_at(address)


def socket_named(selector: str) -> Address | None:
    """The socket when a VM is named by one: a path with a `/` in it, or HOST:PORT; None for any other name.

    :raise UsageError: it can only be meant as a socket, and is none.
    """
    from ringfence.qemu import discovery

    host, _, port = selector.rpartition(":")
    if "/" in selector or (host not in ("", "pid") and port.isdecimal()):
        return discovery.parse_address(selector)
    return None
