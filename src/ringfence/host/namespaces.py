"""Network namespaces by their inode number, which tells them apart however they are named, and a way into each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any


class Namespaces:
    """Open descriptors of namespaces, and a netlink socket in those that were used.

    :ivar own: the number of the one ringfence runs in.
    """

    def __init__(self, proc: str = "/proc") -> None:
        self._proc = proc
        self._fds: dict[int, int] = {}
        self._routes: dict[int, Any] = {}
        self.own = os.stat(f"{proc}/self/ns/net").st_ino

    def keep(self, fd: int) -> int:
        """Take over an open descriptor; answers the namespace's number."""
        number = os.fstat(fd).st_ino
        if number in self._fds:
            os.close(fd)
        else:
            self._fds[number] = fd
        return number

    def of_pid(self, pid: int) -> int:
        """The number of the namespace a process is in.

        :raise OSError: the process is gone, or this user may not look.
        """
        return self.keep(os.open(f"{self._proc}/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    def named(self, folder: str = "/run/netns") -> Iterator[int]:
        """The numbers of those that `ip netns` and container engines gave names."""
        names: list[str] = []
        with suppress(OSError):
            names = sorted(os.listdir(folder))
        for name in names:
            with suppress(OSError):
                yield self.keep(os.open(f"{folder}/{name}", os.O_RDONLY | os.O_CLOEXEC))

    async def route(self, number: int) -> Any:
        """pyroute2's AsyncIPRoute in a namespace, opened on its first use: that starts a process for a moment.

        :raise OSError: this user may not enter it.
        """
        from pyroute2 import AsyncIPRoute

        if number not in self._routes:
            if number == self.own:
                route = AsyncIPRoute()
            elif number in self._fds:
                route = AsyncIPRoute(netns=self._fds[number], flags=0)
            else:
                raise OSError(2, "the network namespace is not known any more")
            await route.setup_endpoint()
            self._routes[number] = route
        return self._routes[number]

    def close(self) -> None:
        """Close everything."""
        routes, self._routes = self._routes, {}
        for route in routes.values():
            route.close()
        fds, self._fds = self._fds, {}
        for fd in fds.values():
            os.close(fd)
