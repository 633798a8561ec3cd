"""Mixes, traces, figures, and classes side by side."""

from __future__ import annotations

from collections import Counter

import pytest

from ringfence.errors import UsageError
from ringfence.flash.classes import bucket, scenario_of, split
from ringfence.flash.presets import VD16
from ringfence.flash.reference.device import simulate
from ringfence.flash.scenario import lay_out
from ringfence.flash.stats import figures, latency
from ringfence.flash.vssd import Isolation
from ringfence.flash.workloads import MIXES, Mix, flow_of, mix, read_trace

CAPACITY = 2**30


@pytest.mark.parametrize("one", MIXES.values(), ids=lambda one: one.name)
def test_a_mix_is_what_it_says(one: Mix) -> None:
    flow = flow_of(one, 0, CAPACITY, 3000)
    assert sum(flow.writes) / 3000 == pytest.approx(1 - one.reads, abs=0.03)
    assert all(s >= 0 and s + c <= CAPACITY // 512 for s, c in zip(flow.sectors, flow.counts, strict=True))
    assert {c for w, c in zip(flow.writes, flow.counts, strict=True) if w} <= {one.write_kib * 2}


def test_zipfian_addresses_are_unequal_and_uniform_ones_are_not() -> None:
    zipfian = Counter(flow_of(mix("ycsb-c"), 0, CAPACITY, 5000).sectors)
    uniform = Counter(flow_of(mix("randread"), 0, CAPACITY, 5000).sectors)
    assert zipfian.most_common(1)[0][1] > 10 * uniform.most_common(1)[0][1]


def test_the_same_seed_gives_the_same_requests() -> None:
    assert flow_of(mix("tpcc"), 0, CAPACITY, 100) == flow_of(mix("tpcc"), 0, CAPACITY, 100)
    assert flow_of(mix("tpcc"), 0, CAPACITY, 100, seed=2) != flow_of(mix("tpcc"), 0, CAPACITY, 100)


def test_both_kinds_of_traces_are_read() -> None:
    flow = read_trace(["3404 0 2117504 32 1", "", "# a comment", "9000 0 64 8 0"], 0, CAPACITY)
    assert (list(flow.arrivals_ns), list(flow.writes), list(flow.counts)) == ([3404, 9000], [0, 1], [32, 8])
    msr = read_trace(
        [
            "128166372003061629,usr,0,Read,7014609920,24576,41286",
            "128166372016382155,usr,0,Write,1317441536,8192,1963",
        ],
        0,
        2**40,
    )
    assert list(msr.arrivals_ns) == [0, 1_332_052_600]
    assert (msr.sectors[0], list(msr.counts), list(msr.writes)) == (13_700_410, [48, 16], [0, 1])


@pytest.mark.parametrize("line", ["hello", "1 0 0 0 1", "a 0 1 8 1", "1,h,0,Trim,0,512,1", "1 0 -8 8 1", "1,2"])
def test_a_line_that_is_no_request_is_refused_by_its_number(line: str) -> None:
    with pytest.raises(UsageError, match="line 2"):
        read_trace(["1 0 0 8 1", line], 0, CAPACITY)


def test_percentiles_are_by_nearest_rank() -> None:
    found = latency([1000 * i for i in range(100, 0, -1)])
    assert (found.p50_us, found.p99_us, found.p999_us, found.max_us, found.mean_us) == (50, 99, 100, 100, 50.5)
    assert latency([]).requests == 0


@pytest.mark.parametrize("isolation", list(Isolation))
def test_every_class_divides_the_device_and_runs(isolation: Isolation) -> None:
    names = ("victim", "noise")
    capacity = split(VD16, isolation, names)[0].capacity_bytes
    flows = tuple(
        flow_of(mix(kind), number, capacity, 200) for number, kind in enumerate(("randread", "randwrite"))
    )
    scenario = scenario_of(VD16, isolation, names, flows)
    lay_out(scenario)
    found = figures(scenario, simulate(scenario))
    assert [tenant.all.requests for tenant in found.tenants] == [200, 200]
    assert 0 < found.die_use < 1
    assert found.tenants[0].read.p50_us >= 129


def test_a_tuned_bucket_charges_a_write_what_it_takes() -> None:
    tuned, untuned = bucket(VD16, 0.5, tuned=True), bucket(VD16, 0.5, tuned=False)
    assert tuned.write_cost > 6 * tuned.read_cost
    assert untuned.write_cost == untuned.read_cost


def test_more_tenants_than_channels_are_refused() -> None:
    with pytest.raises(UsageError):
        split(VD16, Isolation.CHANNEL, tuple(f"t{i}" for i in range(17)))
