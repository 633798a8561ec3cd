"""How often to look: no more than the share of a core that looking may cost, whatever the number of tenants."""

from __future__ import annotations

import time
from types import TracebackType

SHARE = 0.004
"""Of a core, for looking whether anything has drifted; with all else an idle daemon stays under a hundredth."""

SHORTEST_S, LONGEST_S = 30.0, 1800.0


class Pace:
    """Measures what looks cost this process, and says how long to wait between two at the same thing.

        with pace: ...   # one look; one at a time

    :param things: how many there are to look at.
    """

    def __init__(self) -> None:
        self.things = 0
        self._cost_s = 0.0
        self._began_s = 0.0

    def __enter__(self) -> None:
        self._began_s = time.process_time()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        took_s = time.process_time() - self._began_s
        self._cost_s = took_s if not self._cost_s else 0.9 * self._cost_s + 0.1 * took_s

    def interval_s(self) -> float:
        """Between two looks at one of the things."""
        return min(LONGEST_S, max(SHORTEST_S, self.things * self._cost_s / SHARE))
