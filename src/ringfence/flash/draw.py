"""Numbers drawn by lot, the same ones in Python and compiled: L'Ecuyer's combined generator (CACM 31:6, 1988).

All that is in flight fits in 63 bits, so that compiled code needs no tricks; the period is 2.3e18.
"""

from __future__ import annotations

M1, M2 = 2_147_483_563, 2_147_483_399
A1, A2 = 40_014, 40_692
SPAN = M1 - 1


class Draw:
    """:param seed: any integer; the same one gives the same numbers."""

    def __init__(self, seed: int) -> None:
        self._a = 1 + (seed * 2_654_435_761 + 12_345) % (M1 - 1)
        self._b = 1 + (seed * 40_503 + 67_891) % (M2 - 1)
        for _ in range(8):
            self.number()

    @property
    def state(self) -> tuple[int, int]:
        return self._a, self._b

    def number(self) -> int:
        """From 0 to SPAN - 1."""
        self._a = self._a * A1 % M1
        self._b = self._b * A2 % M2
        return (self._a - self._b) % SPAN

    def below(self, limit: int) -> int:
        """From 0 to limit - 1, for limits up to about a million without a bias that shows."""
        return self.number() % limit if limit <= 1 << 20 else (self.number() * SPAN + self.number()) % limit

    def unit(self) -> float:
        """From 0 to just below 1."""
        return self.number() / SPAN
