"""Pinning of threads and containers, lists of CPUs, and pressure."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringfence.core.host_requests import Systemd
from ringfence.core.knob import Knob, Outcome, Verdict
from ringfence.errors import TenantError, UsageError
from ringfence.knobs.host import cpulist
from ringfence.knobs.host.join import join
from ringfence.knobs.host.pin import Pin, PinEach, PinEmulator
from ringfence.knobs.host.pressure import Pressure
from ringfence.testing.fake_tree import FakeEdge, FakeTree
from ringfence.testing.steps import PaperVm

THREADS = {101: "CPU 0/KVM", 102: "CPU 1/KVM", 103: "IO iothread1"}


def values(knob: Knob, host: FakeEdge) -> dict[str, int | str | None]:
    parts = PaperVm({}, host=host).play(knob.observe())
    found = [knob.observation(part, row) for part in parts for row in knob.rows]
    return {observation.key: observation.actual for observation in found}


def set_(knob: Knob, host: FakeEdge, want: str | None, name: str = "") -> Outcome:
    paper = PaperVm({}, host=host)
    part = next(part for part in paper.play(knob.observe()) if part.name == name)
    (row,) = knob.rows
    leaf = row.key.partition(">.")[2] or row.key.removeprefix(knob.prefix).removeprefix(".")
    knob.check(part, {leaf: want}, force=False)
    return paper.play(knob.apply(part, {leaf: want}, timeout_s=1, force=False))


@pytest.fixture
def tree(tmp_path: Path) -> FakeTree:
    tree = FakeTree(tmp_path)
    tree.process(7, "sh")
    tree.process(100, "qemu-system-x86", threads=THREADS)
    return tree


def test_a_vms_threads_by_their_roles(tree: FakeTree) -> None:
    host = tree.edge(pid=100)
    assert values(Pin(), host) == {"cpu.pin": None}
    assert set_(Pin(), host, "1,2,3").verdict is Verdict.APPLIED
    assert set_(PinEach(), host, "3", "1").verdict is Verdict.APPLIED
    assert set_(PinEmulator(), host, "0").verdict is Verdict.APPLIED
    assert {tid: sorted(tree.affinity[tid]) for tid in (100, *THREADS)} == {
        100: [0],
        101: [1, 2, 3],
        102: [3],
        103: [0],
    }
    assert values(PinEach(), host) == {"cpu.pin.0": "1-3", "cpu.pin.1": "3"}
    assert set_(Pin(), host, None).verdict is Verdict.APPLIED
    assert values(Pin(), host) == {"cpu.pin": None}


def test_cpus_that_are_not_there(tree: FakeTree) -> None:
    host = tree.edge(pid=100)
    for text in ("4", "0-9", "", "a", "3-1", "0-99999999"):
        with pytest.raises(UsageError):
            set_(Pin(), host, text)
    tree.process(200, "qemu-system-x86", threads={201: "qemu-system-x86"})
    with pytest.raises(TenantError, match="vCPUs is not known"):
        set_(Pin(), tree.edge(pid=200), "1")


def test_a_plugged_vcpu_runs_where_the_others_do(tree: FakeTree) -> None:
    host = tree.edge(pid=100)
    set_(Pin(), host, "2-3")
    tree.write("proc/100/task/105/comm", "CPU 2/KVM\n")
    tree.affinity[105] = frozenset({0})
    assert PaperVm({}, host=host).play(join()) == 1
    assert tree.affinity[105] == {2, 3}
    assert PaperVm({}, host=host).play(join()) == 0


def test_a_container_by_its_cpuset(tree: FakeTree) -> None:
    tree.process(200, "httpd", group="/web")
    host = tree.edge(pid=200, group="/web")
    assert set_(Pin(), host, "0,1").verdict is Verdict.APPLIED
    assert tree.read("sys/fs/cgroup/web/cpuset.cpus") == "0-1"
    assert values(Pin(), host) == {"cpu.pin": "0-1"}
    assert set_(Pin(), host, None).verdict is Verdict.APPLIED
    assert tree.read("sys/fs/cgroup/web/cpuset.cpus") == ""


def test_a_container_of_systemds(tmp_path: Path) -> None:
    tree = FakeTree(tmp_path, systemd=True)
    tree.process(200, "httpd", group="/system.slice/web.service")
    set_(Pin(), tree.edge(pid=200, group="/system.slice/web.service"), "0,3")
    assert tree.systemd == [Systemd("SetUnitProperties", "web.service", {"AllowedCPUs": [9]})]


def test_lists_of_cpus() -> None:
    assert cpulist.parse("0-3,8\n") == {0, 1, 2, 3, 8}
    assert [cpulist.shown(cpulist.parse(text)) for text in ("8,0,1,2", "5", "")] == ["0-2,8", "5", ""]
    assert cpulist.bits({0, 9}) == [1, 2]


def test_pressure_is_read_where_the_group_is_its_own(tree: FakeTree) -> None:
    tree.process(200, "httpd", group="/web")
    tree.write("sys/fs/cgroup/web/memory.pressure", "some avg10=37.61 avg60=0 total=5\nfull avg10=1 x=y\n")
    assert values(Pressure(), tree.edge(pid=200, group="/web")) == {
        "pressure.cpu": 0,
        "pressure.memory": 38,
        "pressure.io": 0,
    }
    (part,) = PaperVm({}, host=tree.edge(pid=100)).play(Pressure().observe())
    assert "no cgroup of version 2 of its own" in Pressure().observation(part, Pressure().rows[0]).unavailable
    with pytest.raises(UsageError):
        Pressure().check(part, {"cpu": 1}, force=False)
