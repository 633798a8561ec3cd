"""Limits of filters above a disk's image: which of them hold it lower than its own."""

from __future__ import annotations

import pytest
from fake_graph import EMPTY, FakeGraph

from ringfence import units
from ringfence.knobs.disk.above import Group, notes
from ringfence.knobs.disk.limits import FIELDS
from ringfence.knobs.disk.throttle import DiskThrottle

NONE = dict.fromkeys(FIELDS.values(), 0)
KNOB = DiskThrottle()
KEYS = {row.key.removeprefix("disk.<disk>."): row for row in KNOB.rows}


def shown(vm: FakeGraph, name: str, leaf: str = "iops") -> tuple[str, ...]:
    return KNOB.observation(vm.part(KNOB, name), KEYS[leaf]).notes


def pooled(**more: str | None) -> FakeGraph:
    vm = FakeGraph()
    vm.set(pool_bronze_iops="500", disk_vda_pool="bronze", **more)
    return vm


@pytest.mark.parametrize(
    ("leaf", "own", "filter_", "told"),
    [
        ("iops", {}, {"iops": 500}, ["500 for"]),
        ("iops", {"iops": 501}, {"iops": 500}, ["500 for"]),
        ("iops", {"iops": 500}, {"iops": 500}, []),
        ("iops", {"iops": 400}, {"iops": 500}, []),
        ("iops", {"iops_rd": 200, "iops_wr": 200}, {"iops": 500}, []),
        ("iops", {"iops_rd": 200}, {"iops": 500}, ["500 for"]),
        ("iops", {"iops": 100}, {"iops_rd": 50}, ["50 of reads for"]),
        ("iops", {"iops_rd": 40}, {"iops_rd": 50}, []),
        (
            "iops",
            {"iops": 200},
            {"iops_rd": 50, "iops_wr": 60},
            ["110 for", "50 of reads for", "60 of writes for"],
        ),
        ("iops.read", {"iops_rd": 200}, {"iops": 50}, ["50 for"]),
        ("iops.write", {"iops_wr": 200}, {"iops_rd": 50}, []),
        ("bps", {"bps": 2 << 20}, {"bps": 1 << 20, "iops": 5}, ["1 MiB/s for"]),
        ("iops.burst", {"iops": 9, "iops_max": 9}, {"iops": 5}, []),
        ("group", {"iops": 9}, {"iops": 5}, []),
    ],
)
def test_what_is_lower_is_told(leaf: str, own: dict[str, int], filter_: dict[str, int], told: list[str]) -> None:
    unit = units.BYTES_PER_S if leaf.startswith("bps") else units.IOPS
    found = notes(leaf, unit, {**NONE, **own}, [Group("tg0", {**NONE, **filter_})])
    assert len(found) == len(told)
    assert all(words in note for words, note in zip(told, found, strict=True)), found


def test_every_filter_above_is_told_by_its_name() -> None:
    groups = [Group("ringfence-pool-bronze", {**NONE, "iops": 5}), Group("tg0", {**NONE, "iops": 7})]
    bronze, foreign = notes("iops", units.IOPS, NONE, groups)
    assert bronze == "held lower by pool 'bronze': 5 for all disks in it"
    assert foreign == "held lower by throttle group 'tg0', not ringfence's: 7 for all disks in it"


def test_show_tells_of_a_pool_that_is_lower_at_the_disks_own_limit() -> None:
    vm = pooled()
    assert shown(vm, "vda") == ("held lower by pool 'bronze': 500 for all disks in it",)
    assert shown(vm, "vdb") == shown(vm, "vda", "bps") == shown(vm, "vda", "iops.read") == ()
    vm.own["/machine/peripheral/d0"] = {"iops": 100}
    assert shown(vm, "vda") == ()


def test_a_limit_set_above_that_of_the_pool_is_applied_with_a_note() -> None:
    vm = pooled()
    (higher,) = vm.set(disk_vda_iops="1000")
    assert higher.notes == ("held lower by pool 'bronze': 500 for all disks in it",)
    (lower,) = vm.set(disk_vda_iops="100")
    assert lower.notes == ()


def test_a_filter_whose_group_is_no_object_is_passed_over() -> None:
    vm = FakeGraph()
    vm.objects["tg0"] = EMPTY | {"iops-total": 7}
    vm.nodes["t0"] = {"drv": "throttle", "ro": False, "group": "tg0", "file": "n0"}
    vm.drives["/machine/peripheral/d0"] = "t0"
    assert "'tg0', not ringfence's: 7" in " ".join(shown(vm, "vda"))
    vm.nodes["t0"]["group"] = "of a drive"
    assert shown(vm, "vda") == ()
