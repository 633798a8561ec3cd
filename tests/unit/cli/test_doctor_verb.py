"""`ringfence doctor`: what it prints of this host and of its VMs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ringfence.qemu import accel, discovery, launch
from ringfence.testing.fake_qemu import FakeQemu
from ringfence.testing.obedient_vm import ObedientVm


class Kvm:
    def __init__(self, works: bool) -> None:
        self.works = works
        self.reason = "a guest booted" if works else "no /dev/kvm"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make this a host with or without QEMU, KVM and mke2fs, and without VMs."""

    def machine(*, qemu: bool, kvm: bool, mke2fs: bool) -> None:
        monkeypatch.setattr(launch, "find_qemu", lambda: Path("/usr/bin/qemu-system-x86_64") if qemu else None)
        monkeypatch.setattr(accel, "probe_kvm", lambda _: Kvm(kvm))
        monkeypatch.setattr("shutil.which", lambda *_, **__: "/sbin/mke2fs" if mke2fs else None)
        monkeypatch.setattr(discovery, "find_vms", lambda *_: [])

    return machine


def findings(ran: Any) -> list[tuple[str, str, str | None]]:
    assert ran.code == 0
    return [(found["about"], found["health"], found["fix"]) for found in json.loads(ran.out)]


def test_a_host_that_has_all(machine: Callable[..., None], run: Callable[..., Any]) -> None:
    machine(qemu=True, kvm=True, mke2fs=True)
    assert findings(run("doctor", "-o", "json")) == [("qemu", "ok", None), ("kvm", "ok", None)]


def test_a_host_that_lacks_something(machine: Callable[..., None], run: Callable[..., Any]) -> None:
    machine(qemu=True, kvm=False, mke2fs=False)
    assert findings(run("doctor", "-o", "json")) == [
        ("qemu", "ok", None),
        ("kvm", "advice", None),
        ("lab", "missing", "apt install e2fsprogs"),
    ]


def test_a_host_without_qemu(machine: Callable[..., None], run: Callable[..., Any]) -> None:
    machine(qemu=False, kvm=False, mke2fs=True)
    assert findings(run("doctor", "-o", "json")) == [("qemu", "missing", "apt install qemu-system-x86")]


def test_the_table_of_a_vm(
    obedient: ObedientVm, run: Callable[..., Any], vm_behind: Callable[..., Any], tmp_path: Path
) -> None:
    with FakeQemu(tmp_path / "q", obedient.answers) as qemu:
        vm_behind(qemu)
        out = run("doctor", str(tmp_path / "q")).out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0] == "VM web1"
    assert "missing agent no guest agent channel: the guest cannot be asked or helped" in lines
    assert "ok disk.vda can be changed, by block_set_io_throttle" in lines
    assert "fix: -device virtio-balloon-pci,free-page-reporting=on" in lines
