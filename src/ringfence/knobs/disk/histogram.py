"""The knob `disk.<disk>.latency_histogram`: QEMU counts how long a disk's requests take, by bins.

What is measured lies below the device: the time in QEMU's throttle is in it, that in the guest's queue is not.

Source: QEMU qapi/block-core.json (block-latency-histogram-set, BlockLatencyHistogramInfo).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ringfence import units
from ringfence.core.answers import entries, fields, number, text
from ringfence.core.knob import ONLY_VMS, Observation, Outcome, Part, Row, Verdict, Wants
from ringfence.core.requests import Agent, Qmp, Steps
from ringfence.errors import MonitorRefusedError
from ringfence.knobs.disk import names

_STEPS = (10, 15, 20, 30, 50, 70)
BOUNDARIES_NS = (*(step * 10**power for power in range(4, 9) for step in _STEPS), 10**10)
"""100 us to 10 s, six bins a decade: a percentile is known to within half its value."""

_ROW = Row(
    key="disk.<disk>.latency_histogram",
    unit=units.SWITCH,
    mechanism="block-latency-histogram-set",
    help="count how long requests take; `show` then gives percentiles. Set anew, it starts from zero",
    lifts=True,
    main=False,
    lifted="off",
)
_DIRECTIONS = {"reads": "rd", "writes": "wr"}


class State(NamedTuple):
    """:param histograms: by `rd` and `wr`, QEMU's own; empty while it is off."""

    disk: names.Disk
    histograms: Mapping[str, Mapping[str, Sequence[int]]]


class LatencyHistogram:
    """See the module."""

    prefix = "disk"
    tenants = ONLY_VMS
    rows: tuple[Row, ...] = (_ROW,)
    events: tuple[str, ...] = ()

    def observe(self) -> Steps[tuple[Part, ...]]:
        """Read every disk's histograms; one Part each."""
        disks = yield from names.observe()
        stats = _by_qdev((yield Qmp("query-blockstats")))
        return tuple(_part(disk, stats) for disk in disks)

    def observation(self, part: Part, row: Row) -> Observation:
        """Whether it is on; the notes are the percentiles."""
        state: State = part.state
        now = "on" if state.histograms else None
        notes = [_percentiles(words, state.histograms.get(kind)) for words, kind in _DIRECTIONS.items()]
        return Observation(
            row, f"disk.{part.name}.latency_histogram", now, now, notes=tuple(note for note in notes if note)
        )

    def check(self, part: Part, wants: Wants, *, force: bool) -> None:
        """Every disk can be measured."""

    def changes(self, part: Part, wants: Wants) -> list[Qmp | Agent]:
        """One command, or nothing when it already is so: bins that were counted are kept."""
        state: State = part.state
        wanted = wants["latency_histogram"] is not None
        if wanted == bool(state.histograms):
            return []
        arguments: dict[str, object] = {"id": state.disk.short_path}
        if wanted:
            arguments["boundaries"] = list(BOUNDARIES_NS)
        return [Qmp("block-latency-histogram-set", arguments)]

    def apply(self, part: Part, wants: Wants, *, timeout_s: float, force: bool) -> Steps[Outcome]:
        """Send it and read back."""
        changes = self.changes(part, wants)
        if not changes:
            return Outcome(Verdict.APPLIED, part, notes=("already so",))
        try:
            yield changes[0]
        except MonitorRefusedError as refusal:
            return Outcome(Verdict.REFUSED, part, by="QEMU", detail=refusal.message, hint=refusal.hint)
        after = _part(part.state.disk, _by_qdev((yield Qmp("query-blockstats"))))
        if bool(after.state.histograms) != (wants["latency_histogram"] is not None):
            return Outcome(
                Verdict.FAILED, after, by="QEMU", detail="QEMU accepted the command and did not follow it"
            )
        return Outcome(Verdict.APPLIED, after)


def _by_qdev(stats: Any) -> dict[str, Mapping[str, Any]]:
    return {text(entry.get("qdev", "")): fields(entry["stats"]) for entry in entries(stats)}


def _part(disk: names.Disk, stats: Mapping[str, Mapping[str, Any]]) -> Part:
    found = stats.get(disk.qdev, {})
    histograms = {
        kind: _histogram(found[f"{kind}_latency_histogram"])
        for kind in _DIRECTIONS.values()
        if f"{kind}_latency_histogram" in found
    }
    return Part(disk.name, disk.aliases, State(disk, histograms), disk.qdev)


def _histogram(found: Any) -> dict[str, list[int]]:
    boundaries, bins = ([number(value) for value in fields(found)[name]] for name in ("boundaries", "bins"))
    if len(bins) != len(boundaries) + 1 or min(bins) < 0:
        raise ValueError(f"{len(bins)} bins of a histogram between {len(boundaries)} boundaries")
    return {"boundaries": boundaries, "bins": bins}


def _percentiles(words: str, histogram: Mapping[str, Sequence[int]] | None) -> str:
    if not histogram:
        return ""
    count = sum(histogram["bins"])
    if not count:
        return f"no {words} yet"
    p50, p99 = (percentile(histogram["boundaries"], histogram["bins"], part) for part in (0.5, 0.99))
    return f"{count} {words}: p50 {p50}, p99 {p99} (interpolated within bins)"


def percentile(boundaries_ns: Sequence[int], bins: Sequence[int], part: float) -> str:
    """The latency that `part` of the requests did not exceed, as a text; interpolated linearly within its bin.

    :param bins: counts, one more than boundaries: the first from 0 on, the last without an end. Not all 0.
    """
    rank = part * sum(bins)
    index, below = 0, 0
    while not bins[index] or below + bins[index] < rank:
        below += bins[index]
        index += 1
    if index == len(boundaries_ns):
        return f"above {units.format_seconds(boundaries_ns[-1] / 1e9)}"
    low = boundaries_ns[index - 1] if index else 0
    share = (rank - below) / bins[index]
    return units.format_seconds((low + share * (boundaries_ns[index] - low)) / 1e9)
