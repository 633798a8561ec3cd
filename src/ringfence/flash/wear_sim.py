"""Years of wear in seconds: channels, the tenants that write them, and a policy that swaps them.

Only counts and rates: no request is simulated. Each tenant's channel is a *slot*; a slot lies on a physical
channel and moves with its contents. The device knows what any controller can count, the erases that each slot
caused; it is not told what the tenants are going to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ringfence.errors import UsageError
from ringfence.flash import wear
from ringfence.flash.forecast import Forecast

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ringfence.flash.geometry import Device

DAY_S = 86_400.0
YEAR_S = 365.25 * DAY_S

LOOKS = 16
"""In each period of the schedule: so that a tenant that turns hot in the middle of one is seen. A swap that was
not needed earlier may be made at any of them, but never more swaps in all than periods have passed."""

Choose = Callable[[Sequence[float], Sequence[float], float], wear.Swap | None]


class Channel(NamedTuple):
    """What moving a channel's contents takes.

    :param bytes_per_s: at which one channel's contents are written to another that does nothing else.
    :param budget_erases: what a block endures.
    """

    capacity_bytes: int = 64 * 2**30
    bytes_per_s: float = 82e6
    budget_erases: float = 3000.0


class Setting(NamedTuple):
    """One run.

    :param excess: wanted at the end of life, see `wear.Schedule`.
    :param share: of a channel's time that a swap in the background may take while it lasts.
    :param adaptive: leave out the chances at which nothing needs to be done; False swaps at each that helps.
    :param choose: the policy; `never` for none.
    """

    life_s: float = 5 * YEAR_S
    excess: float = 0.1
    channel: Channel = Channel()
    share: float = 0.1
    adaptive: bool = True
    choose: Choose = wear.choose_swap

    @property
    def swap_s(self) -> float:
        """How long a swap lasts. Both channels are written at once, each with the other's contents."""
        return self.channel.capacity_bytes / self.channel.bytes_per_s / self.share


def setting_of(device: Device, *, life_s: float, excess: float, share: float) -> Setting:
    """The setting for an SSD. A channel's contents are written as fast as its dies and its bus take them.

    :raise UsageError: a share outside 0 to 1.
    """
    if not 0 < share <= 1:
        raise UsageError(f"a share of {share:g} of a channel's time cannot be", hint="such as 0.1 for a tenth")
    geometry, timing = device.geometry, device.timing
    program_ns = sum(timing.program_ns) / len(timing.program_ns)
    transfer_ns = timing.transfer_ns(geometry.page_bytes) + timing.program_command_ns
    # A die that programs several planes at once is not assumed: the slower case is charged.
    page_ns = max(transfer_ns, (transfer_ns + program_ns) / geometry.dies_per_channel)
    channel = Channel(geometry.channel_bytes, geometry.page_bytes / page_ns * 1e9, float(device.endurance_erases))
    return Setting(life_s, excess, channel, share)


class Course(NamedTuple):
    """What became of it.

    :param times_s: of the samples, from just after the start to the end of life.
    :param wears: of each physical channel at these times, in erases per block; swaps included.
    :param imbalances: at these times.
    :param swaps: when each was decided, and which.
    :param allowed: the most swaps that the schedule has room for.
    :param swap_erases: that swaps added, per block, as a mean over all channels.
    :param swap_busy_s: of channel time that all swaps took.
    """

    times_s: NDArray[np.float64]
    wears: NDArray[np.float64]
    imbalances: NDArray[np.float64]
    swaps: tuple[tuple[float, wear.Swap], ...]
    allowed: int
    swap_erases: float
    swap_busy_s: float

    @property
    def final(self) -> float:
        """The imbalance at the end of life."""
        return float(self.imbalances[-1])

    @property
    def worst_in_second_half(self) -> float:
        """The largest imbalance after half of the life."""
        return float(self.imbalances[self.times_s >= self.times_s[-1] / 2].max())


def never(_wear: Sequence[float], _rate: Sequence[float], _horizon_s: float) -> None:
    """The policy that swaps nothing."""


class _Load:
    """What the slots have worn until any time, from rates that are constant over each step."""

    def __init__(self, rates: NDArray[np.float64], life_s: float) -> None:
        import numpy as np

        steps = rates.shape[0]
        self._edges = np.linspace(0.0, life_s, steps + 1)
        zero = np.zeros((1, rates.shape[1]))
        self._total = np.concatenate([zero, np.cumsum(rates * (life_s / steps), axis=0)])

    def until(self, time_s: float) -> NDArray[np.float64]:
        import numpy as np

        place = int(np.clip(np.searchsorted(self._edges, time_s, side="right") - 1, 0, len(self._edges) - 2))
        start, end = self._edges[place], self._edges[place + 1]
        part = (time_s - start) / (end - start)
        found: NDArray[np.float64] = self._total[place] * (1 - part) + self._total[place + 1] * part
        return found


class _Device:
    """Where each slot lies, and how worn each channel is."""

    def __init__(self, load: _Load, channels: int) -> None:
        import numpy as np

        self._load = load
        self._now_s = self._counted_s = 0.0
        self._forecast = Forecast(channels, LOOKS)
        self.slots = np.arange(channels)  # by physical channel
        self.wear = np.zeros(channels)

    def advance(self, to_s: float) -> None:
        worn = self._load.until(to_s) - self._load.until(self._now_s)
        self.wear += worn[self.slots]
        self._now_s = to_s

    def expected_rates(self) -> list[float]:
        """Erases per block per second that each channel's present slot is expected to cause, by what was counted.

        Call it once at each look.
        """
        counted = self._load.until(self._now_s) - self._load.until(self._counted_s)
        lasted_s = self._now_s - self._counted_s
        self._counted_s = self._now_s
        self._forecast.observe([float(count) / lasted_s for count in counted])
        expected = self._forecast.next()
        return [expected[slot] for slot in self.slots]

    def switch(self, swap: wear.Swap) -> None:
        """The contents have changed places. Each block of both was erased once for it."""
        both = [swap.hot, swap.cold]
        self.slots[both] = self.slots[both[::-1]]
        self.wear[both] += 1.0


def simulate(rates: NDArray[np.float64], setting: Setting, *, samples: int = 500) -> Course:
    """Wear an SSD for its life.

    :param rates: erases per block per second, one column a slot; the rows are equal parts of the life, in order.
    :param samples: how many points the course has.
    :raise UsageError: as in `wear.schedule`.
    """
    import numpy as np

    channels = rates.shape[1]
    plan = wear.schedule(channels, setting.life_s, setting.excess)
    device = _Device(_Load(rates, setting.life_s), channels)
    times = np.linspace(0.0, setting.life_s, samples + 1)[1:]
    rows: list[NDArray[np.float64]] = []
    swaps: list[tuple[float, wear.Swap]] = []
    pending: tuple[float, wear.Swap] | None = None
    for time_s, kind in _events(times, plan, setting.life_s):
        if pending is not None and pending[0] <= time_s:
            device.advance(pending[0])
            device.switch(pending[1])
            pending = None
        device.advance(time_s)
        if kind == "sample":
            rows.append(device.wear.copy())
        else:
            swap = _decide(device, plan, setting, time_s, len(swaps))
            if swap is not None:
                swaps.append((time_s, swap))
                pending = (time_s + setting.swap_s, swap)
    wears = np.array(rows)
    means = wears.mean(axis=1)
    return Course(
        times_s=times,
        wears=wears,
        imbalances=np.where(means > 0, wears.max(axis=1) / np.where(means > 0, means, 1.0), 1.0),
        swaps=tuple(swaps),
        allowed=plan.swaps,
        swap_erases=2 * len(swaps) / channels,
        swap_busy_s=2 * len(swaps) * setting.swap_s * setting.share,
    )


def _events(times: NDArray[np.float64], plan: wear.Schedule, life_s: float) -> Iterator[tuple[float, str]]:
    """Samples and looks, in order of time."""
    looks = int(life_s / plan.period_s * LOOKS)
    at = ((number * plan.period_s / LOOKS, "look") for number in range(1, looks))
    samples = ((float(time_s), "sample") for time_s in times)
    yield from sorted([*at, *samples])


def _decide(device: _Device, plan: wear.Schedule, setting: Setting, time_s: float, made: int) -> wear.Swap | None:
    """What to swap now. A swap that would not end within the life is none."""
    rates = device.expected_rates()
    remaining_s = setting.life_s - time_s
    # Rounded up a little: the look at the very end of a period belongs to the next one.
    if made >= int(time_s / plan.period_s + 1e-9) or setting.swap_s >= min(remaining_s, plan.period_s / LOOKS):
        return None
    worn = [float(value) for value in device.wear]
    if setting.adaptive and not wear.is_due(worn, rates, remaining_s, plan.excess):
        return None
    return setting.choose(worn, rates, min(plan.period_s, remaining_s))
