"""What each tenant will write until the next chance to swap, learned from what all of them did so far.

To take the present rate for the future is right for tenants that are steady, and wrong for those that take turns:
whoever was hot is then moved to the least worn channel just when it falls silent, and whoever lies on a worn one
begins. So how much the present tells, and how much the average of all the past, is fitted to this device's own
history: over the next period a slot's rate will differ from the mean of all slots by a * (what it differs now) +
b * (what it differs on average). The same a and b hold for all slots, so there are many samples soon. (Least
squares, held near "it goes on like this" while there are few.)
"""

from __future__ import annotations

from collections.abc import Sequence

_HELD = 0.5
"""Weight of the first guess, a = 1 and b = 0, in samples."""


class Forecast:
    """Rates of a fixed number of slots, look by look.

    :param slots: how many there are.
    :param looks: how many looks make the period that is forecast.
    """

    def __init__(self, slots: int, looks: int) -> None:
        self._looks = looks
        self._sums = [[0.0] * slots]  # since the beginning: at each of the last looks, the newest last
        self._features: list[tuple[list[float], list[float]]] = []
        self._count = 0
        self._samples = 0
        self._aa = self._ab = self._bb = self._ay = self._by = 0.0

    def observe(self, counts: Sequence[float]) -> None:
        """Take what each slot wrote since the look before, in any unit."""
        newest = [total + count for total, count in zip(self._sums[-1], counts, strict=True)]
        self._count += 1
        self._sums.append(newest)
        if len(self._features) == self._looks:
            self._learn(self._features.pop(0), self._sums[-1 - self._looks])
            self._sums.pop(0)
        self._features.append((_deviations(counts), _deviations([total / self._count for total in newest])))

    def next(self) -> list[float]:
        """What each slot will write for each look of the next period, as a mean; 0 before the first one."""
        if not self._features:
            return [0.0] * len(self._sums[-1])
        a, b = self._factors()
        mean = sum(self._sums[-1]) / len(self._sums[-1]) / self._count
        return [max(0.0, mean + a * x + b * y) for x, y in zip(*self._features[-1], strict=True)]

    def _learn(self, features: tuple[list[float], list[float]], since: Sequence[float]) -> None:
        """Compare what was known one period ago with what came."""
        came = [(now - then) / self._looks for now, then in zip(self._sums[-1], since, strict=True)]
        # How busy all are together must not make one sample count more than another.
        scale = sum(self._sums[-1]) / self._count
        if scale <= 0:
            return
        self._samples += 1
        for x, y, z in zip(*features, _deviations(came), strict=True):
            x, y, z = x / scale, y / scale, z / scale
            self._aa += x * x
            self._ab += x * y
            self._bb += y * y
            self._ay += x * z
            self._by += y * z

    def _factors(self) -> tuple[float, float]:
        """Solve the two equations of least squares, with the first guess as so much evidence."""
        held = _HELD * (self._aa + self._bb) / max(1, self._samples) + 1e-12
        aa, bb = self._aa + held, self._bb + held
        ay = self._ay + held
        determinant = aa * bb - self._ab * self._ab
        return (ay * bb - self._by * self._ab) / determinant, (self._by * aa - ay * self._ab) / determinant


def _deviations(values: Sequence[float]) -> list[float]:
    mean = sum(values) / len(values)
    return [value - mean for value in values]
