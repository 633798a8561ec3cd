"""Answers the requests that knobs make to the kernel; imported when the first of them is made."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ringfence.core import host_requests as ask
from ringfence.core.host import BlockDevice, Placement, Task
from ringfence.core.model import Container, Nic, Tenant
from ringfence.errors import HostError
from ringfence.host import devices, files, placement, threads
from ringfence.host.hierarchies import Hierarchy, paths_of
from ringfence.host.hierarchies import mounted as hierarchies_of

if TYPE_CHECKING:
    from typing import Self

    from ringfence.host.netlink import NetlinkEdge


_CHANGING = (ask.WriteFile, ask.MakeDir, ask.RemoveDir)
_START_POLL_S, _START_POLLS = 0.01, 500


class HostEdge:
    """The kernel of a host, as it concerns one tenant.

    :param root: of the machine: a directory can stand in for it in a test.
    :param pid: the tenant's process; 0 when none is known.
    :param name: of the tenant, for groups that are made for it.
    :param group: the path of a container's group; empty for a VM.
    :param nics: a VM's, as its command line tells.
    :cvar same_s: how long it may go unnoticed that somebody else has moved the tenant.
    """

    same_s = 0.1

    def __init__(
        self, root: str = "/", *, pid: int = 0, name: str = "", group: str = "", nics: tuple[Nic, ...] = ()
    ) -> None:
        self.root = root.rstrip("/")
        self.pid = pid
        self.name = name
        self.group = group
        self._nics = nics
        self._placed: tuple[float, Placement] | None = None
        self._netlink: NetlinkEdge | None = None
        self._locks: dict[str, int] = {}
        self._handlers: dict[type, Callable[[Any], Any]] = {
            ask.ReadFile: self._read,
            ask.WriteFile: self._write,
            ask.ListDir: self._list,
            ask.MakeDir: self._make,
            ask.RemoveDir: self._remove,
            ask.Lock: self._lock,
            ask.Unlock: self._unlock,
            ask.ReadLink: self._link,
            ask.DeviceOf: self._device,
            ask.BlockDevices: lambda _: devices.every_device(self.root),
            ask.Tasks: lambda request: self.tasks(request.controller),
            ask.Placement: lambda _: self._placement_of_now(),
            ask.GetAffinity: self._get_affinity,
            ask.SetAffinity: self._set_affinity,
        }

    @classmethod
    def of(cls, tenant: Tenant | None, *, pid: int = 0, root: str = "/") -> Self:
        """The host of a tenant; without one, that of the process `pid`."""
        if isinstance(tenant, Container):
            return cls(root, pid=tenant.pid, name=tenant.name, group=tenant.cgroup)
        if tenant is not None:
            return cls(root, pid=tenant.pid, name=tenant.name, nics=tenant.nics)
        return cls(root, pid=pid, name="vm")

    async def answer(self, request: ask.HostRequest | Sequence[ask.HostRequest]) -> Any:
        """Carry out one request, or several in order; a list of answers for several.

        :raise HostError: the kernel, or systemd, refuses it. Those of a list that come after it are not tried.
        """
        if isinstance(request, list):
            now = self._handlers
            return [self.answer_now(one) if type(one) in now else await self.answer(one) for one in request]
        if isinstance(request, ask.Systemd):
            return await self._ask_systemd(request)
        if isinstance(request, ask.Netlink):
            return await self._network().answer(request)
        return self.answer_now(request)

    def _network(self) -> NetlinkEdge:
        if self._netlink is None:
            from ringfence.host.netlink import NetlinkEdge

            tenant = f"container:{self.name}" if self.group else self.name
            nics = None if self.group else self._nics
            self._netlink = NetlinkEdge(self.pid, tenant, nics, f"{self.root}/proc")
        return self._netlink

    async def _ask_systemd(self, request: ask.Systemd) -> None:
        """A unit that is started moves its processes a little later: who asked can rely on it."""
        from ringfence.host import systemd

        self._placed = None
        await systemd.call(request)
        if request.method == "StartTransientUnit":
            self.wait_for_unit(request.unit)

    def wait_for_unit(self, unit: str) -> None:
        """Until a unit that systemd has answered for has the tenant in it: a matter of milliseconds.

        :raise HostError: that did not come.
        """
        for _ in range(_START_POLLS):
            if f"/{unit}" in files.text(f"{self.root}/proc/{self.pid}/cgroup"):
                return
            time.sleep(_START_POLL_S)
        raise HostError(
            f"systemd has started {unit}, and not moved process {self.pid} into it",
            path=unit,
            hint=f"`systemctl status {unit}` may tell why",
        )

    def answer_now(self, request: Any) -> Any:
        """As `answer`, for a request that needs no waiting: one to the kernel's files.

        :raise HostError: as there; and for a request that this edge does not know.
        """
        handler = self._handlers.get(type(request))
        if handler is None:
            raise HostError(f"nobody on this host answers {type(request).__name__}")
        if type(request) in _CHANGING:
            self._placed = None
        return handler(request)

    async def close(self) -> None:
        """Release what is held open."""
        if self._netlink is not None:
            self._netlink.close()
        for path in tuple(self._locks):
            self._unlock(ask.Unlock(path))

    def tasks(self, controller: str = "") -> tuple[Task, ...]:
        """The tenant's threads, and their groups in the hierarchy of a controller."""
        pids = self.placement().pids if self.group else (self.pid,) if self.pid else ()
        found = threads.tasks(self.root, pids, vm=not self.group)
        if not controller:
            return found
        hierarchies = tuple(h for h in hierarchies_of(self.root) if controller in h.controllers)
        return tuple(task._replace(folder=self._folder(task, hierarchies)) for task in found)

    def _folder(self, task: Task, hierarchies: tuple[Hierarchy, ...]) -> str:
        for hierarchy, path in paths_of(self.root, task.tid, hierarchies).items():
            return hierarchy.mount + ("" if path == "/" else path)
        return ""

    def placement(self) -> Placement:
        """Where the tenant is now.

        :raise HostError: it has gone.
        """
        if self.group:
            found = placement.of_group(self.root, self.group, self.pid, self.name)
        elif self.pid:
            found = placement.of_process(self.root, self.pid, self.name)
        else:
            return Placement((), (), self.name, False, absent="this VM's process is not on this host, or hidden")
        if not found.groups:
            what = f"the group {self.group}" if self.group else f"process {self.pid}"
            raise HostError(
                f"{what} is in no cgroup hierarchy that can be seen here",
                path=self.group,
                errno=errno.ENOENT,
                hint="`ringfence ps` tells what runs now",
            )
        return found

    def _placement_of_now(self) -> Placement:
        """One placement does for all knobs that are read together, until something is changed."""
        now = time.monotonic()
        if self._placed is None or now - self._placed[0] > self.same_s:
            self._placed = (now, self.placement())
        return self._placed[1]

    def _read(self, request: ask.ReadFile) -> str | None:
        return files.read(self._at(request.path), optional=request.optional)

    def _write(self, request: ask.WriteFile) -> None:
        files.write(self._at(request.path), request.text)

    def _list(self, request: ask.ListDir) -> tuple[str, ...]:
        try:
            os.listdir(self._at(request.path))
        except OSError as error:
            raise files.refused("cannot list", request.path, error) from None
        return tuple((files.folders if request.folders else files.names)(self._at(request.path)))

    def _make(self, request: ask.MakeDir) -> bool:
        try:
            os.mkdir(self._at(request.path))
        except FileExistsError:
            return False
        except OSError as error:
            raise files.refused("cannot make", request.path, error) from None
        return True

    def _remove(self, request: ask.RemoveDir) -> None:
        try:
            os.rmdir(self._at(request.path))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise files.refused("cannot remove", request.path, error) from None

    def _lock(self, request: ask.Lock) -> bool:
        try:
            fd = os.open(self._at(request.path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                return False
        except OSError as error:
            raise files.refused("cannot lock", request.path, error) from None
        self._locks[request.path] = fd
        return True

    def _unlock(self, request: ask.Unlock) -> None:
        fd = self._locks.pop(request.path, -1)
        if fd >= 0:
            os.close(fd)

    def _link(self, request: ask.ReadLink) -> str | None:
        path = self._at(request.path)
        return os.path.realpath(path)[len(self.root) :] if os.path.exists(path) else None

    def _device(self, request: ask.DeviceOf) -> BlockDevice | None:
        return devices.device_of(self.root, self._at(request.path))

    def _get_affinity(self, request: ask.GetAffinity) -> frozenset[int]:
        try:
            return frozenset(os.sched_getaffinity(request.tid))
        except OSError as error:
            raise files.refused("cannot tell the CPUs of", f"thread {request.tid}", error) from None

    def _set_affinity(self, request: ask.SetAffinity) -> None:
        try:
            os.sched_setaffinity(request.tid, request.cpus)
        except OSError as error:
            raise files.refused("cannot choose the CPUs of", f"thread {request.tid}", error) from None

    def _at(self, path: str) -> str:
        """Paths in answers begin with the root already."""
        return path if path.startswith(self.root) else self.root + path
