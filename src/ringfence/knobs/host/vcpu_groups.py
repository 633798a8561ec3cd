"""PURE: groups for a VM's vCPU threads below its own group: caps on them leave the emulator's threads free.

On v1 each thread is in a group by itself; on v2 the groups are threaded, and the VM's own group becomes the top of
a threaded subtree. libvirt makes such groups itself (`vcpu0`, ...): these are used as they are.

Sources: the kernel's cgroup-v2.rst ("Threads"), cgroup-v1/cgroups.rst.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from ringfence.core.host import OURS, Task
from ringfence.core.requests import HostRequest, MakeDir, RemoveDir, WriteFile
from ringfence.knobs.host.home import Do, Home

VCPUS = f"{OURS}-vcpus"
"""Our group for all vCPUs; below it one for each vCPU with a cap of its own: `vcpu0`, ..."""

OF_MANAGER = "its manager keeps each vCPU in a group of its own: set cpu.vcpu.<n>.cap of each"
_ONE = re.compile(r"vcpu\d+")


def of_manager(threads: Mapping[int, Task]) -> bool:
    """Whether somebody else keeps the vCPUs in groups of their own."""
    return any(_is_one(task) and f"/{VCPUS}/" not in task.folder for task in threads.values())


def all_of_them(home: Home, threads: Mapping[int, Task]) -> Home:
    """The group of all vCPUs, to be made when none of them is in it."""
    folder = f"{home.folder}/{VCPUS}"
    if any(f"{task.folder}/".startswith(f"{folder}/") for task in threads.values()):
        return Home(folder, home.version, "")
    making = (*home.making, *_making(home, folder), *_move(home, folder, threads.values()))
    return Home(folder, home.version, "", making)


def one_of_them(home: Home, threads: Mapping[int, Task], index: int) -> Home:
    """The group of one vCPU, to be made, below that of all, when it has none."""
    task = threads[index]
    if _is_one(task):
        return Home(task.folder, home.version, "")
    everyone = all_of_them(home, threads)
    folder = everyone.file(f"vcpu{index}")
    making = (*everyone.making, *_making(everyone, folder), *_move(everyone, folder, [task]))
    return Home(folder, home.version, "", making)


def strays(home: Home, threads: Mapping[int, Task]) -> Sequence[HostRequest]:
    """What brings vCPUs that came later into the group that the others are in."""
    everyone = all_of_them(home, threads)
    if not everyone.exists:
        return []
    late = [task for task in threads.values() if task.folder == home.folder]
    return [step.request for step in _move(home, everyone.folder, late)]


def _is_one(task: Task) -> bool:
    return bool(_ONE.fullmatch(task.folder.rpartition("/")[2]))


def _making(parent: Home, folder: str) -> list[Do]:
    """A threaded group must be one before its parent gives it a controller."""
    steps = [Do(MakeDir(folder), RemoveDir(folder))]
    if parent.version == 2:
        steps.append(Do(WriteFile(f"{folder}/cgroup.type", "threaded")))
        steps.append(Do(WriteFile(parent.file("cgroup.subtree_control"), "+cpu")))
    return steps


def _move(parent: Home, folder: str, tasks: Iterable[Task]) -> list[Do]:
    name = "cgroup.threads" if parent.version == 2 else "tasks"
    return [
        Do(WriteFile(f"{folder}/{name}", str(task.tid)), WriteFile(parent.file(name), str(task.tid)))
        for task in tasks
    ]
