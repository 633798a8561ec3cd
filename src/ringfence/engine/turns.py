"""One change of a kind at a time: what is read, laid over and written back must not cross with another's.

Advisory, among ringfence's own processes of one user: a lock on a file of the VM in the private runtime directory,
which the kernel lifts when its holder dies. Changes of different kinds do not wait for each other.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from functools import lru_cache

from ringfence.engine.driver import Pause, sleep
from ringfence.errors import MonitorBusyError
from ringfence.qemu.paths import private_folder, runtime_folder

_PATIENCE_S = 5.0  # a disk takes milliseconds; whoever moves memory may take as long as a guest does
_POLL_S = 0.01


@asynccontextmanager
async def turn(vm: str, kinds: Collection[str], *, pause: Pause = sleep) -> AsyncIterator[None]:
    """Wait for, and hold, the turn to change these kinds of knobs (`disk`, `memory`, ...) of a VM.

    :param vm: what tells the VM apart on this host, such as its pid.
    :param pause: how to wait.
    :raise MonitorBusyError: another ringfence has held one of them for five seconds. Nothing is held then.
    :raise HostError: there is no private directory for the lock's file.
    """
    held: list[int] = []
    try:
        for kind in sorted(set(kinds)):
            held.append(_open(f"{vm}.{kind}"))
            await _lock(held[-1], kind, pause)
        yield
    finally:
        for fd in held:
            os.close(fd)


def _open(name: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    try:
        return os.open(f"{_folder(*_environment())}/{name}", flags, 0o600)
    except FileNotFoundError:  # somebody has removed the folder
        _folder.cache_clear()
        return os.open(f"{_folder(*_environment())}/{name}", flags, 0o600)


def _environment() -> tuple[str | None, str | None]:
    return os.environ.get("XDG_RUNTIME_DIR"), os.environ.get("TMPDIR")


@lru_cache(maxsize=8)
def _folder(*_: str | None) -> str:
    """Where the files are, looked at once: on an open session that took a tenth of the time of a limit changed."""
    return private_folder(f"{runtime_folder()}/turns")


async def _lock(fd: int, kind: str, pause: Pause) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise MonitorBusyError(
                    f"another ringfence is changing the {kind} limits of this VM",
                    hint="wait for it to end, and set them again",
                ) from None
        await pause(_POLL_S)
