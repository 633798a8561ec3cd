"""Where a tenant stands in the cgroup hierarchies, and whether what is there is its own.

A VM's group is the one its manager made for it: the processes in it, and below it, are that VM's only. A process
among others (in a login session, in a service that starts VMs) has no group of its own yet.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence

from ringfence.core.host import OURS, Group, Placement
from ringfence.host import files
from ringfence.host.hierarchies import Hierarchy, mounted, paths_of

_INNER = re.compile(r"emulator|vcpu\d+|iothread\d+|libvirt|ringfence-vcpus|payload|supervisor|init\.scope")
"""Groups inside of a tenant's own: libvirt's, systemd-nspawn's and ours."""

_VM_UNIT = re.compile(r"machine-(qemu|lxc).*\.scope|ringfence-.*\.scope|\d+\.scope")
"""Scopes that a manager makes for one VM: libvirt's, ours, Proxmox's (below `qemu.slice`)."""

_UNIT = re.compile(r".+\.(scope|service|slice)")
_UNSAFE = re.compile(r"[^A-Za-z0-9_.]+")


def systemd_runs(root: str) -> bool:
    """Whether systemd is this host's init; see sd_booted(3)."""
    return os.path.isdir(f"{root}/run/systemd/system")


def label_of(name: str, pid: int) -> str:
    """What to call a group of a tenant's: no unit's or folder's name is spoilt by it, and no two are the same."""
    return f"{_UNSAFE.sub('_', name).strip('._')[:40] or 'vm'}-{pid}"


def of_process(root: str, pid: int, name: str) -> Placement:
    """The placement of a VM's process; without groups when it has gone."""
    systemd = systemd_runs(root)
    hierarchies = mounted(root)
    groups = [
        _group(root, hierarchy, path, pid, systemd) for hierarchy, path in paths_of(root, pid, hierarchies).items()
    ]
    return Placement(tuple(groups), (pid,) if groups else (), label_of(name, pid), systemd)


def of_group(root: str, path: str, pid: int, name: str) -> Placement:
    """The placement of a container: its group is its own by definition, in each hierarchy that has it.

    :param path: below the mounts; `pid` is a process in it, which tells its place in each hierarchy, 0 for none.
    """
    systemd = systemd_runs(root)
    hierarchies = mounted(root)
    places = paths_of(root, pid, hierarchies) if pid else {}
    groups = []
    for hierarchy in hierarchies:
        place = _cut(places[hierarchy], path) if hierarchy in places else path
        if place != "/" and os.path.isdir(hierarchy.mount + place):
            groups.append(_dedicated(hierarchy, place, systemd))
    pids = _processes(groups, pid)
    return Placement(tuple(groups), pids, label_of(name, pid), systemd, virtual=False)


def _cut(place: str, path: str) -> str:
    """`place`, without what the container has made below its own group: that ends as `path` does."""
    last = path.rsplit("/", 2)[-2:] if path.endswith("/container") else path.rsplit("/", 1)[-1:]
    parts = place.split("/")
    for end in range(len(parts), 0, -1):
        if parts[end - len(last) : end] == last:
            return "/".join(parts[:end])
    return place


def _processes(groups: Sequence[Group], first: int) -> tuple[int, ...]:
    """Every process of a container, by the group that has them all."""
    found: set[int] = set()
    for group in groups:
        found |= set(_in_subtree(group.folder))
        if found:
            break
    return tuple(sorted(found, key=lambda pid: (pid != first, pid)))


def _group(root: str, hierarchy: Hierarchy, path: str, pid: int, systemd: bool) -> Group:
    own = _own(root, hierarchy, path, pid)
    if own is not None:
        return _dedicated(hierarchy, own, systemd)
    base = path if hierarchy.version == 1 else _base(hierarchy, path)
    controllers = hierarchy.controllers
    if hierarchy.version == 2:
        controllers = tuple(files.text(f"{hierarchy.mount}{base}/cgroup.controllers").split())
    return Group(
        hierarchy.version, controllers, hierarchy.mount, path, False, base=base, read_only=hierarchy.read_only
    )


def _dedicated(hierarchy: Hierarchy, path: str, systemd: bool) -> Group:
    controllers = hierarchy.controllers
    if hierarchy.version == 2:
        controllers = tuple(files.text(f"{hierarchy.mount}{path}/cgroup.controllers").split())
    last = path.rsplit("/", 1)[-1]
    unit = last if systemd and _UNIT.fullmatch(last) else ""
    return Group(hierarchy.version, controllers, hierarchy.mount, path, True, unit, path, hierarchy.read_only)


def _own(root: str, hierarchy: Hierarchy, path: str, pid: int) -> str | None:
    """The group that is this process's alone, from the outermost that can be; None when it shares every one."""
    parts = path.split("/")
    while len(parts) > 1 and _INNER.fullmatch(parts[-1]):
        parts.pop()
    own = "/".join(parts)
    if own == "":
        return None
    if _VM_UNIT.fullmatch(parts[-1]) or parts[-1].startswith(f"{OURS}-"):
        return own
    if parts[-1].endswith(".slice"):
        return None
    return own if _only_family(root, _in_subtree(hierarchy.mount + own), pid) else None


def _only_family(root: str, found: Iterable[int], pid: int) -> bool:
    """Whether these processes are `pid` and its children: helpers that QEMU or its manager started for it."""
    return all(other == pid or _parent(root, other) == pid for other in found)


def _parent(root: str, pid: int) -> int:
    after = files.text(f"{root}/proc/{pid}/stat").rpartition(")")[2].split()
    return int(after[1]) if len(after) > 1 else 0


def _in_subtree(folder: str) -> list[int]:
    """Processes in a group and below it. In a threaded group only the group at its top names them."""
    found = files.numbers(files.text(f"{folder}/cgroup.procs"))
    for name in files.folders(folder):
        found += _in_subtree(f"{folder}/{name}")
    return found


def _base(hierarchy: Hierarchy, path: str) -> str:
    """The nearest group above, or this one, that has no processes of its own: only such a one can have groups."""
    while path not in ("", "/") and files.text(f"{hierarchy.mount}{path}/cgroup.procs").strip():
        path = path.rpartition("/")[0]
    return path or "/"
