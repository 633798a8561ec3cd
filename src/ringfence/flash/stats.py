"""What a run shows: latencies, throughput, utilisation, write amplification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ringfence.flash.scenario import Result, Scenario


class Latency(NamedTuple):
    """In microseconds; the 99th percentile is the smallest time that 99 % of requests do not exceed."""

    requests: int
    mean_us: float
    p50_us: float
    p99_us: float
    p999_us: float
    max_us: float


class TenantFigures(NamedTuple):
    """:param iops: completed requests per second of the time in which the tenant asked.
    :param write_amplification: pages written to flash for one that the tenant wrote; 1 where it wrote none.
    """

    name: str
    read: Latency
    write: Latency
    all: Latency
    iops: float
    bytes_per_s: float
    write_amplification: float


class Figures(NamedTuple):
    """:param channel_use: share of the time that buses were busy, the mean of all; `die_use` the same of dies."""

    tenants: tuple[TenantFigures, ...]
    seconds: float
    channel_use: float
    die_use: float
    erases: int
    lent_pages: int
    return_us: float


def latency(times_ns: Sequence[int]) -> Latency:
    """:param times_ns: in any order."""
    if not len(times_ns):
        return Latency(0, 0.0, 0.0, 0.0, 0.0, 0.0)
    ordered = sorted(times_ns)
    count = len(ordered)

    def at(share: float) -> float:
        return ordered[min(count - 1, max(0, -int(-share * count // 1) - 1))] / 1000

    return Latency(count, sum(ordered) / count / 1000, at(0.5), at(0.99), at(0.999), ordered[-1] / 1000)


def figures(scenario: Scenario, result: Result, until_ns: int = 0) -> Figures:
    """:param until_ns: leave out what completed later, when flows that end run out; 0 takes all."""
    rows = [_tenant(scenario, result, number, until_ns) for number in range(len(scenario.tenants))]
    span = max(1, min(until_ns or result.end_ns, result.end_ns))
    span_all = max(1, result.end_ns)
    return Figures(
        tuple(rows),
        span / 1e9,
        sum(result.channel_busy_ns) / len(result.channel_busy_ns) / span_all,
        sum(result.die_busy_ns) / len(result.die_busy_ns) / span_all,
        sum(result.erases),
        result.lent_pages,
        result.return_ns / 1000,
    )


def _tenant(scenario: Scenario, result: Result, number: int, until_ns: int) -> TenantFigures:
    times: tuple[list[int], list[int]] = ([], [])
    size = first = last = 0
    first = -1
    for flow, begin in zip(scenario.flows, result.first, strict=True):
        if flow.tenant != number:
            continue
        count = len(flow.writes)
        arrived = _plain(result.arrived_ns[begin : begin + count])
        done = _plain(result.done_ns[begin : begin + count])
        rows = zip(arrived, done, _plain(flow.writes), _plain(flow.counts), strict=True)
        for came, went, write, sectors in rows:
            if went < 0 or (until_ns and went > until_ns):
                continue
            times[write].append(went - came)
            size += sectors * 512
            first = came if first < 0 else min(first, came)
            last = max(last, went)
    seconds = max(1, last - max(0, first)) / 1e9
    both = times[0] + times[1]
    programs, moves = result.programs[number], result.moves[number]
    return TenantFigures(
        scenario.tenants[number].name,
        latency(times[0]),
        latency(times[1]),
        latency(both),
        len(both) / seconds,
        size / seconds,
        (programs + moves) / programs if programs else 1.0,
    )


def _plain(values: Sequence[int]) -> Sequence[int]:
    """numpy's numbers as Python's, which are faster one by one."""
    convert = getattr(values, "tolist", None)
    return convert() if convert is not None else values
