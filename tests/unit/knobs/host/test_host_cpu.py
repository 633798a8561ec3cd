"""CPU time of a VM and of a container: on both versions of cgroups, and where systemd owns the group."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from ringfence import units
from ringfence.core.host_requests import Systemd
from ringfence.core.knob import Outcome, Part, Verdict
from ringfence.errors import HostError, TenantError, UsageError
from ringfence.knobs.host.cpu import CpuTime
from ringfence.testing.fake_tree import FakeEdge, FakeTree
from ringfence.testing.steps import PaperVm

KNOB = CpuTime()
CAP, WEIGHT, BURST = KNOB.rows


def now(host: FakeEdge) -> tuple[int | str | None, ...]:
    (part,) = PaperVm({}, host=host).play(KNOB.observe())
    return tuple(KNOB.observation(part, row).actual for row in KNOB.rows)


def set_(host: FakeEdge, **wants: int | None) -> Outcome:
    paper = PaperVm({}, host=host)
    (part,) = paper.play(KNOB.observe())
    KNOB.check(part, wants, force=False)
    return paper.play(KNOB.apply(part, wants, timeout_s=1, force=False))


@pytest.fixture(params=[1, 2])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> FakeTree:
    tree = FakeTree(tmp_path, version=request.param)
    tree.process(100, "qemu-system-x86", threads={101: "CPU 0/KVM"})
    tree.process(7, "sh")
    return tree


def cap_of(tree: FakeTree, group: str) -> tuple[str, str]:
    if tree.version == 2:
        quota, period = tree.read(f"sys/fs/cgroup{group}/cpu.max").split()
        return quota, period
    folder = f"sys/fs/cgroup/cpu{group}"
    return tree.read(f"{folder}/cpu.cfs_quota_us"), tree.read(f"{folder}/cpu.cfs_period_us")


def test_a_plain_vm_gets_a_group_of_ours_with_all_its_threads(tree: FakeTree) -> None:
    host = tree.edge(pid=100, name="web 1/x")
    assert now(host) == (None, 100, None)
    assert set_(host, cap=150).verdict is Verdict.APPLIED
    assert cap_of(tree, "/ringfence-web_1_x-100") == ("15000", "10000")
    mount = "" if tree.version == 2 else "cpu/"
    list_ = "cgroup.threads" if tree.version == 2 else "tasks"
    assert tree.read(f"sys/fs/cgroup/{mount}ringfence-web_1_x-100/{list_}").split() == ["100", "101"]
    assert now(host) == (150, 100, None)


def test_one_limit_is_changed_and_the_others_stay(tree: FakeTree) -> None:
    host = tree.edge(pid=100)
    set_(host, cap=50, weight=20, burst=4000)
    assert now(host) == (50, 20, 4000)
    assert set_(host, weight=300).verdict is Verdict.APPLIED
    assert now(host) == (50, 300, 4000)
    assert set_(host, cap=30).verdict is Verdict.APPLIED, "the burst goes down first, it must fit into the quota"
    assert now(host) == (30, 300, 3000)
    assert set_(host, cap=None).verdict is Verdict.APPLIED
    assert now(host) == (None, 300, None)
    assert set_(host, cap=None).notes == ("already so",)


def test_a_cap_too_small_for_the_short_period_gets_a_longer_one(tree: FakeTree) -> None:
    host = tree.edge(pid=100)
    set_(host, cap=1)
    assert cap_of(tree, "/ringfence-web1-100") == ("1000", "100000")
    set_(host, cap=10)
    assert cap_of(tree, "/ringfence-web1-100") == ("1000", "10000")


def test_a_container_is_limited_in_its_own_group_and_keeps_its_period(tree: FakeTree) -> None:
    tree.process(200, "httpd", group="/docker/abc")
    host = tree.edge(pid=200, name="web", group="/docker/abc")
    assert set_(host, cap=25).verdict is Verdict.APPLIED
    assert cap_of(tree, "/docker/abc") == ("25000", "100000")


def test_what_the_kernel_refuses_leaves_the_vm_where_it_was(tree: FakeTree) -> None:
    host = tree.edge(pid=100)
    end = "cpu.max" if tree.version == 2 else "cpu.cfs_quota_us"
    tree.refusals[f"web1-100/{end}"] = errno.EINVAL
    before = tree.read("proc/100/cgroup")
    with pytest.raises(HostError) as caught:
        set_(host, cap=50)
    assert (caught.value.errno, caught.value.state) == (errno.EINVAL, "everything was put back as it was")
    assert sorted(tree.read("proc/100/cgroup").split()) == sorted(before.split())
    assert not list(tree.root.glob("sys/fs/cgroup/**/web1-100"))


def test_systemd_is_told_of_units_that_are_its_own(tmp_path: Path) -> None:
    tree = FakeTree(tmp_path, systemd=True)
    scope = "/machine.slice/machine-qemu\\x2d1\\x2dweb1.scope"
    tree.process(100, "qemu-system-x86", group=f"{scope}/libvirt/emulator")
    host = tree.edge(pid=100)
    set_(host, cap=50, weight=200)
    properties = {"CPUQuotaPeriodUSec": 10_000, "CPUQuotaPerSecUSec": 500_000, "CPUWeight": 200}
    assert tree.systemd == [Systemd("SetUnitProperties", scope.rpartition("/")[2], properties)]


def test_systemd_is_asked_for_a_scope_where_a_vm_has_no_group_of_its_own(tmp_path: Path) -> None:
    tree = FakeTree(tmp_path, systemd=True)
    session = "/user.slice/user-0.slice/session-1.scope"
    tree.process(100, "qemu-system-x86", group=session)
    tree.process(7, "bash", group=session)
    paper = PaperVm({}, host=tree.edge(pid=100))
    (part,) = paper.play(KNOB.observe())
    start, limit = KNOB.changes(part, {"cap": 50})
    assert isinstance(start, Systemd)
    assert (start.method, start.unit) == ("StartTransientUnit", "ringfence-web1-100.scope")
    assert (start.properties["PIDs"], start.properties["Delegate"]) == ([100], True)
    assert isinstance(limit, Systemd)
    assert (limit.method, limit.unit) == ("SetUnitProperties", start.unit)


def test_a_read_only_hierarchy_and_a_missing_controller_are_told(tmp_path: Path) -> None:
    tree = FakeTree(tmp_path, version=1)
    tree.process(100, "qemu-system-x86")
    mounts = tree.read("proc/self/mountinfo")
    tree.write("proc/self/mountinfo", mounts.replace("/cpu rw,", "/cpu ro,"))
    with pytest.raises(TenantError, match="mounted read-only"):
        set_(tree.edge(pid=100), cap=50)
    tree.write("proc/self/mountinfo", "\n".join(line for line in mounts.splitlines() if "cgroup/cpu " not in line))
    with pytest.raises(TenantError, match="no cpu controller"):
        set_(tree.edge(pid=100), cap=50)


def test_a_vanished_tenant_is_told(tree: FakeTree) -> None:
    with pytest.raises(HostError, match="in no cgroup hierarchy") as caught:
        set_(tree.edge(pid=999), cap=50)
    assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize(
    "wants", [{"cap": 0}, {"weight": 0}, {"weight": 10_001}, {"burst": 5}, {"cap": 10, "burst": 1001}]
)
def test_what_cannot_be_is_refused(tmp_path: Path, wants: dict[str, int]) -> None:
    tree = FakeTree(tmp_path)
    tree.process(100, "qemu-system-x86")
    with pytest.raises(UsageError):
        set_(tree.edge(pid=100), **wants)


def test_a_foreign_cap_that_is_no_whole_percent_is_rounded_and_told_exactly(tmp_path: Path) -> None:
    tree = FakeTree(tmp_path)
    tree.process(200, "httpd", group="/web")
    tree.write("sys/fs/cgroup/web/cpu.max", "12345 100000\n")
    part: Part
    (part,) = PaperVm({}, host=tree.edge(pid=200, group="/web")).play(KNOB.observe())
    found = KNOB.observation(part, CAP)
    assert (found.actual, found.notes) == (12, ("exactly 12345 of 100000 us",))


def test_percent_and_microseconds_are_read() -> None:
    assert [units.parse(units.PERCENT, text) for text in ("50%", "150", "1.5cpus", "2cpu")] == [50, 150, 150, 200]
    assert [units.parse(units.MICROSECONDS, text) for text in ("500us", "10ms", "1.5s", "7")] == [
        500,
        10_000,
        1_500_000,
        7,
    ]
    for text in ("12.5%", "50 per cent", "%"):
        with pytest.raises(UsageError):
            units.parse(units.PERCENT, text)
    assert units.format_value(units.PERCENT, 150) == "150%"
