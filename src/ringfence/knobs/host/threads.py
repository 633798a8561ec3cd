"""PURE: which thread of a QEMU does what: by their names where it gives them some, else by its own word."""

from __future__ import annotations

from typing import Any

from ringfence.core.answers import entries, number
from ringfence.core.host import IOTHREAD_PREFIX, OTHER, VCPU_PREFIX, Task
from ringfence.core.requests import Qmp, Steps, Tasks
from ringfence.errors import RingfenceError

UNKNOWN = (
    "which of its threads are vCPUs is not known: its monitor does not answer, and it has no debug-threads=on"
)


def tasks(controller: str = "") -> Steps[tuple[Task, ...]]:
    """The VM's threads with their roles; vCPUs that share one thread are the first of them.

    Without names, and without a monitor that answers, no thread has the role of a vCPU.
    """
    found: tuple[Task, ...] = yield Tasks(controller)
    if any(task.role.startswith(VCPU_PREFIX) for task in found):
        return found
    roles: dict[int, str] = {}
    try:
        cpus, iothreads = yield [Qmp("query-cpus-fast"), Qmp("query-iothreads")]
    except RingfenceError:
        return found
    for cpu in reversed(entries(cpus)):
        roles[number(cpu["thread-id"])] = f"{VCPU_PREFIX}{number(cpu['cpu-index'])}"
    for iothread in entries(iothreads):
        roles[number(iothread["thread-id"])] = f"{IOTHREAD_PREFIX}{iothread['id']}"
    return tuple(task._replace(role=_role(task, roles)) for task in found)


def _role(task: Task, roles: dict[int, Any]) -> str:
    return str(roles.get(task.tid, task.role)) if task.role == OTHER else task.role


def vcpus(found: tuple[Task, ...]) -> dict[int, Task]:
    """The vCPUs' threads by their number, in order."""
    by_number = {
        int(task.role.removeprefix(VCPU_PREFIX)): task for task in found if task.role.startswith(VCPU_PREFIX)
    }
    return dict(sorted(by_number.items()))
