"""Geometry, timing and presets: the arithmetic that everything else stands on."""

from __future__ import annotations

import pytest

from ringfence.errors import UsageError
from ringfence.flash.geometry import Device, Die, Geometry, HostLink, page_kind
from ringfence.flash.presets import PRESETS, VD16, preset
from ringfence.flash.vssd import bandwidth_of, dies_of_channels, striped


@pytest.mark.parametrize("device", PRESETS.values(), ids=lambda device: device.name)
def test_every_preset_is_an_ssd_and_says_where_it_is_from(device: Device) -> None:
    device.geometry.check()
    assert len(device.source) > 20
    assert all(ns > 0 for ns in (*device.timing.read_ns, *device.timing.program_ns, device.timing.erase_ns))


def test_die_numbers_and_addresses_are_inverse() -> None:
    geometry = Geometry(3, 2, 4, 1, 8, 8, 4096)
    assert [geometry.die_index(geometry.die_at(i)) for i in range(geometry.die_count)] == list(range(24))


@pytest.mark.parametrize("die", [Die(16, 0), Die(0, 4), Die(0, 0, 1), Die(-1, 0)])
def test_a_die_that_is_not_there_is_refused(die: Die) -> None:
    with pytest.raises(UsageError):
        VD16.geometry.die_index(die)


def test_a_geometry_without_pages_is_refused() -> None:
    with pytest.raises(UsageError):
        VD16.geometry._replace(pages=0).check()


def test_the_prototype_of_the_paper_holds_a_tebibyte() -> None:
    assert preset("flashblox").geometry.capacity_bytes == 2**40


def test_what_the_validation_device_s_bus_and_link_take() -> None:
    assert VD16.timing.transfer_ns(16384) == 49_152
    assert VD16.timing.transfer_ns(4096) == 12_288
    assert VD16.link.message_ns(16384) == 4_992
    assert VD16.link.message_ns(4096) == 1_248
    assert (VD16.link.doorbell_ns, VD16.link.read_request_ns, VD16.link.message_ns(16)) == (8, 8, 11)


def test_a_faster_link_takes_less() -> None:
    assert HostLink(bytes_per_us=16_000).message_ns(16384) == 1_248


def test_kinds_of_pages() -> None:
    assert [page_kind(page, 1) for page in range(4)] == [0, 0, 0, 0]
    assert [page_kind(page, 2) for page in range(4)] == [0, 1, 0, 1]
    assert [page_kind(page, 3) for page in range(14)] == [0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 1, 1, 2, 2]


def test_pages_are_spread_over_channels_first() -> None:
    dies = dies_of_channels(Geometry(4, 2, 2, 1, 8, 8, 4096), (1, 3))
    assert dies[:5] == (Die(1, 0), Die(3, 0), Die(1, 1), Die(3, 1), Die(1, 0, 1))
    assert striped((Die(2, 1), Die(2, 0), Die(0, 0))) == (Die(0, 0), Die(2, 0), Die(2, 1))


def test_a_channel_s_bandwidth_is_that_of_its_bus_or_of_its_dies() -> None:
    one = bandwidth_of(VD16, (Die(0, 0),))
    four = bandwidth_of(VD16, dies_of_channels(VD16.geometry, (0,)))
    assert four.write == pytest.approx(4 * one.write, rel=1e-6)
    assert one.read == pytest.approx(16384 / 124.462e-6, rel=1e-4)
    assert four.read == pytest.approx(16384 / 49.442e-6, rel=1e-4), "the bus is the limit"


def test_an_unknown_device_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError) as refused:
        preset("floppy")
    assert "vd16" in refused.value.hint
