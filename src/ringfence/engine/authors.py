"""Who makes a change, and whether that process is still there; and which process a VM is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ringfence.core.model import Container

if TYPE_CHECKING:
    from ringfence.core.model import Tenant
    from ringfence.engine.journal import Author

_BOOT = "/proc/sys/kernel/random/boot_id"


def started(pid: int) -> str:
    """What tells a process from every other, also after the machine was started again; empty when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        with open(_BOOT, "rb") as file:
            boot = file.read(8).decode()
        return f"{boot}-{fields[19].decode()}"  # proc_pid_stat(5), field 22: start time in ticks since boot
    except (OSError, IndexError):
        return ""


def started_at_s(pid: int) -> float | None:
    """When a process was started, in seconds since 1970; None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            ticks = int(file.read().rpartition(b")")[2].split()[19])
        with open("/proc/stat", encoding="ascii") as file:
            boot_s = next(int(line.split()[1]) for line in file if line.startswith("btime "))
    except (OSError, IndexError, ValueError, StopIteration):
        return None
    return boot_s + ticks / os.sysconf("SC_CLK_TCK")


def user_name() -> str:
    """Who runs this: behind sudo, both."""
    import pwd

    uid = os.getuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    behind = os.environ.get("SUDO_USER", "")
    return f"{name} (for {behind})" if behind and behind != name and behind.isprintable() else name


def me(command: str) -> tuple[str, int, str, str]:
    """This process, as `journal.Author`. :param command: what it was told to do."""
    pid = os.getpid()
    return user_name(), pid, started(pid), command[:400]


def alive(author: Author) -> bool:
    """Whether the process that made a change still runs."""
    return bool(author.started) and started(author.pid) == author.started


def identity(tenant: Tenant) -> str:
    """What tells a VM's process from a later one of the same name; its socket where no process is seen.

    A container's group is the same for as long as it is there.
    """
    if isinstance(tenant, Container):
        return tenant.selector
    if not tenant.pid:
        return str(tenant.qmp_addresses[0]) if tenant.qmp_addresses else tenant.name
    return f"{tenant.pid}-{started(tenant.pid)}"
