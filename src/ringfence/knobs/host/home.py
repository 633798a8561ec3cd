"""PURE: the group that a tenant's limits go into, and what makes it where the tenant has none of its own.

* A group that somebody made for the tenant is used as it is.
* A VM among other processes gets one: of systemd, a scope; else a group `ringfence-NAME-PID`. On v1 it lies below
  the group it is in now, so that what its parents allow goes on to hold; on v2, where a group with processes can
  have none below, under the nearest group without.
"""

from __future__ import annotations

from typing import NamedTuple

from ringfence.core.host import OURS, Group, Placement
from ringfence.core.requests import HostRequest, MakeDir, RemoveDir, Systemd, WriteFile

SLICE = "machine.slice"
"""systemd's place for VMs and containers, systemd.special(7)."""


class Do(NamedTuple):
    """One step of a change, and what takes it back."""

    request: HostRequest
    undo: HostRequest | None = None


class Home(NamedTuple):
    """Where a tenant's limits of one controller are.

    :param folder: of the group; it may have to be made first, by `making`.
    :param unit: the systemd unit to be told instead of writing; empty where we write.
    """

    folder: str
    version: int
    unit: str
    making: tuple[Do, ...] = ()

    @property
    def exists(self) -> bool:
        """Whether the group is there already."""
        return not self.making

    def file(self, name: str) -> str:
        """The path of one of its files."""
        return f"{self.folder}/{name}"


def home_of(placement: Placement, controller: str) -> Home | None:
    """Where limits of this controller go; None where the host has no such controller."""
    group = placement.group(controller)
    if group is None:
        return None
    if group.dedicated:
        return Home(group.folder, group.version, group.unit)
    if placement.systemd:
        unit = f"{OURS}-{placement.label}.scope"
        return Home(f"{group.mount}/{SLICE}/{unit}", group.version, unit, _scope(placement, unit))
    return _own_group(placement, group, controller)


def why_not(placement: Placement, controller: str) -> str:
    """Why there can be no limits of this controller; empty when there can."""
    group = placement.group(controller)
    if placement.absent:
        return placement.absent
    if group is None:
        return f"this host, or the group above the tenant's, has no {controller} controller"
    if group.read_only:
        return f"{group.mount} is mounted read-only here"
    return ""


def _scope(placement: Placement, unit: str) -> tuple[Do, ...]:
    properties = {
        "Description": f"limits set by ringfence for {placement.label}",
        "Slice": SLICE,
        "Delegate": True,
        "PIDs": list(placement.pids),
    }
    return (Do(Systemd("StartTransientUnit", unit, properties)),)


def _own_group(placement: Placement, group: Group, controller: str) -> Home:
    base = group.mount + (group.base if group.base != "/" else "")
    folder = f"{base}/{OURS}-{placement.label}"
    steps: list[Do] = []
    if group.version == 2:
        steps.append(Do(WriteFile(f"{base}/cgroup.subtree_control", f"+{controller}")))
    steps.append(Do(MakeDir(folder), RemoveDir(folder)))
    for pid in placement.pids:
        back = WriteFile(f"{group.folder}/cgroup.procs", str(pid))
        steps.append(Do(WriteFile(f"{folder}/cgroup.procs", str(pid)), back))
    return Home(folder, group.version, "", tuple(steps))
