"""Caps on vCPUs: their threads in groups of their own, the emulator's outside; and threads that come later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ringfence.core.knob import Knob, Verdict
from ringfence.errors import TenantError
from ringfence.knobs.host.cpu import CpuTime
from ringfence.knobs.host.join import join
from ringfence.knobs.host.vcpu_cpu import VcpusTime, VcpuTime
from ringfence.testing.fake_tree import FakeEdge, FakeTree
from ringfence.testing.steps import PaperVm

NAMED = {101: "CPU 0/KVM", 102: "CPU 1/KVM", 103: "IO iothread1", 104: "worker"}
UNNAMED = dict.fromkeys(NAMED, "qemu-system-x86")
CPUS = {
    "query-cpus-fast": [{"cpu-index": 0, "thread-id": 101}, {"cpu-index": 1, "thread-id": 102}],
    "query-iothreads": [{"id": "iothread1", "thread-id": 103}],
}


@pytest.fixture(params=[1, 2])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> FakeTree:
    tree = FakeTree(tmp_path, version=request.param)
    tree.process(7, "sh")
    return tree


def set_(knob: Knob, host: FakeEdge, cap: int | None, name: str = "", answers: Any = None) -> Verdict:
    paper = PaperVm(answers or {}, host=host)
    part = next(part for part in paper.play(knob.observe()) if part.name == name)
    knob.check(part, {"cap": cap}, force=False)
    return paper.play(knob.apply(part, {"cap": cap}, timeout_s=1, force=False)).verdict


def place(tree: FakeTree, tid: int) -> str:
    """Where a thread is, below the VM's own group."""
    lines = dict(line.split(":", 2)[1:] for line in tree.read(f"proc/100/task/{tid}/cgroup").splitlines())
    return lines["" if tree.version == 2 else "cpu"].removeprefix("/ringfence-web1-100")


@pytest.mark.parametrize(("threads", "answers"), [(NAMED, {}), (UNNAMED, CPUS)], ids=["named", "asked"])
def test_only_vcpus_are_in_the_group(tree: FakeTree, threads: dict[int, str], answers: Any) -> None:
    tree.process(100, "qemu-system-x86", threads=threads)
    host = tree.edge(pid=100)
    assert set_(VcpusTime(), host, 150, answers=answers) is Verdict.APPLIED
    vcpus = "/ringfence-vcpus"
    assert [place(tree, tid) for tid in (100, 101, 102, 103, 104)] == ["", vcpus, vcpus, "", ""]
    assert set_(VcpuTime(), host, 20, "1", answers) is Verdict.APPLIED
    assert [place(tree, tid) for tid in (101, 102)] == [vcpus, f"{vcpus}/vcpu1"]
    assert set_(CpuTime(), host, 180, answers=answers) is Verdict.APPLIED
    assert [place(tree, tid) for tid in (100, 101, 102)] == ["", vcpus, f"{vcpus}/vcpu1"], (
        "all stay where they are"
    )
    assert set_(VcpusTime(), host, None, answers=answers) is Verdict.APPLIED


def test_groups_of_version_2_are_threaded(tmp_path: Path) -> None:
    tree = FakeTree(tmp_path)
    tree.process(7, "sh")
    tree.process(100, "qemu-system-x86", threads=NAMED)
    set_(VcpuTime(), tree.edge(pid=100), 20, "0")
    top = "sys/fs/cgroup/ringfence-web1-100"
    assert tree.read(f"{top}/ringfence-vcpus/cgroup.type") == "threaded"
    assert tree.read(f"{top}/ringfence-vcpus/vcpu0/cgroup.type") == "threaded"
    assert [tree.read(f"{top}{path}/cgroup.subtree_control") for path in ("", "/ringfence-vcpus")] == [
        "cpu",
        "cpu",
    ]


def test_a_plugged_vcpu_joins(tree: FakeTree) -> None:
    tree.process(100, "qemu-system-x86", threads=NAMED)
    host = tree.edge(pid=100)
    assert PaperVm({}, host=host).play(join()) == 0, "nothing of ours: nothing to join"
    set_(VcpusTime(), host, 50)
    tree.write("proc/100/task/105/comm", "CPU 2/KVM\n")
    tree.affinity[105] = tree.affinity[100]
    mount = tree.mounts()[0]
    tree.move(mount, mount / "ringfence-web1-100", 105, whole=False)
    assert place(tree, 105) == ""
    assert PaperVm({}, host=host).play(join()) == 1
    assert place(tree, 105) == "/ringfence-vcpus"


def test_libvirts_groups_are_used_as_they_are(tmp_path: Path) -> None:
    tree = FakeTree(tmp_path, systemd=True)
    scope = "/machine.slice/machine-qemu\\x2d1\\x2dweb1.scope"
    tree.process(100, "qemu-system-x86", group=f"{scope}/libvirt/emulator", threads=NAMED)
    for tid in (101, 102):
        tree.group(f"{scope}/libvirt/vcpu{tid - 101}")
        mount = tree.mounts()[0]
        tree.move(mount, mount / f"{scope[1:]}/libvirt/vcpu{tid - 101}", tid, whole=False)
    host = tree.edge(pid=100)
    assert set_(VcpuTime(), host, 30, "1") is Verdict.APPLIED
    assert tree.read(f"sys/fs/cgroup{scope}/libvirt/vcpu1/cpu.max") == "3000 10000"
    with pytest.raises(TenantError, match="keeps each vCPU in a group of its own"):
        set_(VcpusTime(), host, 50)


def test_vcpus_that_cannot_be_told_apart(tree: FakeTree) -> None:
    tree.process(100, "qemu-system-x86", threads=UNNAMED)
    with pytest.raises(TenantError, match="vCPUs is not known: its monitor does not answer"):
        set_(VcpusTime(), tree.edge(pid=100), 50)
