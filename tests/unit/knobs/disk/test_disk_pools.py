"""Shared pools: made, joined, moved, left and removed, and what QEMU refuses taken back at every step."""

from __future__ import annotations

from typing import Any

import pytest
from fake_graph import EMPTY, FakeGraph

from ringfence.core.knob import Outcome, Verdict
from ringfence.errors import TenantError, UsageError
from ringfence.knobs.disk.membership import PoolMembership
from ringfence.knobs.disk.pools import Pools

MEMBERSHIP, POOLS = PoolMembership(), Pools()
BRONZE = "ringfence-pool-bronze"


def verdicts(outcomes: list[Outcome]) -> list[Verdict]:
    return [outcome.verdict for outcome in outcomes]


def joined(**more: str) -> FakeGraph:
    """Both disks in a pool."""
    vm = FakeGraph()
    values = {"pool_bronze_iops": "500", "disk_vda_pool": "bronze", "disk_vdb_pool": "bronze", **more}
    assert verdicts(vm.set(**values)) == [Verdict.APPLIED] * len(values)
    return vm


def observed(vm: FakeGraph, name: str) -> Any:
    return MEMBERSHIP.observation(vm.part(MEMBERSHIP, name), MEMBERSHIP.rows[0])


def test_a_pool_is_made_and_joined_in_one_command_in_whatever_order_it_is_written() -> None:
    vm = FakeGraph()
    outcomes = vm.set(disk_vda_pool="bronze", disk_vdb_pool="bronze", pool_bronze_iops="500")
    assert verdicts(outcomes) == [Verdict.APPLIED] * 3
    assert vm.script.changes()[0].wire()["execute"] == "object-add"  # type: ignore[index]
    assert vm.objects[BRONZE] == EMPTY | {"iops-total": 500}
    assert list(vm.drives.values()) == ["ringfence-filter-0", "ringfence-filter-1"]
    assert "shared by vda, vdb" in " ".join(outcomes[-1].notes)
    assert observed(vm, "vdb").actual == "bronze"
    assert "vda" in " ".join(observed(vm, "vdb").notes)


def test_the_filter_repeats_what_the_disk_is() -> None:
    vm = FakeGraph()
    vm.nodes["n0"]["ro"] = True
    vm.set(pool_bronze_iops="500", disk_vda_pool="bronze")
    (added,) = [r for r in vm.script.changes() if r.wire()["execute"] == "blockdev-add"]
    assert added.arguments["read-only"] is True
    assert added.arguments["discard"] == "unmap"
    assert added.arguments["cache"] == {"direct": True, "no-flush": False}


def test_a_disk_keeps_its_names_under_a_filter() -> None:
    assert joined().part(MEMBERSHIP, "n1").name == "vdb"


def test_the_last_disk_to_leave_takes_the_pool_with_it() -> None:
    vm, clean = joined(), FakeGraph().trace()
    assert verdicts(vm.set(disk_vda_pool=None)) == [Verdict.APPLIED]
    assert list(vm.objects) == [BRONZE]
    assert verdicts(vm.set(disk_vdb_pool=None)) == [Verdict.APPLIED]
    assert vm.trace() == clean


def test_all_leaving_in_one_command_leave_no_trace() -> None:
    vm = joined()
    assert verdicts(vm.set(disk_vda_pool="none", disk_vdb_pool="none")) == [Verdict.APPLIED] * 2
    assert vm.trace() == FakeGraph().trace()


def test_moving_to_another_pool_leaves_no_filter_and_no_empty_pool_behind() -> None:
    vm = joined()
    outcomes = vm.set(disk_vda_pool="silver", disk_vdb_pool="silver", pool_silver_bps="1MiB/s")
    assert verdicts(outcomes) == [Verdict.APPLIED] * 3
    assert list(vm.objects) == ["ringfence-pool-silver"]
    assert sorted(vm.nodes) == ["n0", "n1", "ringfence-filter-2", "ringfence-filter-3"]


def test_joining_the_pool_it_is_in_sends_nothing() -> None:
    vm = joined()
    sent = len(vm.script.changes())
    assert verdicts(vm.set(disk_vda_pool="bronze")) == [Verdict.APPLIED]
    assert len(vm.script.changes()) == sent


def test_filters_left_by_disks_that_are_gone_are_told_and_go_with_the_pool() -> None:
    vm = joined()
    del vm.drives["/machine/peripheral/d1"]
    notes = POOLS.observation(vm.part(POOLS, "bronze"), POOLS.rows[0]).notes
    assert "ringfence-filter-1" in " ".join(notes)
    assert verdicts(vm.set(disk_vda_pool=None)) == [Verdict.APPLIED]
    assert (list(vm.objects), sorted(vm.nodes)) == ([], ["n0", "n1"])


@pytest.mark.parametrize(
    ("refused", "verdict"),
    [
        ("blockdev-add", Verdict.REFUSED),
        ("qom-set:ringfence-filter-0", Verdict.UNSUPPORTED),
    ],
)
def test_a_refused_join_leaves_nothing_behind(refused: str, verdict: Verdict) -> None:
    vm = FakeGraph()
    vm.refuse[refused] = "not on this device"
    made, failed = vm.set(pool_bronze_iops="500", disk_vda_pool="bronze")
    assert made.verdict is Verdict.APPLIED
    assert (failed.verdict, failed.by) == (verdict, "QEMU")
    assert "not on this device" in failed.detail
    assert "pool 'bronze' made for it removed" in failed.detail
    assert vm.trace() == FakeGraph().trace()


def test_a_refused_join_leaves_a_pool_that_was_there_alone() -> None:
    vm = FakeGraph()
    vm.set(pool_bronze_iops="500")
    before = vm.trace()
    vm.refuse["qom-set"] = "no"
    assert verdicts(vm.set(disk_vda_pool="bronze")) == [Verdict.UNSUPPORTED]
    assert vm.trace() == before


@pytest.mark.parametrize(
    "refused",
    ["blockdev-add:ringfence-filter-2", "qom-set:ringfence-filter-2", "blockdev-del:ringfence-filter-0"],
)
def test_a_refused_move_puts_the_disk_back(refused: str) -> None:
    vm = joined(pool_silver_iops="100")
    before = vm.trace()
    vm.refuse[refused] = "no"
    (failed,) = vm.set(disk_vda_pool="silver")
    assert failed.verdict in (Verdict.REFUSED, Verdict.UNSUPPORTED)
    assert vm.trace() == before


@pytest.mark.parametrize("refused", ["qom-set:n0", "blockdev-del:ringfence-filter-0"])
def test_a_refused_leave_keeps_the_disk_in(refused: str) -> None:
    vm = joined()
    before = vm.trace()
    vm.refuse[refused] = "no"
    (failed,) = vm.set(disk_vda_pool=None)
    assert failed.verdict in (Verdict.REFUSED, Verdict.UNSUPPORTED)
    assert vm.trace() == before
    assert failed.after is not None
    assert failed.after.state.pool.name == "bronze"


def test_what_cannot_be_taken_back_is_said() -> None:
    vm = FakeGraph()
    vm.set(pool_bronze_iops="500")
    vm.refuse |= {"qom-set": "no", "blockdev-del": "busy"}
    (failed,) = vm.set(disk_vda_pool="bronze")
    assert failed.verdict is Verdict.FAILED
    assert "filter ringfence-filter-0: busy" in failed.detail


def test_a_pool_that_qemu_does_not_let_go_is_a_note() -> None:
    vm = FakeGraph()
    vm.set(pool_bronze_iops="500", disk_vda_pool="bronze")
    vm.refuse["object-del"] = "in use"
    (left,) = vm.set(disk_vda_pool=None)
    assert left.verdict is Verdict.APPLIED
    assert f"pool {BRONZE} stays" in " ".join(left.notes)


def test_another_node_read_back_is_a_failure() -> None:
    vm = FakeGraph()
    vm.set(pool_bronze_iops="500")
    part = vm.part(MEMBERSHIP, "vda")
    vm.script.answers["qom-set"] = {}
    outcome = vm.script.play(MEMBERSHIP.apply(part, {"pool": "bronze"}, timeout_s=1, force=False))
    assert outcome.verdict is Verdict.FAILED


@pytest.mark.parametrize("exports", [[], [{"id": "export"}]])
def test_nothing_is_put_over_a_disk_in_an_iothread(exports: list[str]) -> None:
    vm = FakeGraph()
    vm.iothreads = {"/machine/peripheral/d0": "/objects/io0"}
    vm.exports = exports
    with pytest.raises(TenantError, match="QEMU crashes") as caught:
        vm.set(pool_bronze_iops="500", disk_vda_pool="bronze")
    assert "-blockdev driver=throttle" in caught.value.hint
    assert bool(observed(vm, "vdb").unavailable) == bool(exports)
    assert not vm.script.changes()


def test_a_disk_whose_thread_cannot_be_told_counts_as_one() -> None:
    vm = FakeGraph(1)
    vm.iothreads = {"elsewhere": "/objects/io0"}
    vm.script.answers["qom-list"] = lambda a: (
        vm.qom_list(a) if a["path"] == "/objects" else vm._ask("x", "x") or 1 / 0
    )
    vm.refuse["x"] = "no such path"
    assert "iothread" in observed(vm, "vda").unavailable


def with_foreign_filter() -> FakeGraph:
    vm = FakeGraph()
    vm.objects["tg0"] = EMPTY | {"iops-total": 7}
    vm.nodes["t0"] = {"drv": "throttle", "ro": False, "group": "tg0", "file": "n0"}
    vm.drives["/machine/peripheral/d0"] = "t0"
    return vm


def test_filters_of_others_are_shown_and_never_removed() -> None:
    vm = with_foreign_filter()
    shown = observed(vm, "vda")
    assert (shown.actual, POOLS.observation(vm.part(POOLS, "tg0"), POOLS.rows[0]).actual) == ("tg0", 7)
    assert "t0" in " ".join(shown.notes)
    with pytest.raises(UsageError, match="did not make"):
        vm.set(disk_vda_pool=None)
    before = vm.trace()
    assert verdicts(vm.set(pool_bronze_iops="500", disk_vda_pool="bronze")) == [Verdict.APPLIED] * 2
    assert observed(vm, "vda").actual == "bronze"
    vm.set(disk_vda_pool=None)
    assert vm.trace() == before


def with_foreign_object() -> FakeGraph:
    vm = FakeGraph()
    vm.objects["tg0"] = EMPTY | {"iops-total": 7, "bps-read": 4096}
    return vm


def test_joining_the_object_of_another_leaves_its_limits_and_says_whose_it_is() -> None:
    vm = with_foreign_object()
    before = vm.trace()
    (joined_,) = vm.set(disk_vda_pool="tg0")
    assert joined_.verdict is Verdict.APPLIED
    assert "'tg0' was not made by ringfence" in " ".join(joined_.notes)
    assert "pool.tg0.*" in " ".join(joined_.notes)
    assert vm.objects["tg0"] == EMPTY | {"iops-total": 7, "bps-read": 4096}
    assert [r.wire()["execute"] for r in vm.script.changes()] == ["blockdev-add", "qom-set"]  # type: ignore[index]
    assert observed(vm, "vda").actual == "tg0"
    assert "'tg0' was not made by ringfence" in " ".join(observed(vm, "vda").notes)
    shown = POOLS.observation(vm.part(POOLS, "tg0"), POOLS.rows[0])
    assert "'tg0' was not made by ringfence" in " ".join(shown.notes)
    (left,) = vm.set(disk_vda_pool=None)
    assert left.verdict is Verdict.APPLIED
    assert vm.trace() == before


def test_the_object_of_another_is_changed_when_the_command_says_so() -> None:
    vm = with_foreign_object()
    changed, joined_ = vm.set(disk_vda_pool="tg0", pool_tg0_iops="9")
    assert verdicts([changed, joined_]) == [Verdict.APPLIED] * 2
    assert "'tg0' was not made by ringfence" in " ".join(changed.notes)
    assert vm.objects["tg0"] == EMPTY | {"iops-total": 9, "bps-read": 4096}


def test_a_pool_of_ringfences_is_not_called_somebody_elses() -> None:
    vm = joined()
    notes = [*observed(vm, "vda").notes, *POOLS.observation(vm.part(POOLS, "bronze"), POOLS.rows[0]).notes]
    assert not any("not made" in note for note in notes)


def test_the_pool_of_another_is_set_and_stays_when_its_limits_are_lifted() -> None:
    vm = with_foreign_filter()
    assert verdicts(vm.set(pool_tg0_iops="9")) == [Verdict.APPLIED]
    assert verdicts(vm.set(pool_tg0_iops=None)) == [Verdict.APPLIED]
    assert vm.objects["tg0"] == EMPTY


def test_a_node_put_above_the_filter_keeps_it_in() -> None:
    vm = joined()
    vm.nodes["cor"] = {"drv": "copy-on-read", "ro": False, "group": "", "file": "ringfence-filter-0"}
    vm.drives["/machine/peripheral/d0"] = "cor"
    with pytest.raises(TenantError, match="cor stands above"):
        vm.set(disk_vda_pool=None)


def test_an_unknown_pool_is_told_how_to_be_made() -> None:
    with pytest.raises(UsageError) as caught:
        FakeGraph().set(disk_vda_pool="bronze")
    assert "pool.bronze.iops=500 disk.vda.pool=bronze" in caught.value.hint


def test_changing_a_pool_sends_its_complete_limits_and_names_its_members() -> None:
    vm = joined()
    (outcome,) = vm.set(pool_bronze_bps="1MiB/s")
    request = vm.script.changes()[-1]
    assert request.arguments["value"] == EMPTY | {"iops-total": 500, "bps-total": 1 << 20}
    assert "vda, vdb" in " ".join(outcome.notes)
    sent = len(vm.script.changes())
    assert vm.set(pool_bronze_bps="1MiB/s")[0].notes == ("already so",)
    assert len(vm.script.changes()) == sent


def test_a_pool_with_disks_stays_when_its_limits_are_lifted() -> None:
    vm = joined()
    assert verdicts(vm.set(pool_bronze_iops=None)) == [Verdict.APPLIED]
    assert vm.objects[BRONZE] == EMPTY


def test_a_pool_without_disks_goes_when_its_limits_are_lifted() -> None:
    vm = FakeGraph()
    vm.set(pool_bronze_iops="500")
    (outcome,) = vm.set(pool_bronze_iops=None)
    assert "removed" in " ".join(outcome.notes)
    assert vm.trace() == FakeGraph().trace()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"pool_bronze_iops": None}, "there is no pool 'bronze'"),
        ({"pool_.x_iops": "5"}, "cannot be called '.x'"),
        ({"pool_bronze_iops_burst": "5"}, "pool.bronze.iops.burst needs pool.bronze.iops"),
        ({"pool_bronze_io.size": "4KiB"}, "there is no knob"),
        ({"pool_bronze_bps": str(10**16)}, "above QEMU's largest"),
    ],
)
def test_pools_that_cannot_be(values: dict[str, Any], words: str) -> None:
    vm = FakeGraph()
    with pytest.raises(UsageError) as caught:
        vm.set(**values)
    assert words in caught.value.message
    assert not vm.script.changes()


@pytest.mark.parametrize("command", ["object-add", "qom-set"])
def test_limits_that_qemu_refuses(command: str) -> None:
    vm = FakeGraph() if command == "object-add" else joined()
    before = vm.trace()
    vm.refuse[command] = "out of range"
    (outcome,) = vm.set(pool_bronze_iops="77")
    assert (outcome.verdict, outcome.by, outcome.detail) == (Verdict.REFUSED, "QEMU", "out of range")
    assert vm.trace() == before


def test_other_limits_read_back_are_a_failure() -> None:
    vm = joined()
    vm.script.answers["qom-set"] = {}
    part = vm.part(POOLS, "bronze")
    outcome = vm.script.play(POOLS.apply(part, {"iops": 77}, timeout_s=1, force=False))
    assert outcome.verdict is Verdict.FAILED


def test_a_busy_disk_that_stands_still_after_the_change_is_told() -> None:
    vm = FakeGraph()
    vm.idle_ns, vm.served = 1_000_000, 0
    start_s = vm.script.now_s
    *_, outcome = vm.set(pool_bronze_iops="500", disk_vda_pool="bronze")
    assert outcome.verdict is Verdict.APPLIED
    assert "pool.bronze.iops=unlimited" in " ".join(outcome.notes)
    assert vm.script.now_s - start_s == pytest.approx(3, abs=0.1)
    (outcome,) = vm.set(disk_vda_pool=None)
    assert "finished no request" in " ".join(outcome.notes)


@pytest.mark.parametrize(("idle_ns", "served"), [(1_000_000, 1), (None, 0), (2_000_000_000, 0)])
def test_a_disk_that_goes_on_or_is_idle_costs_no_wait(idle_ns: int | None, served: int) -> None:
    vm = FakeGraph()
    vm.idle_ns, vm.served = idle_ns, served
    start_s = vm.script.now_s
    *_, outcome = vm.set(pool_bronze_iops="500", disk_vda_pool="bronze")
    assert "finished no request" not in " ".join(outcome.notes)
    assert vm.script.now_s == start_s


def test_a_filter_that_an_interrupted_change_left_goes_with_its_pool() -> None:
    vm = FakeGraph()
    before = vm.trace()
    vm.object_add({"id": BRONZE, "limits": {"iops-total": 500}})
    vm.blockdev_add(
        {"node-name": "ringfence-filter-0", "throttle-group": BRONZE, "file": "n0", "read-only": False}
    )
    notes = POOLS.observation(vm.part(POOLS, "bronze"), POOLS.rows[0]).notes
    assert "ringfence-filter-0 (pool.bronze.iops=unlimited removes them)" in " ".join(notes)
    (outcome,) = vm.set(pool_bronze_iops="unlimited")
    assert outcome.verdict is Verdict.APPLIED
    assert "ringfence-filter-0 that was left over" in " ".join(outcome.notes)
    assert vm.trace() == before
