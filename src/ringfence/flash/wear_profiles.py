"""How tenants wear an SSD over the years: built-in profiles, and those read from a file.

A profile is a table of weights, one column for each channel that a tenant has, one row for each equal part of the
life. It is scaled so that the tenants alone would bring the mean wear at the end of life to a given number of
erases: how unevenly it is spread is the profile's, how much there is in all is the user's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ringfence.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STEPS = 3652  # half a day each in five years: finer than any chance to swap


class Profile(NamedTuple):
    """:param weights: makes the table: how many channels, how many rows, and a seed for what is drawn by lot."""

    name: str
    help: str
    weights: Callable[[int, int, int], NDArray[np.float64]]


def _constant(row: Sequence[float], steps: int) -> NDArray[np.float64]:
    import numpy as np

    return np.tile(np.asarray(row, dtype=float), (steps, 1))


def _one_hot(channels: int, steps: int, _seed: int) -> NDArray[np.float64]:
    return _constant([1.0, *[0.0] * (channels - 1)], steps)


def _rotating_hot(channels: int, steps: int, _seed: int) -> NDArray[np.float64]:
    """Every channel is hot nine times and a bit, as in the worst case that the schedule is made for."""
    import numpy as np

    table = np.zeros((steps, channels))
    turns = channels * 9 + 5
    hot = (np.arange(steps) * turns // steps) % channels
    table[np.arange(steps), hot] = 1.0
    return table


def _zipfian(channels: int, steps: int, _seed: int) -> NDArray[np.float64]:
    return _constant([1.0 / (rank + 1) for rank in range(channels)], steps)


def _hot_cold(channels: int, steps: int, _seed: int) -> NDArray[np.float64]:
    return _constant([4.0 if slot < channels // 2 else 1.0 for slot in range(channels)], steps)


def _random(channels: int, steps: int, seed: int) -> NDArray[np.float64]:
    import numpy as np

    return _constant(np.random.default_rng(seed).uniform(1.0, 20.0, channels).tolist(), steps)


def _drifting(channels: int, steps: int, seed: int) -> NDArray[np.float64]:
    """Each channel's rate is drawn anew, between 1 and 100, after one to six parts in sixty of the life."""
    import numpy as np

    random = np.random.default_rng(seed)
    table = np.empty((steps, channels))
    for slot in range(channels):
        row = 0
        while row < steps:
            lasts = max(1, int(steps * random.uniform(1, 6) / 60))
            table[row : row + lasts, slot] = 10 ** random.uniform(0, 2)
            row += lasts
    return table


def _even(channels: int, steps: int, _seed: int) -> NDArray[np.float64]:
    return _constant([1.0] * channels, steps)


PROFILES: Mapping[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile("one-hot", "adversarial: one channel takes all writes, the others none", _one_hot),
        Profile("rotating-hot", "adversarial: all writes to one channel at a time, which changes", _rotating_hot),
        Profile("zipfian", "channel number n is written 1/n as often as the first", _zipfian),
        Profile("hot-cold", "half of the channels are written four times as often as the others", _hot_cold),
        Profile("random", "each channel's rate is drawn between 1 and 20, for life", _random),
        Profile("drifting", "each channel's rate is drawn between 1 and 100, again and again", _drifting),
        Profile("even", "all channels are written alike: nothing to level", _even),
    )
}


def rates(weights: NDArray[np.float64], life_s: float, mean_erases: float) -> NDArray[np.float64]:
    """Weights as erases per block per second, such that the mean over channels reaches `mean_erases` in the life.

    :raise UsageError: nothing is written at all, or a weight is negative or not finite.
    """
    import numpy as np

    if weights.ndim != 2 or not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise UsageError(
            "the profile's weights must be numbers from 0 on, some of them more",
            hint="one row for each part of life",
        )
    step_s = life_s / weights.shape[0]
    scaled: NDArray[np.float64] = weights * (mean_erases * weights.shape[1] / (weights.sum() * step_s))
    return scaled


def parse(text: str, steps: int = STEPS) -> NDArray[np.float64]:
    """Read a profile: lines of weights, one for each channel, with blanks or commas between; `#` starts a comment.

    Each line is an equal part of the life, in order; one line holds for all of it.

    :raise UsageError: a word that is no number, lines of different length, or fewer than two channels.
    """
    import numpy as np

    rows: list[list[float]] = []
    for number, raw in enumerate(text.splitlines(), 1):
        words = raw.partition("#")[0].replace(",", " ").split()
        if not words:
            continue
        try:
            rows.append([float(word) for word in words])
        except ValueError:
            raise UsageError(f"line {number} of the profile has no numbers: {raw[:60]!r}", hint=_FORM) from None
        if len(rows[-1]) != len(rows[0]):
            raise UsageError(
                f"line {number} of the profile has {len(rows[-1])} weights, the first one {len(rows[0])}",
                hint=_FORM,
            )
    if not rows or len(rows[0]) < 2:
        raise UsageError("the profile has fewer than two channels", hint=_FORM)
    table: NDArray[np.float64] = np.repeat(np.array(rows), max(1, round(steps / len(rows))), axis=0)
    return table


_FORM = "one line for each part of the life, in it one weight for each channel, such as `8 1 1 0.5`"
