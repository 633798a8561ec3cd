"""VMs as they appear and end, without polling: the kernel tells of programs that start, a pidfd of their end."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from ringfence.errors import HostError
from ringfence.host.exec_events import ExecEvents
from ringfence.qemu.discovery import find_vms, vm_of

if TYPE_CHECKING:
    from ringfence.core.model import Vm

LOOK_EVERY_S = 2.0
"""Without root there is no word of new processes; a look at the command lines of 500 takes 4 ms."""

_SOON_S = 0.1
_APART_S = 1.0  # on a host that compiles all day, a look a second is 0.4 % of a core


class _Known(NamedTuple):
    """A VM whose end is waited for. :ivar pidfd: names the process itself, also when its number is used again."""

    vm: Vm
    pidfd: int


class VmWatch:
    """Calls `appeared` for every VM there is and that comes, and `ended` when its process is gone, once for each.

    QEMU's `-daemonize` goes on in a child that starts no program, so the end of one QEMU is a reason to look for
    all. To be used within a running loop, which calls both.

    :ivar events: whether the kernel tells of new processes; else /proc is looked at every `LOOK_EVERY_S`.
    :ivar why_not: the reason when it does not.
    """

    def __init__(
        self,
        appeared: Callable[[Vm], None],
        ended: Callable[[Vm], None],
        *,
        started: Callable[[], None] = lambda: None,
        proc: str = "/proc",
    ) -> None:
        """:param started: called when any program has started, be it a VM or not."""
        self._appeared = appeared
        self._ended = ended
        self._started = started
        self._proc = proc
        self._known: dict[int, _Known] = {}
        self._exec_events: ExecEvents | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._looked_s = 0.0
        self.why_not: HostError | None = None

    @property
    def events(self) -> bool:
        """See the class."""
        return self._exec_events is not None

    def start(self) -> None:
        """Begin, with the VMs that there are. Raises nothing."""
        try:
            self._exec_events = ExecEvents()
        except HostError as error:
            self.why_not = error
            self._look_again()
            return
        asyncio.get_running_loop().add_reader(self._exec_events.fileno(), self._programs_started)
        self.look()

    def stop(self) -> None:
        """End it; `ended` is not called for what still runs."""
        loop = asyncio.get_running_loop()
        if self._exec_events is not None:
            loop.remove_reader(self._exec_events.fileno())
            self._exec_events.close()
        if self._timer is not None:
            self._timer.cancel()
        for known in self._known.values():
            loop.remove_reader(known.pidfd)
            os.close(known.pidfd)
        self._known.clear()

    def look(self) -> None:
        """Find what was missed."""
        for vm in find_vms(self._proc):
            if vm.pid not in self._known:
                self._meet(vm.pid)

    def _look_again(self) -> None:
        self.look()
        self._started()
        self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._look_again)

    def _programs_started(self) -> None:
        pids = self._exec_events.read() if self._exec_events else []
        if pids is None:
            self.look()
        for pid in pids or ():
            if pid not in self._known and not self._meet(pid):
                self._look_soon()
        self._started()

    def _look_soon(self) -> None:
        """What ended before it was looked at may have been a QEMU that goes on in a child."""
        if self._timer is None:
            loop = asyncio.get_running_loop()
            when = max(loop.time() + _SOON_S, self._looked_s + _APART_S)
            self._timer = loop.call_at(when, self._look_now)

    def _look_now(self) -> None:
        self._timer = None
        self._looked_s = asyncio.get_running_loop().time()
        self.look()

    def _meet(self, pid: int) -> bool:
        """Tell of a process if it is a VM. Its pidfd is there before it is looked at: it cannot be another later.

        :return: whether it was there to be looked at.
        """
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return False
        vm = vm_of(pid, self._proc)
        if vm is None:
            os.close(pidfd)
            return os.path.exists(f"{self._proc}/{pid}")
        self._known[pid] = _Known(vm, pidfd)
        asyncio.get_running_loop().add_reader(pidfd, self._gone, pid)
        self._appeared(vm)
        return True

    def _gone(self, pid: int) -> None:
        known = self._known.pop(pid)
        asyncio.get_running_loop().remove_reader(known.pidfd)
        os.close(known.pidfd)
        self._ended(known.vm)
        self.look()
