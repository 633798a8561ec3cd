"""What QEMU tells unasked: a reset of the guest, a migration, memory and devices that moved.

Only over a socket that is spare: a VM with one QMP socket, or one of a manager's, is left to others and is looked
at from time to time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from ringfence.errors import RingfenceError
from ringfence.qemu.managers import PLAIN
from ringfence.qemu.session import Session

if TYPE_CHECKING:
    from ringfence.core.model import Vm

EVENTS = ("RESET", "RESUME", "MIGRATION", "MEMORY_DEVICE_SIZE_CHANGE", "DEVICE_DELETED")
_AGAIN_S = 30.0
_FIRST_S = 0.5  # who has just started a VM talks to it first


class GuestEvents:
    """Calls `said` with the name of each event of a VM that has a socket to spare, until `close`."""

    def __init__(self, vm: Vm, said: Callable[[str], None]) -> None:
        self._vm = vm
        self._said = said
        self._task: asyncio.Task[None] | None = None
        if vm.manager == PLAIN and len(vm.qmp_addresses) > 1:
            self._task = asyncio.create_task(self._listen())

    @property
    def listens(self) -> bool:
        """Whether this VM has a socket to spare."""
        return self._task is not None

    def close(self) -> None:
        """Give the socket back."""
        if self._task is not None:
            self._task.cancel()

    async def _listen(self) -> None:
        pause_s = _FIRST_S
        while True:
            await asyncio.sleep(pause_s)
            pause_s = _AGAIN_S
            try:
                async with await Session.open(self._vm.qmp_addresses[-1]) as session:
                    with session.listen(EVENTS) as listener:
                        while event := await listener.get(None):
                            self._said(str(event["event"]))
            except RingfenceError:
                continue  # held by somebody, or the VM is on its way out
