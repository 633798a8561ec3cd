"""What the kernel tells of a tenant: its tasks, and where it stands in every cgroup hierarchy.

Sources: the kernel's Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst, proc(5).
"""

from __future__ import annotations

from typing import NamedTuple

EMULATOR, VHOST, OTHER = "emulator", "vhost", "other"
VCPU_PREFIX, IOTHREAD_PREFIX = "vcpu:", "iothread:"

OURS = "ringfence"
"""What every group, scope and queue that ringfence makes on a host is called, or begins with."""


class Task(NamedTuple):
    """A thread of a tenant.

    :param name: as the kernel shows it (`comm`), at most 15 characters.
    :param role: `vcpu:N`, `emulator`, `iothread:ID`, `vhost` or `other`. QEMU names its threads only when it was
        started with `debug-threads=on`; without, all but the first are `other`.
    :param folder: of the group it is in, in the hierarchy of the controller that was asked for.
    """

    tid: int
    name: str
    role: str
    folder: str = ""


class BlockDevice(NamedTuple):
    """A whole block device: not a partition.

    :param number: `MAJOR:MINOR`; `name` the kernel's, such as `sda` or `dm-0`.
    :param scheduler: the one in use, such as `none` or `bfq`; empty where it has none.
    """

    number: str
    name: str
    scheduler: str = ""


class Group(NamedTuple):
    """Where a tenant is in one cgroup hierarchy.

    :param version: 1 or 2.
    :param controllers: those of the hierarchy; on v2 those that this group can have (`cgroup.controllers`, of the
        group when it is dedicated, else of `base`).
    :param mount: where the hierarchy is mounted; `path` is below it and begins with `/`.
    :param dedicated: whether nobody but the tenant is in it: only then its limits are the tenant's.
    :param unit: the systemd unit whose group this is: it is changed through systemd. Empty otherwise.
    :param base: where a group for the tenant can be made, a path below the mount. On v1 that is where it is now,
        so that it does not leave what its parents allow; on v2 a group with processes can have none below.
    :param read_only: whether the hierarchy is mounted so.
    """

    version: int
    controllers: tuple[str, ...]
    mount: str
    path: str
    dedicated: bool
    unit: str = ""
    base: str = "/"
    read_only: bool = False

    @property
    def folder(self) -> str:
        """The group's folder."""
        return self.mount + (self.path if self.path != "/" else "")

    @property
    def ours(self) -> bool:
        """Whether ringfence made it."""
        return any(part == OURS or part.startswith(f"{OURS}-") for part in self.path.split("/"))


class Placement(NamedTuple):
    """Where a tenant is.

    :param pids: its processes, the one it is known by first.
    :param label: what to call a group made for it: safe as a file's and a unit's name, and no other tenant's.
    :param systemd: whether systemd runs this host, so that a group is asked of it.
    :param virtual: whether it is a VM, and not a container.
    :param absent: why it is nowhere on this host; empty when it is here.
    """

    groups: tuple[Group, ...]
    pids: tuple[int, ...]
    label: str
    systemd: bool
    virtual: bool = True
    absent: str = ""

    def group(self, controller: str) -> Group | None:
        """The group in the hierarchy that has this controller; None where no hierarchy has it."""
        return next((group for group in self.groups if controller in group.controllers), None)

    @property
    def unified(self) -> Group | None:
        """The group in the v2 hierarchy, which tells the pressure even where it has no controllers."""
        return next((group for group in self.groups if group.version == 2), None)
