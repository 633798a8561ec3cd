"""How a move is taken: in steps, not faster than was asked for, not past its deadline."""

from __future__ import annotations

from typing import NamedTuple

from ringfence import units
from ringfence.core.requests import Clock, Progress, Steps, Wait
from ringfence.errors import MonitorRefusedError

POLL_S = 0.1
STANDSTILL_S = 5.0
"""QEMU reports a moving balloon at least once a second; five times that without a move is a standstill."""
_STEP_S = 0.25
"""A paced move shows no jump that a second's average would not hide."""
_MOST_STEPS = 100


class Trip(NamedTuple):
    """What all moves of one change share.

    :param deadline: on the monotonic clock; the time that `pace` itself takes is in it.
    :param pace: bytes/s at most; None is at once.
    :param done: bytes that earlier moves moved, of `total`.
    :param force: do not mind the guest.
    """

    deadline: float
    pace: int | None
    total: int
    done: int
    force: bool

    def progress(self, moved: int) -> Progress:
        """For `moved` bytes of the present move."""
        return Progress("memory.target", self.done + moved, self.total, units.BYTES)


class Trouble(NamedTuple):
    """Why a move ended before its end.

    :param by: who is to blame: `guest`, `QEMU` or `ringfence`.
    :param hint: what to do next; empty when there is nothing to say.
    """

    by: str
    detail: str
    hint: str = ""


class Seen(NamedTuple):
    """How a move ended. :param trouble: None when it was met."""

    trouble: Trouble | None
    notes: tuple[str, ...] = ()


LATER = "set the rest once the guest uses less, or with a longer --timeout"


def refused(refusal: MonitorRefusedError) -> Trouble:
    """QEMU answered with an error."""
    return Trouble("QEMU", refusal.message, refusal.hint)


def stops(have: int, want: int, largest: int, *, pace: int | None = None, block: int = 1) -> list[int]:
    """Where to stop on the way: at most `largest` bytes apart, less at a slow pace, in whole blocks."""
    distance = abs(want - have)
    if pace:
        largest = min(largest, max(int(pace * _STEP_S), distance // _MOST_STEPS))
    step = max(block, largest // block * block)
    return [*(range(have + step, want, step) if want > have else range(have - step, want, -step)), want]


def wait(trip: Trip, moved: int, start: float) -> Steps[None]:
    """Until `moved` bytes since `start` are not too many for the pace."""
    if trip.pace:
        now = yield Clock()
        ahead_s = start + moved / trip.pace - now
        if ahead_s > 0:
            yield Wait((), ahead_s)
