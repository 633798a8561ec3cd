"""Virtual time, and the link to the host."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable

Action = Callable[[], None]


class Clock:
    """What happens next. Of two things at the same time, the one that was scheduled first comes first."""

    def __init__(self) -> None:
        self.now = 0
        self.events = 0
        self._heap: list[tuple[int, int, Action]] = []
        self._scheduled = 0

    def at(self, time_ns: int, action: Action) -> None:
        heapq.heappush(self._heap, (time_ns, self._scheduled, action))
        self._scheduled += 1

    def run(self) -> None:
        """Until nothing is left to happen."""
        while self._heap:
            self.now, _, action = heapq.heappop(self._heap)
            self.events += 1
            action()


class Direction:
    """One direction of the link: messages go one after the other."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._queue: deque[tuple[int, Action]] = deque()

    def send(self, duration_ns: int, arrived: Action) -> None:
        """:param arrived: what the other side does when it has the message."""
        self._queue.append((duration_ns, arrived))
        if len(self._queue) == 1:
            self._start()

    def _start(self) -> None:
        self._clock.at(self._clock.now + self._queue[0][0], self._deliver)

    def _deliver(self) -> None:
        _, arrived = self._queue[0]
        arrived()
        self._queue.popleft()
        if self._queue:
            self._start()
