"""A disk that was busy and does not go on is told by its counters; one that is idle, or slow by limit, is not."""

from __future__ import annotations

from typing import Any

import pytest

from ringfence.core.knob import Part
from ringfence.knobs.disk import names
from ringfence.knobs.disk.limits import FIELDS
from ringfence.knobs.disk.throttle import DiskThrottle, State
from ringfence.testing.steps import PaperVm

QDEV = "/machine/peripheral/vd2/virtio-backend"


class Counters:
    """A disk that finishes `per_s` requests of 4 KiB a second, the last one `idle_s` ago."""

    def __init__(self, per_s: float, idle_s: float | None) -> None:
        self.per_s, self.idle_s = per_s, idle_s
        self.vm = PaperVm({"query-blockstats": self.stats})
        self.start_s = self.vm.now_s

    def stats(self, _: object) -> list[dict[str, Any]]:
        done = 100 + int(self.per_s * (self.vm.now_s - self.start_s))
        found: dict[str, Any] = {"rd_operations": done, "rd_bytes": done * 4096, "wr_operations": 0, "wr_bytes": 0}
        if self.idle_s is not None:
            found["idle_time_ns"] = int(self.idle_s * 1e9)
        return [{"qdev": "other", "stats": {}}, {"qdev": QDEV, "stats": found}]

    def watch(self, **limits: int) -> str:
        disk = names.Disk("vda", (), QDEV, "", {"node-name": "n"}, ("n",))
        state = State(disk, dict.fromkeys(FIELDS.values(), 0), "", (), (disk,))
        return self.vm.play(DiskThrottle().watch(Part("vda", (), state, QDEV), limits))

    @property
    def took_s(self) -> float:
        return self.vm.now_s - self.start_s


def test_a_busy_disk_that_stops_is_told_within_seconds_with_what_can_free_it() -> None:
    disk = Counters(0, 0.01)
    told = disk.watch(iops=500)
    assert "has finished no request since" in told
    assert "disk.vda.iops=unlimited" in told
    assert "stop cont" in told
    assert 3 <= disk.took_s < 4


@pytest.mark.parametrize(("per_s", "idle_s", "most_s"), [(50, 0.01, 0.1), (0, 1.5, 0), (0, None, 0)])
def test_one_that_goes_on_or_was_idle_costs_no_time(per_s: float, idle_s: float | None, most_s: float) -> None:
    disk = Counters(per_s, idle_s)
    assert disk.watch(iops=500) == ""
    assert disk.took_s <= most_s


def test_a_request_that_is_slow_by_its_limit_is_not_waited_for() -> None:
    disk = Counters(0, 0.01)
    assert disk.watch(bps=4000) == ""
    assert disk.took_s == 0
