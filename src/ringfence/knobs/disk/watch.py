"""Does a disk go on? After a change of its limits or block nodes, requests that were flowing must flow again.

QEMU does not count requests in flight. The evidence of demand is that requests finished within the last second
before the change (`idle_time_ns`); the evidence of progress is that one finished after it. A disk without demand
costs no time, one that goes on costs one look.

Source: QEMU qapi/block-core.json (BlockDeviceStats).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ringfence.core.answers import entries, fields, number
from ringfence.core.requests import Clock, Qmp, Steps, Wait
from ringfence.knobs.disk.limits import RATES, Limits

_DEMAND_WITHIN_NS = 1_000_000_000
_PATIENCE_S = 3.0
_LOOK_EVERY_S = 0.05
_COUNTERS = tuple(
    f"{outcome}{kind}_operations" for outcome in ("", "failed_") for kind in ("rd", "wr", "flush", "unmap")
)
_SIZES = ("bytes", "operations")
_SLOWEST_S = 1.0
"""Where the limits leave a request more time than this, waiting for one tells nothing."""

STALLED = "was busy and has finished no request since, for 3 s"


class Flow(NamedTuple):
    """:param finished: requests so far.
    :param wanted: whether some finished within the last second.
    :param request_bytes: what they had on the average.
    """

    finished: int
    wanted: bool
    request_bytes: float = 0.0


def look(qdev: str) -> Steps[Flow]:
    """How far a disk has come. `qdev` is its QOM path."""
    answer = yield Qmp("query-blockstats")
    stats: Mapping[str, Any] = next((fields(e["stats"]) for e in entries(answer) if e.get("qdev") == qdev), {})
    # Without the time no request ever finished.
    idle_ns = stats.get("idle_time_ns")
    finished = sum(number(stats.get(counter, 0)) for counter in _COUNTERS)
    moved, asked = (sum(number(stats.get(f"{kind}_{of}", 0)) for kind in ("rd", "wr")) for of in _SIZES)
    wanted = idle_ns is not None and number(idle_ns) < _DEMAND_WITHIN_NS
    return Flow(finished, wanted, moved / asked if asked else 0.0)


def stalled(qdev: str, before: Flow) -> Steps[bool]:
    """Whether a disk in demand finished no request for three seconds."""
    if not before.wanted:
        return False
    start = yield Clock()
    while True:
        now = yield from look(qdev)
        if now.finished != before.finished:
            return False
        if (yield Clock()) - start >= _PATIENCE_S:
            return True
        yield Wait((), _LOOK_EVERY_S)


def stalled_by(qdev: str, limits: Limits) -> Steps[bool]:
    """As `stalled`, right after a change to these limits, which may be why it takes its time."""
    before = yield from look(qdev)
    each_s = [1 / limits[field] for field in RATES.values() if limits[field] and field.startswith("iops")]
    each_s += [
        before.request_bytes / limits[field] for field in RATES.values() if limits[field] and field[0] == "b"
    ]
    if max(each_s, default=0.0) > _SLOWEST_S:
        return False
    return (yield from stalled(qdev, before))
