"""Disk limits: names, merging, QEMU's rules in the user's words, and what is sent."""

from __future__ import annotations

from typing import Any

import pytest

from ringfence.core.knob import Outcome, Part, Verdict
from ringfence.core.requests import Qmp
from ringfence.errors import MonitorRefusedError, TenantError, UsageError
from ringfence.knobs import registry
from ringfence.knobs.disk.throttle import DiskThrottle
from ringfence.testing.steps import PaperVm

KNOB = DiskThrottle()
BACKEND = "/machine/peripheral/vd2/virtio-backend"


def actual(outcome: Outcome) -> object:
    """What the knob's first key is after the change."""
    assert outcome.after is not None
    return KNOB.observation(outcome.after, KNOB.rows[0]).actual


def block(qdev: str, *, device: str = "", node: str = "#block1", **limits: Any) -> dict[str, Any]:
    """An entry of query-block, as QEMU 7.2 writes it."""
    zeros = dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)
    return {"device": device, "qdev": qdev, "inserted": {"node-name": node, **zeros, **limits}, "type": "unknown"}


class FakeBlocks:
    """The throttle of a VM's disks, as far as block_set_io_throttle has shown to behave on real QEMUs."""

    def __init__(self, *blocks: dict[str, Any]) -> None:
        self.blocks = {b["qdev"]: b for b in blocks}
        self.types: dict[str, Any] = {}
        self.script = PaperVm(
            {"query-block": self.query, "block_set_io_throttle": self.set, "qom-get": self.qom_get}
        )

    def query(self, _: object) -> list[dict[str, Any]]:
        return [dict(b) for b in self.blocks.values()]

    def set(self, arguments: Any) -> dict[str, Any]:
        b = self.blocks[f"/machine/peripheral/{arguments['id']}"]
        numbers = {k: v for k, v in arguments.items() if k not in ("id", "group")}
        keep = {"node-name": b["inserted"]["node-name"]}
        if not any(numbers.values()):
            b["inserted"] = keep | numbers
            return {}
        group = arguments.get("group") or b["inserted"].get("group") or b["qdev"]
        b["inserted"] = keep | numbers | {"group": group}
        for other in self.blocks.values():
            if other["inserted"].get("group") == group:
                other["inserted"] = {"node-name": other["inserted"]["node-name"]} | numbers | {"group": group}
        return {}

    def qom_get(self, arguments: Any) -> Any:
        return self.types[arguments["path"]][arguments["property"]]

    def parts(self) -> tuple[Part, ...]:
        return self.script.play(KNOB.observe())

    def part(self, name: str) -> Part:
        return registry.pick(self.parts(), registry.parse_key(f"disk.{name}.iops"))


def sent(part: Part, **wants: Any) -> dict[str, Any]:
    (request,) = KNOB.changes(
        part, {k.replace("_read", ".read").replace("_burst", ".burst"): v for k, v in wants.items()}
    )
    assert isinstance(request, Qmp)
    assert request.command == "block_set_io_throttle"
    return dict(request.arguments)


def test_one_limit_is_sent_with_all_six_required_fields() -> None:
    vm = FakeBlocks(block(BACKEND))
    assert sent(vm.part("vda"), iops=100) == {
        "id": "vd2/virtio-backend", "bps": 0, "bps_rd": 0, "bps_wr": 0, "iops": 100, "iops_rd": 0, "iops_wr": 0,
    }  # fmt: skip


def test_changing_one_limit_keeps_the_others() -> None:
    vm = FakeBlocks(block(BACKEND, bps=5, iops=100, iops_max=500, iops_max_length=7, iops_size=4096, group="g"))
    arguments = sent(vm.part("vda"), iops=200)
    assert arguments["bps"] == 5
    assert (arguments["iops"], arguments["iops_max"], arguments["iops_max_length"]) == (200, 500, 7)
    assert arguments["iops_size"] == 4096
    assert "group" not in arguments


def test_a_shared_group_is_named_so_that_its_members_stay_together() -> None:
    assert sent(two_disks(iops=50, group="g1").part("n2"), iops=60)["group"] == "g1"


def test_what_is_so_already_is_not_sent() -> None:
    vm = FakeBlocks(block(BACKEND, iops=100, group=BACKEND))
    part = vm.part("vda")
    assert KNOB.changes(part, {"iops": 100}) == []
    outcome = vm.script.play(KNOB.apply(part, {"iops": 100}, timeout_s=1, force=False))
    assert outcome.verdict is Verdict.APPLIED
    assert vm.script.changes() == []


def test_apply_reads_back_and_says_applied() -> None:
    vm = FakeBlocks(block(BACKEND))
    outcome = vm.script.play(KNOB.apply(vm.part("vda"), {"iops": 100}, timeout_s=1, force=False))
    assert (outcome.verdict, actual(outcome)) == (Verdict.APPLIED, 100)


def test_another_value_read_back_is_a_failure() -> None:
    vm = FakeBlocks(block(BACKEND))
    part = vm.part("vda")
    vm.script.answers["block_set_io_throttle"] = lambda _: vm.set({"id": "vd2/virtio-backend", "iops": 77})
    outcome = vm.script.play(KNOB.apply(part, {"iops": 100}, timeout_s=1, force=False))
    assert (outcome.verdict, actual(outcome)) == (Verdict.FAILED, 77)


def test_qemus_refusal_is_a_verdict_with_its_words() -> None:
    vm = FakeBlocks(block(BACKEND))
    part = vm.part("vda")
    vm.script.answers["block_set_io_throttle"] = MonitorRefusedError("no such thing")
    outcome = vm.script.play(KNOB.apply(part, {"iops": 100}, timeout_s=1, force=False))
    assert (outcome.verdict, outcome.by, outcome.detail) == (Verdict.REFUSED, "QEMU", "no such thing")


@pytest.mark.parametrize(
    ("now", "wants", "words"),
    [
        ({}, {"iops": 100, "iops.read": 50}, "exclude each other"),
        ({"iops": 100, "group": "g"}, {"iops.read": 50}, "disk.vda.iops=unlimited"),
        ({"bps_rd": 100, "group": "g"}, {"bps": 50}, "disk.vda.bps.read=unlimited"),
        ({}, {"iops.burst": 50}, "disk.vda.iops.burst needs disk.vda.iops"),
        ({"iops": 100, "iops_max": 200, "group": "g"}, {"iops": 300}, "disk.vda.iops.burst=200 would be below"),
        ({"iops": 100, "group": "g"}, {"iops.burst": 50}, "would be below"),
        ({"iops": 100, "group": "g"}, {"iops.burst_length": 5}, "needs disk.vda.iops.burst"),
        ({}, {"io_size": 4096}, "no meaning without an iops limit"),
        ({}, {"bps": 10**15 + 1}, "above QEMU's largest"),
        ({"iops": 1, "group": "g"}, {"iops.burst": 10**15, "iops.burst_length": 2}, "too long"),
        ({}, {"group": "g1"}, "cannot join group 'g1' without a limit"),
    ],
)
def test_qemus_rules_in_the_users_words(now: dict[str, Any], wants: dict[str, Any], words: str) -> None:
    vm = FakeBlocks(block(BACKEND, **now))
    with pytest.raises(UsageError) as caught:
        KNOB.check(vm.part("vda"), wants, force=False)
    assert words in f"{caught.value.message} {caught.value.hint}"


def test_total_can_be_traded_for_read_in_one_command() -> None:
    vm = FakeBlocks(block(BACKEND, iops=100, group="g"))
    part = vm.part("vda")
    wants = {"iops": None, "iops.read": 50}
    KNOB.check(part, wants, force=False)
    (request,) = KNOB.changes(part, wants)
    assert (request.arguments["iops"], request.arguments["iops_rd"]) == (0, 50)


def test_lifting_a_limit_lifts_what_hangs_on_it() -> None:
    vm = FakeBlocks(block(BACKEND, iops=100, iops_max=500, iops_max_length=7, iops_size=4096, bps=9, group="g"))
    arguments = sent(vm.part("vda"), iops=None)
    assert arguments == {
        "id": "vd2/virtio-backend", "bps": 9, "bps_rd": 0, "bps_wr": 0, "iops": 0, "iops_rd": 0, "iops_wr": 0,
    }  # fmt: skip


def test_a_burst_without_length_reads_back_as_one_second() -> None:
    vm = FakeBlocks(block(BACKEND))
    arguments = sent(vm.part("vda"), iops=100, iops_burst=500)
    assert arguments["iops_max_length"] == 1


def two_disks(**first: Any) -> FakeBlocks:
    other = "/machine/peripheral/vd3/virtio-backend"
    vm = FakeBlocks(block(BACKEND, node="n2", **first), block(other, device="d3", node="n3", iops=50, group="g1"))
    on_root = {"type": "virtio-blk-pci", "parent_bus": "/machine/q35/pcie.0", "hotplugged": False}
    vm.types = {
        "/machine/peripheral/vd2": {**on_root, "addr": 48},
        "/machine/peripheral/vd3": {**on_root, "addr": 40},
    }
    return vm


def test_joining_a_group_takes_its_limits_over() -> None:
    vm = two_disks(iops=400, group=BACKEND)
    arguments = sent(vm.part("n2"), group="g1")
    assert (arguments["iops"], arguments["group"]) == (50, "g1")


def test_a_group_member_names_the_others_it_changes() -> None:
    vm = two_disks(iops=50, group="g1")
    outcome = vm.script.play(KNOB.apply(vm.part("n2"), {"iops": 70}, timeout_s=1, force=False))
    assert outcome.verdict is Verdict.APPLIED
    assert "vda" in " ".join(outcome.notes)


def test_leaving_a_group_moves_to_one_of_our_own_and_keeps_the_limits() -> None:
    vm = two_disks(iops=50, group="g1")
    arguments = sent(vm.part("n2"), group=None)
    assert (arguments["iops"], arguments["group"]) == (50, "ringfence-vdb")


def test_virtio_disks_are_named_in_pci_order_whatever_the_order_of_query_block() -> None:
    names = [part.name for part in two_disks().parts()]
    assert names == ["vdb", "vda"]


def test_a_disk_behind_a_bridge_comes_after_those_on_the_root_bus() -> None:
    vm = two_disks()
    vm.types["/machine/peripheral/vd3"]["parent_bus"] = "/machine/peripheral/rp1/rp1"
    vm.types["/machine/peripheral/vd3"]["addr"] = 0
    vm.types["/machine/peripheral/rp1"] = {"addr": 8, "parent_bus": "/machine/q35/pcie.0"}
    assert [part.name for part in vm.parts()] == ["vda", "vdb"]


def test_a_hotplugged_disk_comes_last() -> None:
    vm = two_disks()
    vm.types["/machine/peripheral/vd3"]["hotplugged"] = True
    assert [part.name for part in vm.parts()] == ["vda", "vdb"]


@pytest.mark.parametrize(
    "name", ["vda", "vd3", "d3", "n3", "/machine/peripheral/vd3", "/machine/peripheral/vd3/virtio-backend"]
)
def test_every_name_of_a_disk_finds_it(name: str) -> None:
    assert two_disks().part(name).state.disk.qdev == "/machine/peripheral/vd3/virtio-backend"


def test_an_unknown_disk_lists_all_of_them() -> None:
    with pytest.raises(UsageError) as caught:
        two_disks().part("vdz")
    assert "vda = d3 = vd3" in caught.value.hint


def test_an_ambiguous_name_lists_both() -> None:
    vm = two_disks()
    vm.blocks[BACKEND]["inserted"]["node-name"] = "vda"
    with pytest.raises(UsageError) as caught:
        vm.part("vda")
    assert "names 2 disks" in caught.value.message
    assert BACKEND in caught.value.hint


def test_an_empty_drive_cannot_be_limited() -> None:
    vm = FakeBlocks(block("/machine/unattached/device[19]", device="ide2-cd0"))
    vm.types = {"/machine/unattached/device[19]": {"type": "ide-cd"}}
    del vm.blocks["/machine/unattached/device[19]"]["inserted"]
    with pytest.raises(TenantError, match="no medium"):
        KNOB.check(vm.part("ide2-cd0"), {"iops": 100}, force=False)


def test_a_place_that_is_another_disks_drive_id_is_the_name_of_neither() -> None:
    vm = two_disks()
    vm.blocks[BACKEND]["device"] = "vda"
    parts = vm.parts()
    assert len({part.identity for part in parts}) == 2
    assert [vm.part(part.name).identity for part in parts] == [part.identity for part in parts]
    assert [part.name for part in parts] == ["vdb", "d3"]


def test_what_one_member_of_a_group_is_set_to_is_kept_by_the_next() -> None:
    vm = two_disks(iops=50, group="g1")
    first, second = vm.part("vda"), vm.part("vdb")
    seen = KNOB.foresee(second, [(first, {"iops": 100})])
    arguments = sent(seen, bps=1 << 20)
    assert (arguments["iops"], arguments["bps"], arguments["group"]) == (100, 1 << 20, "g1")


def test_a_group_that_the_step_before_makes_is_joined_with_its_limits() -> None:
    vm = two_disks()
    first, second = vm.part("vda"), vm.part("vdb")
    seen = KNOB.foresee(second, [(first, {"iops": 100, "group": "g2"})])
    KNOB.check(seen, {"group": "g2"}, force=False)
    arguments = sent(seen, group="g2")
    assert (arguments["iops"], arguments["group"]) == (100, "g2")


def grouped() -> FakeBlocks:
    """vda and vdb in group g1, at most 50 requests a second together."""
    return two_disks(iops=50, group="g1")


def asked_of_both(vm: FakeBlocks, first: dict[str, Any], second: dict[str, Any]) -> None:
    """Have the checks of `disk.vda.KEY=VALUE... disk.vdb.KEY=VALUE...` in one command made."""
    vda, vdb = vm.part("vda"), vm.part("vdb")
    KNOB.check(vda, first, force=False)
    KNOB.check(KNOB.foresee(vdb, [(vda, first)]), second, force=False)


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ({"iops": 100}, {"iops": 200}, "disk.vdb.iops=200 contradicts disk.vda.iops=100"),
        ({"iops": None, "bps": 9}, {"iops": 200}, "disk.vdb.iops=200 contradicts disk.vda.iops=unlimited"),
        ({"iops": 100, "iops.burst": 500}, {"iops": None, "bps": 9}, "disk.vda.iops=100 disk.vda.iops.burst=500"),
        ({"iops": 100, "bps": 9}, {"bps": 9, "iops": 60}, "contradicts disk.vda.iops=100:"),
    ],
)
def test_members_of_a_group_cannot_be_asked_different_things_at_once(
    first: dict[str, Any], second: dict[str, Any], words: str
) -> None:
    vm = grouped()
    with pytest.raises(UsageError) as caught:
        asked_of_both(vm, first, second)
    assert words in caught.value.message
    assert "'g1'" in caught.value.message
    assert "disk.vdb.group=none" in caught.value.hint
    assert vm.script.changes() == []


def test_who_joins_a_group_cannot_ask_something_else_of_it() -> None:
    with pytest.raises(UsageError, match="throttle group 'g2'") as caught:
        asked_of_both(two_disks(), {"iops": 100, "group": "g2"}, {"iops": 200, "group": "g2"})
    assert "group=none" not in caught.value.hint


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"iops": 100}, {"iops": 100}),
        ({"iops": 100}, {"bps": 1 << 20}),
        ({"iops": 100}, {"iops": 200, "group": None}),
        ({"iops": 100, "group": None}, {"iops": 200}),
        ({"iops": None}, {"iops": 200}),  # without a limit, QEMU takes the disk out of its group
        ({"iops": 100, "iops.burst": 500, "iops.burst_length": None}, {"bps": 9}),
    ],
)
def test_what_members_of_a_group_can_be_asked_at_once(first: dict[str, Any], second: dict[str, Any]) -> None:
    asked_of_both(grouped(), first, second)
