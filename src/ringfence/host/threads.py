"""The threads of a tenant and what each is for.

Source: QEMU names its threads with `-name debug-threads=on`: `CPU 0/KVM`, `CPU 0/TCG`, `IO iothread1`; the
kernel's vhost workers are called `vhost-PID`: kernel threads up to Linux 6.3, threads of the process since.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence

from ringfence.core.host import EMULATOR, IOTHREAD_PREFIX, OTHER, VCPU_PREFIX, VHOST, Task
from ringfence.host import files

_VCPU = re.compile(r"CPU (\d+)(/|$)")


def tasks(root: str, pids: Sequence[int], *, vm: bool) -> tuple[Task, ...]:
    """Every thread of these processes, in order of their ids; those that end meanwhile are left out.

    :param vm: whether they are QEMU's: then each has a role.
    """
    found: list[Task] = []
    for pid in pids:
        for name in sorted(filter(str.isdigit, files.names(f"{root}/proc/{pid}/task")), key=int):
            comm = files.text(f"{root}/proc/{pid}/task/{name}/comm").rstrip("\n")
            if comm:
                found.append(Task(int(name), comm, _role(comm, int(name), pid) if vm else OTHER))
        if vm:
            found += _kernel_workers(root, pid)
    return tuple(found)


def _role(comm: str, tid: int, pid: int) -> str:
    if tid == pid:
        return EMULATOR
    if match := _VCPU.match(comm):
        return f"{VCPU_PREFIX}{match[1]}"
    if comm.startswith("IO "):
        return f"{IOTHREAD_PREFIX}{comm.removeprefix('IO ')}"
    return VHOST if comm.startswith("vhost-") else OTHER


def _kernel_workers(root: str, pid: int) -> Iterator[Task]:
    """vhost's kernel threads for a process, looked for only when it has a vhost device open."""
    if not any(_is_vhost(f"{root}/proc/{pid}/fd/{fd}") for fd in files.names(f"{root}/proc/{pid}/fd")):
        return
    name = f"vhost-{pid}"
    for other in filter(str.isdigit, files.names(f"{root}/proc")):
        if files.text(f"{root}/proc/{other}/comm").rstrip("\n") == name:
            yield Task(int(other), name, VHOST)


def _is_vhost(link: str) -> bool:
    try:
        return os.readlink(link).startswith("/dev/vhost-")
    except OSError:
        return False
