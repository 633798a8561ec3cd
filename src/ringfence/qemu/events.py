"""Events of a session, for who asked for them."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from qemu.qmp import EventListener, Message, Runstate

from ringfence.errors import MonitorGoneError
from ringfence.qemu import sockets

if TYPE_CHECKING:
    from types import TracebackType

    from ringfence.core.model import Address
    from ringfence.qemu.client import Client


class Listener:
    """Events since the context was entered, in order. Enter it before the command that causes them."""

    def __init__(self, client: Client, address: Address, events: frozenset[str]) -> None:
        self._client = client
        self._address = address
        self._inbox = _Inbox(events)

    def __enter__(self) -> Listener:
        self._client.register_listener(self._inbox)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.remove_listener(self._inbox)

    async def get(self, timeout_s: float | None) -> dict[str, Any] | None:
        """The next event (`event`, `data`, `timestamp`), or None when none came within `timeout_s`.

        :param timeout_s: None waits as long as the session lasts; 0 looks without waiting.
        :raise MonitorGoneError: the session ended, and every event that had come was given.
        """
        if not self._inbox.arrived.is_set() and self._client.runstate is Runstate.RUNNING:
            arrival = asyncio.ensure_future(self._inbox.arrived.wait())
            ending = asyncio.ensure_future(self._client.runstate_changed())
            try:
                # A change of state wakes only those who wait already: let `ending` begin, then look again.
                await asyncio.sleep(0)
                if self._client.runstate is Runstate.RUNNING:
                    await asyncio.wait((arrival, ending), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            finally:
                arrival.cancel()
                ending.cancel()
        event = self._inbox.take()
        if event is None and self._client.runstate is not Runstate.RUNNING:
            raise MonitorGoneError(f"{self._address}: the session ended", hint=sockets.GONE_HINT)
        return event


class _Inbox(EventListener):
    """Events not yet taken; unlike its base it keeps no history."""

    def __init__(self, names: frozenset[str]) -> None:
        super().__init__(names)
        self.arrived = asyncio.Event()
        self._events: deque[Message] = deque()

    async def put(self, event: Message) -> None:
        """Called by the client for each event."""
        if self.accept(event):
            self._events.append(event)
            self.arrived.set()

    def take(self) -> dict[str, Any] | None:
        """The oldest event, None when there is none."""
        if not self._events:
            return None
        event = dict(self._events.popleft())
        if not self._events:
            self.arrived.clear()
        return event
