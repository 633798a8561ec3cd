"""Events that libvirtd passes on: `virsh qemu-monitor-event`, which prints a line for each."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
from collections import deque
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ringfence.errors import MonitorError, MonitorGoneError
from ringfence.qemu import libvirt, sockets

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+[+-]\d{4}): event (\S+) for domain '.*?': (.*)")


def parse_event(line: str) -> dict[str, Any] | None:
    """An event as QMP has it (`event`, `data`, `timestamp`), None for a line that is none.

    `2026-11-23 03:23:34.842+0000: event STOP for domain 'web1': <null>`
    """
    found = _LINE.fullmatch(line.strip())
    if found is None:
        return None
    event: dict[str, Any] = {"event": found[2]}
    with contextlib.suppress(ValueError):
        event["data"] = json.loads(found[3])
    at = datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S.%f%z")
    event["timestamp"] = {"seconds": int(at.timestamp()), "microseconds": at.microsecond}
    return event


class LibvirtListener:
    """What `events.Listener` is. When libvirtd passes no events on, there are none, and no error."""

    def __init__(
        self, words: Sequence[str], pid: int, events: frozenset[str], open_ones: set[LibvirtListener]
    ) -> None:
        """:param words: the virsh to run.
        :param pid: QEMU's, whose end ends this.
        :param open_ones: where it is noted while something of it is open.
        """
        self._words = words
        self._pid = pid
        self._names = events
        self._open_ones = open_ones
        self._events: deque[dict[str, Any]] = deque()
        self._news = asyncio.Event()
        self._ended = False
        self._left = False
        self._pidfd = -1
        self._collecting: asyncio.Task[None] | None = None

    def __enter__(self) -> LibvirtListener:
        self._open_ones.add(self)
        self._watch_process()
        self._collecting = asyncio.ensure_future(self._collect())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._forget_process()
        if self._collecting is not None and not self._left:
            self._left = True  # a second cancellation would break off the clearing up after the first
            self._collecting.cancel()

    async def get(self, timeout_s: float | None) -> dict[str, Any] | None:
        """See `events.Listener.get`."""
        if not self._events and not self._ended:
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._news.wait()
        if self._events:
            return self._events.popleft()
        if self._ended:
            raise MonitorGoneError("the VM has ended", hint=sockets.GONE_HINT)
        return None

    async def close(self) -> None:
        """End virsh, and wait for its end. Idempotent, never raises."""
        self.__exit__(None, None, None)
        if self._collecting is not None:
            await asyncio.wait([self._collecting])
        self._open_ones.discard(self)

    async def _collect(self) -> None:
        starting = asyncio.ensure_future(libvirt.start(self._words))
        try:
            process = await asyncio.shield(starting)
        except MonitorError:
            return
        except asyncio.CancelledError:
            with contextlib.suppress(MonitorError):
                await libvirt.end(await starting)
            raise
        try:
            if process.stdout is not None:
                async for line in process.stdout:
                    event = parse_event(line.decode(errors="replace"))
                    if event is not None and (not self._names or event["event"] in self._names):
                        self._events.append(event)
                        self._news.set()
        finally:
            await libvirt.end(process)

    def _watch_process(self) -> None:
        if not self._pid:
            return
        try:
            self._pidfd = os.pidfd_open(self._pid)
        except ProcessLookupError:
            self._end()
            return
        asyncio.get_running_loop().add_reader(self._pidfd, self._end)

    def _forget_process(self) -> None:
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _end(self) -> None:
        self._forget_process()
        self._ended = True
        self._news.set()
