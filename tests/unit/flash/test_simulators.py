"""The simulator against the anchor's recorded completions, and against itself, compiled."""

from __future__ import annotations

import gzip
from pathlib import Path

import flash_scenarios
import pytest

from ringfence.errors import UsageError
from ringfence.flash.draw import Draw
from ringfence.flash.geometry import Geometry
from ringfence.flash.presets import VD16
from ringfence.flash.reference.device import simulate
from ringfence.flash.scenario import Flow, Lending, Result, Scenario
from ringfence.flash.vssd import Bandwidth, Isolation, VirtualSsd, dies_of_channels

GOLDEN = Path(__file__).parents[2] / "golden/flash/poisson_rd16k_60kiops.anchor.csv.gz"


def on_channels(name: str, channels: range, isolation: Isolation = Isolation.CHANNEL) -> VirtualSsd:
    """A tenant of the validation device with whole channels."""
    dies = dies_of_channels(VD16.geometry, tuple(channels))
    capacity = len(dies) * VD16.geometry.die_bytes * 873 // 1000 // 16384 * 16384
    return VirtualSsd(name, isolation, dies, 64, capacity, Bandwidth(0, 0))


def random_flow(tenant: int, write: int, depth: int, count: int, **more: int) -> Flow:
    """Requests of 16 KiB at addresses drawn by lot."""
    draw = Draw(tenant)
    sectors = [draw.below(200_000) * 32 for _ in range(count)]
    return Flow(tenant, [write] * count, sectors, [32] * count, depth=depth, **more)


def latencies(result: Result, first: int, count: int) -> list[int]:
    pairs = zip(result.arrived_ns[first : first + count], result.done_ns[first : first + count], strict=True)
    return sorted(done - arrived for arrived, done in pairs if done >= 0)


@pytest.mark.parametrize(
    ("write", "sectors", "expected_ns"),
    [(0, 8, 88_906), (0, 32, 129_514), (1, 32, 804_573)],
    ids=["read 4K", "read 16K", "write 16K"],
)
def test_one_request_at_a_time_takes_what_it_takes_in_the_anchor(
    write: int, sectors: int, expected_ns: int
) -> None:
    flow = Flow(0, [write] * 3, [0, 3200, 6400], [sectors] * 3, depth=1)
    result = simulate(Scenario(VD16, (on_channels("all", range(16)),), (flow,)))
    assert latencies(result, 0, 3)[-1] == expected_ns


def test_the_anchors_trace_completes_as_in_the_anchor() -> None:
    rows = [line.split(",") for line in gzip.decompress(GOLDEN.read_bytes()).decode().splitlines()[1:4001]]
    rows.sort(key=lambda row: int(row[4]))
    rows = rows[:3900]  # those that arrive later than what completes last are not all there
    flow = Flow(
        0,
        [int(row[1] == "W") for row in rows],
        [int(row[2]) for row in rows],
        [int(row[3]) for row in rows],
        [int(row[4]) for row in rows],
    )
    result = simulate(Scenario(VD16, (on_channels("all", range(16)),), (flow,)))
    same = sum(int(row[6]) == done for row, done in zip(rows, result.done_ns, strict=True))
    assert same >= len(rows) * 0.99


def test_own_channels_do_not_feel_a_neighbour_and_shared_ones_do() -> None:
    victim, noise = random_flow(0, 0, 4, 600), random_flow(1, 1, 64, 500)
    apart = (on_channels("v", range(8)), on_channels("n", range(8, 16)))
    alone = latencies(simulate(Scenario(VD16, apart, (victim,))), 0, 600)
    beside = latencies(simulate(Scenario(VD16, apart, (victim, noise))), 0, 600)
    assert sum(beside) == pytest.approx(sum(alone), rel=0.02)  # the link to the host is shared
    shared = tuple(
        on_channels(name, range(16), Isolation.NONE)._replace(blocks=0, capacity_bytes=2**32) for name in "vn"
    )
    together = latencies(simulate(Scenario(VD16, shared, (victim, noise))), 0, 600)
    assert together[590] > 2 * beside[590]


def test_idle_channels_serve_a_neighbour_and_come_back_within_a_program() -> None:
    pair = (on_channels("lender", range(8)), on_channels("borrower", range(8, 16)))
    noise = random_flow(1, 1, 64, 1500)
    sporadic = random_flow(0, 0, 4, 300, on_ns=2_000_000, off_ns=10_000_000)
    strict = simulate(Scenario(VD16, pair, (sporadic, noise)))
    lent = simulate(Scenario(VD16, pair, (sporadic, noise), lending=(Lending(0, 1, reserve_blocks=5),)))
    assert lent.lent_pages > 300
    assert max(lent.done_ns[300:]) < 0.85 * max(strict.done_ns[300:])
    one_program = VD16.timing.program_ns[0] + VD16.timing.transfer_ns(16384) * 4
    assert 0 < lent.return_ns <= one_program


def test_overwriting_makes_garbage_and_all_of_it_stays_consistent() -> None:
    device = VD16._replace(geometry=Geometry(1, 2, 1, 1, 32, 16, 16384), gc_free_blocks=4, gc_parallel=4)
    tenant = VirtualSsd(
        "t", Isolation.CHANNEL, dies_of_channels(device.geometry, (0,)), 32, 720 * 16384, Bandwidth(0, 0)
    )
    draw = Draw(1)
    pages = [draw.below(720) for _ in range(4000)]
    flow = Flow(0, [1] * 4000, [page * 32 for page in pages], [32] * 4000, depth=8)
    result = simulate(Scenario(device, (tenant,), (flow,)))
    assert min(result.done_ns) > 0
    assert result.programs == [4000]
    assert 200 < result.moves[0] < 12_000
    assert sum(result.erases) * 16 >= 4000 + result.moves[0] - 2 * 32 * 16


@pytest.mark.parametrize("seed", range(12))
def test_every_request_of_any_scenario_ends(seed: int) -> None:
    result = simulate(flash_scenarios.scenario(seed))
    assert min(result.done_ns) > 0
    assert all(done > arrived for arrived, done in zip(result.arrived_ns, result.done_ns, strict=True))


@pytest.mark.parametrize(
    "flow",
    [
        Flow(3, [0], [0], [32], depth=1),
        Flow(0, [0], [0], [32]),
        Flow(0, [0, 1], [0], [32], depth=1),
        Flow(0, [0, 1], [0, 0], [8, 8], arrivals_ns=[5]),
    ],
    ids=["no such tenant", "neither depth nor times", "lists differ", "too few times"],
)
def test_flows_that_mean_nothing_are_refused(flow: Flow) -> None:
    with pytest.raises(UsageError):
        simulate(Scenario(VD16, (on_channels("all", range(16)),), (flow,)))


def test_two_tenants_with_the_same_dies_of_their_own_are_refused() -> None:
    with pytest.raises(UsageError, match="has 0 left"):
        simulate(Scenario(VD16, (on_channels("a", range(8)), on_channels("b", range(7, 9))), ()))


def test_more_capacity_than_collection_can_work_with_is_refused() -> None:
    whole = on_channels("all", range(16))
    with pytest.raises(UsageError, match="blocks more"):
        simulate(Scenario(VD16, (whole._replace(capacity_bytes=VD16.geometry.capacity_bytes),), ()))
