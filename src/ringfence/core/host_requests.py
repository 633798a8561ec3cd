"""Requests to the kernel of this host, answered by `ringfence.host.edge`; all of them throw HostError.

They stand apart from QEMU's requests because a short command that needs none should not have to define them:
`ringfence.core.requests` gives them out on first use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias


class ReadFile(NamedTuple):
    """Answer: the text of a file; with `optional`, None when there is none, or it has no value."""

    path: str
    optional: bool = False

    def wire(self) -> dict[str, object]:
        """For the dry run."""
        return {"read": self.path}


class WriteFile(NamedTuple):
    """Write a file in one system call, as the kernel's own files want it. Answer: None."""

    path: str
    text: str

    def wire(self) -> dict[str, object]:
        """For the dry run."""
        return {"write": self.path, "text": self.text}


class ListDir(NamedTuple):
    """Answer: the names in a folder, sorted, as a tuple; of its folders only, with `folders`."""

    path: str
    folders: bool = False

    def wire(self) -> dict[str, object]:
        """For the dry run."""
        return {"list": self.path}


class MakeDir(NamedTuple):
    """Make a folder; one that is there already is as good. Answer: whether it was made now."""

    path: str

    def wire(self) -> dict[str, object]:
        """For the dry run."""
        return {"mkdir": self.path}


class RemoveDir(NamedTuple):
    """Remove a folder; one that is gone already is as good. Answer: None."""

    path: str

    def wire(self) -> dict[str, object]:
        """For the dry run."""
        return {"rmdir": self.path}


class Lock(NamedTuple):
    """Take the lock on a folder that its users agree on (flock(2)), without waiting. Answer: whether it was taken.

    It is let go by `Unlock`, or when the edge is closed.
    """

    path: str

    def wire(self) -> dict[str, object]:
        """For the dry run."""
        return {"lock": self.path}


class Unlock(NamedTuple):
    """Let go of the lock on a folder; one that is not held is as good. Answer: None."""

    path: str

    def wire(self) -> dict[str, object]:
        """For the dry run."""
        return {"unlock": self.path}


class ReadLink(NamedTuple):
    """Answer: the path that a link, and all links on the way to it, lead to; None when there is nothing."""

    path: str

    def wire(self) -> dict[str, object]:
        """For the dry run."""
        return {"readlink": self.path}


class DeviceOf(NamedTuple):
    """Answer: the `core.host.BlockDevice` that a path is, or is part of, or lies on; None without."""

    path: str

    def wire(self) -> dict[str, object]:
        """For the dry run."""
        return {"stat": self.path}


class BlockDevices(NamedTuple):
    """Answer: every whole block device of the host, as a tuple of `core.host.BlockDevice`."""

    of: str = "host"

    def wire(self) -> dict[str, object]:
        """For the dry run."""
        return {"devices": self.of}


class Tasks(NamedTuple):
    """Answer: the tenant's threads, as a tuple of `core.host.Task`.

    :param controller: in whose hierarchy the threads' groups are told; empty for none.
    """

    controller: str = ""

    def wire(self) -> dict[str, object]:
        """For the dry run."""
        return {"tasks": self.controller}


class Placement(NamedTuple):
    """Answer: where the tenant is in every cgroup hierarchy, a `core.host.Placement`."""

    of: str = "tenant"

    def wire(self) -> dict[str, object]:
        """For the dry run."""
        return {"placement": self.of}


class GetAffinity(NamedTuple):
    """Answer: the CPUs that a thread may run on, a frozenset of numbers."""

    tid: int

    def wire(self) -> dict[str, object]:
        """For the dry run."""
        return {"affinity": self.tid}


class SetAffinity(NamedTuple):
    """Have a thread run on these CPUs only. Answer: None."""

    tid: int
    cpus: frozenset[int]

    def wire(self) -> dict[str, object]:
        """For the dry run."""
        return {"affinity": self.tid, "cpus": sorted(self.cpus)}


class Systemd(NamedTuple):
    """Ask systemd. Answer: None once it is done.

    :param method: `StartTransientUnit` (a scope), `SetUnitProperties` (until the next boot) or `StopUnit`.
    :param properties: by systemd's D-Bus names, such as `CPUQuotaPerSecUSec`; org.freedesktop.systemd1(5).
    """

    method: str
    unit: str
    properties: Mapping[str, object] = {}

    def wire(self) -> dict[str, object]:
        """For the dry run."""
        return {"systemd": self.method, "unit": self.unit, "properties": dict(self.properties)}


class Netlink(NamedTuple):
    """Ask the kernel's network. Answer: as the operation has it."""

    operation: str
    arguments: Mapping[str, object] = {}

    def wire(self) -> dict[str, object]:
        """For the dry run."""
        return {"netlink": self.operation, "arguments": dict(self.arguments)}


HostRequest: TypeAlias = (
    ReadFile
    | WriteFile
    | ListDir
    | MakeDir
    | RemoveDir
    | Lock
    | Unlock
    | ReadLink
    | DeviceOf
    | BlockDevices
    | Tasks
    | Placement
    | GetAffinity
    | SetAffinity
    | Systemd
    | Netlink
)
