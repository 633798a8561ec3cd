"""What ringfence made on a host is found by its names and removed, the inner things first."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ringfence.core.host_requests import Systemd
from ringfence.host import made, made_groups
from ringfence.host.systemd import arguments
from ringfence.testing.fake_tree import FakeTree


@pytest.fixture
def tree(tmp_path: Path) -> FakeTree:
    tree = FakeTree(tmp_path)
    tree.group("/ringfence-old-1/ringfence-vcpus/vcpu0")
    tree.process(100, "qemu-system-x86", group="/ringfence-web1-100")
    tree.process(101, "qemu-system-x86", group="/machine.slice/ringfence-web2-101.scope")
    tree.group("/docker/other")
    return tree


def below(tree: FakeTree, name: str) -> str:
    return name.removeprefix(f"{tree.root}/sys/fs/cgroup")


def test_everything_of_ours_and_nothing_else(tree: FakeTree) -> None:
    found = {below(tree, thing.name): (thing.kind, thing.holds) for thing in made.find(str(tree.root))}
    assert found == {
        "/machine.slice/ringfence-web2-101.scope": ("scope", "process 101"),
        "/ringfence-old-1/ringfence-vcpus/vcpu0": ("cgroup", ""),
        "/ringfence-old-1/ringfence-vcpus": ("cgroup", ""),
        "/ringfence-old-1": ("cgroup", ""),
        "/ringfence-web1-100": ("cgroup", "process 100"),
    }
    names = list(found)
    assert names.index("/ringfence-old-1/ringfence-vcpus/vcpu0") < names.index("/ringfence-old-1")


def test_a_sweep_takes_only_what_is_empty(tree: FakeTree, monkeypatch: pytest.MonkeyPatch) -> None:
    gone: list[str] = []
    monkeypatch.setattr(os, "rmdir", gone.append)  # a folder of files stands for a group here, and is not empty
    made_groups.sweep(f"{tree.root}/sys/fs/cgroup")
    assert [below(tree, path) for path in gone] == [
        "/ringfence-old-1/ringfence-vcpus/vcpu0",
        "/ringfence-old-1/ringfence-vcpus",
        "/ringfence-old-1",
    ]


def test_systemd_gets_its_calls_as_busctl_takes_them() -> None:
    start = Systemd(
        "StartTransientUnit", "a b.scope", {"Slice": "machine.slice", "Delegate": True, "PIDs": [7, 8]}
    )
    assert arguments(start) == [
        *("ssa(sv)a(sa(sv))", "a b.scope", "fail", "3"),
        *("Slice", "s", "machine.slice", "Delegate", "b", "true", "PIDs", "au", "2", "7", "8", "0"),
    ]
    change = Systemd("SetUnitProperties", "web.service", {"MemoryMax": 5, "IOReadIOPSMax": [("/dev/sda", 100)]})
    assert arguments(change) == [
        *("sba(sv)", "web.service", "true", "2", "MemoryMax", "t", "5"),
        *("IOReadIOPSMax", "a(st)", "1", "/dev/sda", "100"),
    ]
