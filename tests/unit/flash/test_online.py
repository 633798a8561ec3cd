"""The live model: its times are the timing contract's, its collection is the tenant's own, its state survives."""

from __future__ import annotations

import random

import pytest

from ringfence.errors import UsageError
from ringfence.flash.geometry import Device
from ringfence.flash.online import OnlineDevice, scaled
from ringfence.flash.presets import VD16
from ringfence.flash.vssd import Bandwidth, Isolation, VirtualSsd, dies_of_channels

SMALL = VD16._replace(geometry=VD16.geometry._replace(channels=2, chips=2, blocks=24, pages=8))
PAGE = 32  # sectors


def tenant(
    name: str, channels: tuple[int, ...], isolation: Isolation, pages: int, device: Device = SMALL
) -> VirtualSsd:
    dies = dies_of_channels(device.geometry, channels)
    return VirtualSsd(name, isolation, dies, 0, pages * 16384, Bandwidth(0, 0))


def one(device: Device = SMALL, pages: int = 400) -> OnlineDevice:
    return OnlineDevice(device, [tenant("a", (0, 1), Isolation.CHANNEL, pages, device)])


def drain(model: OnlineDevice) -> dict[int, int]:
    done: dict[int, int] = {}
    while (at := model.next_ns) is not None:
        done |= dict(model.advance(at))
    return done


def test_one_request_takes_what_the_contract_says() -> None:
    model = one(VD16)
    model.submit(0, 0, write=False, sector=0, count=PAGE)
    assert drain(model) == {0: 290 + 75_020 + 49_152}
    model.submit(10**9, 0, write=False, sector=0, count=8)
    assert drain(model) == {1: 10**9 + 290 + 75_020 + 12_288}
    model.submit(2 * 10**9, 0, write=True, sector=0, count=PAGE)
    assert drain(model) == {2: 2 * 10**9 + 361 + 49_152 + 750_000}


def test_chips_work_at_once_and_share_their_bus() -> None:
    model = one()
    for page in (0, 2):  # both on channel 0
        model.submit(0, 0, write=False, sector=page * PAGE, count=PAGE)
    assert list(drain(model).values()) == [290 + 75_020 + 49_152, 290 + 75_020 + 2 * 49_152]


def test_reads_go_before_writes_that_wait() -> None:
    model = one()
    for _ in range(3):
        model.submit(0, 0, write=True, sector=0, count=PAGE)
    read = model.submit(1, 0, write=False, sector=0, count=PAGE)
    done = drain(model)
    assert done[0] < done[read] < done[1] < done[2]


def test_a_request_over_several_pages_ends_with_its_last() -> None:
    model = one()
    model.submit(0, 0, write=True, sector=8, count=2 * PAGE)
    (at,) = drain(model).values()
    assert at >= 361 + 49_152 + 750_000


def overwrite(model: OnlineDevice, count: int, pages: int, tenant_number: int = 0) -> None:
    draw = random.Random(1)
    now = 0
    for _ in range(count):
        model.submit(now, tenant_number, write=True, sector=draw.randrange(pages) * PAGE, count=PAGE)
        now = max(drain(model).values(), default=now) + 1


def test_overwriting_collects_and_wears() -> None:
    model = one()
    overwrite(model, 1500, 400)
    erases = sum(sum(pool.erases) for pool in model.pools)
    assert erases * 8 == pytest.approx(1500 + model.moved_pages - 4 * 24 * 8, abs=4 * 24 * 8)
    for pool in model.pools:
        assert len(pool.place) == len(pool.owner) == sum(pool.valid) <= 100 + 1
        assert all(pool.owner[page] == logical for logical, page in pool.place.items())


def test_a_burst_of_writes_larger_than_the_free_blocks_ends() -> None:
    model = one()
    for _ in range(4):
        for page in range(400):
            model.submit(0, 0, write=True, sector=page * PAGE, count=PAGE)
    assert len(drain(model)) == 1600


def test_a_neighbour_on_other_channels_is_not_felt() -> None:
    def victim(aggressor: bool, isolation: Isolation) -> list[int]:
        channels = ((0,), (1,)) if isolation is Isolation.CHANNEL else ((0, 1), (0, 1))
        model = OnlineDevice(
            SMALL, [tenant("v", channels[0], isolation, 100), tenant("a", channels[1], isolation, 100)]
        )
        for page in range(100 if aggressor else 0):
            model.submit(0, 1, write=True, sector=page * PAGE, count=PAGE)
        reads = [model.submit(5, 0, write=False, sector=page * PAGE, count=PAGE) for page in range(20)]
        done = drain(model)
        return [done[number] for number in reads]

    assert victim(True, Isolation.CHANNEL) == victim(False, Isolation.CHANNEL)
    assert max(victim(True, Isolation.NONE)) > 1.5 * max(victim(False, Isolation.NONE))


def test_the_state_survives_and_a_collection_cut_off_loses_nothing() -> None:
    model = one()
    overwrite(model, 600, 400)
    for page in range(60):  # leaves work under way
        model.submit(10**12, 0, write=True, sector=page * PAGE, count=PAGE)
    state = [pool.state() for pool in model.pools]
    again = one()
    again.restore(state)
    assert [pool.place for pool in again.pools] == [pool.place for pool in model.pools]
    for pool in again.pools:
        assert {*pool.free, pool.open, *(page // 8 for page in pool.owner)} == set(range(24))
    overwrite(again, 300, 400)
    for wrong in ([None], [{}] * 4, [{**state[0], "erases": [1]}] * 4, [{**state[0], "page": [0] * 99}] * 4):
        with pytest.raises(UsageError, match="another device"):
            one().restore(wrong)


def test_what_was_discarded_is_not_moved() -> None:
    model = one()
    overwrite(model, 400, 400)
    model.discard(0, 0, 400 * PAGE)
    assert sum(len(pool.place) for pool in model.pools) == 0


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="software"):
        OnlineDevice(SMALL, [tenant("a", (0,), Isolation.SOFTWARE, 10)])
    with pytest.raises(UsageError, match="same die"):
        OnlineDevice(SMALL, [tenant(name, (0,), Isolation.CHANNEL, 10) for name in "ab"])
    with pytest.raises(UsageError, match="room for"):
        OnlineDevice(SMALL, [tenant("a", (0,), Isolation.CHANNEL, 384)])
    with pytest.raises(UsageError):
        scaled(VD16, 0)
    assert scaled(VD16, 20).timing.read_ns == (1_500_000,)
