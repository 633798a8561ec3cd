"""A timer of nanoseconds in the event loop: asyncio's own waits in whole milliseconds (epoll_wait)."""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable
from contextlib import suppress

_MONOTONIC, _NONBLOCK, _CLOEXEC, _ABSOLUTE = 1, os.O_NONBLOCK, os.O_CLOEXEC, 1


class _Spec(ctypes.Structure):
    _fields_ = [(name, ctypes.c_long) for name in ("interval_s", "interval_ns", "value_s", "value_ns")]


class Timer:
    """One alarm on the clock of `time.monotonic_ns` (timerfd_create(2)).

    :param rings: called in the loop when the time has come.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, rings: Callable[[], None]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.timerfd_create(_MONOTONIC, _NONBLOCK | _CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._spec = _Spec()
        self._at_ns: int | None = None
        self._loop, self._rings = loop, rings
        loop.add_reader(self._fd, self._ring)

    def set(self, at_ns: int | None) -> None:
        """Ring then, and not when it was set to before; None does not ring."""
        if at_ns == self._at_ns:
            return
        self._at_ns = at_ns
        self._spec.value_s, self._spec.value_ns = divmod(at_ns, 10**9) if at_ns is not None else (0, 0)
        self._libc.timerfd_settime(self._fd, _ABSOLUTE, ctypes.byref(self._spec), None)

    def close(self) -> None:
        """Never ring again."""
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _ring(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._fd, 8)
        self._at_ns = None
        self._rings()
