"""Latency histograms: switched, read back, and what percentiles are made of their bins."""

from __future__ import annotations

from typing import Any

import pytest

from ringfence.core.knob import Part, Verdict
from ringfence.core.requests import Qmp
from ringfence.errors import MonitorRefusedError, UsageError
from ringfence.knobs import registry
from ringfence.knobs.disk.histogram import BOUNDARIES_NS, LatencyHistogram, percentile
from ringfence.testing.steps import PaperVm

KNOB = LatencyHistogram()
QDEV = "/machine/peripheral/d0/virtio-backend"


class FakeStats:
    def __init__(self) -> None:
        self.histograms: dict[str, Any] = {}
        self.script = PaperVm(
            {
                "query-block": [{"device": "", "qdev": QDEV, "inserted": {"node-name": "n0"}}],
                "query-blockstats": lambda _: [{"qdev": QDEV, "stats": dict(self.histograms)}],
                "block-latency-histogram-set": self.set,
            }
        )

    def set(self, arguments: Any) -> dict[str, Any]:
        assert arguments["id"] == "d0/virtio-backend"
        boundaries = arguments.get("boundaries")
        if boundaries:
            histogram = {"boundaries": boundaries, "bins": [0] * (len(boundaries) + 1)}
            self.histograms = {f"{kind}_latency_histogram": histogram for kind in ("rd", "wr", "flush")}
        else:
            self.histograms = {}
        return {}

    def part(self) -> Part:
        (part,) = self.script.play(KNOB.observe())
        return part

    def apply(self, value: str | None) -> Any:
        wants = {"latency_histogram": value}
        return self.script.play(KNOB.apply(self.part(), wants, timeout_s=1, force=False))


def test_on_and_off() -> None:
    vm = FakeStats()
    on = vm.apply("on")
    assert on.verdict is Verdict.APPLIED
    assert KNOB.observation(on.after, KNOB.rows[0]).actual == "on"
    assert KNOB.observation(on.after, KNOB.rows[0]).notes == ("no reads yet", "no writes yet")
    assert KNOB.observation(vm.apply(None).after, KNOB.rows[0]).actual is None
    assert vm.histograms == {}


def test_what_was_counted_is_kept_when_it_is_on_already() -> None:
    vm = FakeStats()
    vm.apply("on")
    assert vm.apply("on").notes == ("already so",)
    assert len(vm.script.changes()) == 1


def test_the_boundaries_go_from_100_us_to_10_s() -> None:
    (request,) = KNOB.changes(FakeStats().part(), {"latency_histogram": "on"})
    assert isinstance(request, Qmp)
    boundaries: Any = request.arguments["boundaries"]
    assert (boundaries[0], boundaries[-1]) == (100_000, 10_000_000_000)
    assert boundaries == sorted(set(boundaries))


def test_a_refusal_and_a_command_without_effect() -> None:
    vm = FakeStats()
    vm.script.answers["block-latency-histogram-set"] = {}
    assert vm.apply("on").verdict is Verdict.FAILED
    vm.script.answers["block-latency-histogram-set"] = MonitorRefusedError("no such disk")
    assert (vm.apply("on").verdict, vm.apply("on").detail) == (Verdict.REFUSED, "no such disk")


def test_percentiles_are_shown_for_each_direction() -> None:
    vm = FakeStats()
    vm.apply("on")
    vm.histograms["rd_latency_histogram"] = {"boundaries": [100_000, 200_000], "bins": [50, 50, 0]}
    notes = KNOB.observation(vm.part(), KNOB.rows[0]).notes
    assert notes == ("100 reads: p50 100 us, p99 198 us (interpolated within bins)", "no writes yet")


@pytest.mark.parametrize(
    ("bins", "part", "text"),
    [
        ([10, 0, 0], 0.5, "50 us"),
        ([0, 10, 0], 0.5, "150 us"),
        ([0, 0, 10], 0.5, "above 200 us"),
        ([99, 0, 1], 0.99, "100 us"),
        ([98, 0, 2], 0.99, "above 200 us"),
        ([0, 1, 0], 0.99, "199 us"),
    ],
)
def test_percentile(bins: list[int], part: float, text: str) -> None:
    assert percentile([100_000, 200_000], bins, part) == text


@pytest.mark.parametrize(("text", "value"), [("on", "on"), ("ON", "on"), ("off", None)])
def test_the_switch_is_read(text: str, value: str | None) -> None:
    assert registry.parse_value(registry.parse_key("disk.vda.latency_histogram"), text) == value


def test_what_is_neither_on_nor_off() -> None:
    with pytest.raises(UsageError, match="neither on nor off"):
        registry.parse_value(registry.parse_key("disk.vda.latency_histogram"), "yes")


def test_boundaries_are_whole_numbers() -> None:
    assert all(isinstance(boundary, int) for boundary in BOUNDARIES_NS)
