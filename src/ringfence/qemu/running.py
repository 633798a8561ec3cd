"""QEMU processes known by their pidfile, which QEMU keeps locked for as long as it runs.

The lock, not the number in the file, says who it is: a number may have gone to another process since.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_FLOCK = "hhqqi4x"  # struct flock on Linux x86-64 and arm64: type, whence, start, len, pid
_KILLED_WITHIN_S = 5.0  # what a process stuck in the kernel may take to die


def holder(pidfile: Path) -> int | None:
    """The process that holds the lock on `pidfile`, None when none does or there is no such file."""
    try:
        with pidfile.open("rb") as file:
            asked = struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
            kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, asked))
    except FileNotFoundError:
        return None
    return int(pid) if kind != fcntl.F_UNLCK and pid > 0 else None


def stop(pidfile: Path, *, grace_s: float) -> bool:
    """End the process that holds `pidfile`: SIGTERM, and SIGKILL when it is still there `grace_s` later. Blocks.

    :return: whether it is gone; True when there was none.
    """
    with _process(pidfile) as process:
        if process is None:
            return True
        for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, _KILLED_WITHIN_S)):
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, number)
            if _ended(process, wait_s):
                return True
        return False


def wait_gone(pidfile: Path, *, timeout_s: float) -> bool:
    """Wait until nobody holds `pidfile`. Blocks.

    :return: whether that came within `timeout_s`.
    """
    with _process(pidfile) as process:
        return process is None or _ended(process, timeout_s)


@contextmanager
def _process(pidfile: Path) -> Iterator[int | None]:
    """A handle of the process that holds `pidfile`, which no later process with its number can take over."""
    pid = holder(pidfile)
    try:
        handle = None if pid is None else os.pidfd_open(pid)
    except ProcessLookupError:
        handle = None
    if handle is None:
        yield None
        return
    try:
        yield handle if holder(pidfile) == pid else None
    finally:
        os.close(handle)


def _ended(process: int, timeout_s: float) -> bool:
    return bool(select.select([process], [], [], timeout_s)[0])
