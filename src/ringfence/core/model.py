"""What is known about a virtual machine, or a container, from outside, before anybody speaks to it.

NamedTuples, not dataclasses: these are built when the command line starts, where a dataclass costs six times
as much to define.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias


class Address(NamedTuple):
    """Where a socket listens: a unix path, or host and port when `path` is empty."""

    path: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.path or f"{host}:{self.port}"


class Monitor(NamedTuple):
    """One monitor of a QEMU process.

    :param kind: `qmp` or `hmp`.
    :param address: None when it is not reachable through a socket (stdio, vc, pty).
    :param where: the chardev as the user wrote it, for messages.
    :param mux: its socket also serves others, such as a serial line; Ctrl-a c hands the keys on.
    """

    kind: str
    address: Address | None
    where: str
    mux: bool = False


class DriveOption(NamedTuple):
    """A disk as the command line describes it, shown when the monitor cannot be asked."""

    name: str
    file: str
    format: str


class Nic(NamedTuple):
    """A network device as the command line describes it.

    :param backend: `tap`, `user`, `bridge`, `vhost-user`, ...
    :param ifname: the host's interface for tap, else empty.
    :param netdev: the id of its `-netdev`, empty without one.
    """

    id: str
    model: str
    backend: str
    ifname: str
    mac: str
    netdev: str = ""


class Vm(NamedTuple):
    """One QEMU process, as its command line tells.

    :param name: from `-name`, else the UUID, else `pid-N`; need not be unique.
    :param memory_bytes: `-m` size; `memory_max_bytes` its maxmem, the same when none is given.
    :param vcpus: vCPUs at boot; `vcpus_max` from maxcpus, the same when none is given.
    :param agent: the guest agent's socket on the host, None when the VM has no such channel.
    :param manager: `plain`, `libvirt`, `proxmox` or `incus`.
    """

    name: str
    pid: int
    uuid: str
    machine: str
    accel: str
    memory_bytes: int
    memory_max_bytes: int
    vcpus: int
    vcpus_max: int
    monitors: tuple[Monitor, ...]
    agent: Address | None
    drives: tuple[DriveOption, ...]
    nics: tuple[Nic, ...]
    manager: str
    executable: str
    argv: tuple[str, ...]

    @property
    def qmp_addresses(self) -> tuple[Address, ...]:
        """Sockets that speak QMP, in the order of the command line."""
        return tuple(m.address for m in self.monitors if m.kind == "qmp" and m.address is not None)

    @property
    def hmp_addresses(self) -> tuple[Address, ...]:
        """Sockets with a human monitor, in the order of the command line."""
        return tuple(m.address for m in self.monitors if m.kind == "hmp" and m.address is not None)


class Container(NamedTuple):
    """A container, or any other cgroup with a name.

    :param name: as its engine calls it, else its id; for a cgroup that was given by path, the path.
    :param id: the engine's own, empty for a plain cgroup.
    :param engine: `docker`, `podman`, `nspawn`, `lxc`, `kubernetes`, `runc`, ..., or `cgroup`.
    :param pid: one of its processes, its first where that can be told; 0 when there is none.
    :param cgroup: path of its group below the hierarchies' mounts; on v1 that of the one that was looked at.
    """

    name: str
    id: str
    engine: str
    pid: int
    cgroup: str

    @property
    def selector(self) -> str:
        """How to name it on a command line."""
        return f"cgroup:{self.cgroup}" if self.engine == "cgroup" else f"container:{self.name}"


Tenant: TypeAlias = Vm | Container
