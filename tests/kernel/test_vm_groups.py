"""A VM's threads in groups of their own: made, measured, and removed again."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from kernel_bench import FIRST, Change, Groups, Start, applied, controller, cpu_percent, needed

from ringfence.core.model import Vm
from ringfence.host import made
from ringfence.host.edge import HostEdge
from ringfence.host.hierarchies import Hierarchy
from ringfence.qemu.discovery import find_vm

NAME = f"rf-vm-{os.getpid()}"
WITHIN = 0.1 if "RINGFENCE_IN_A_BOX" in os.environ else 0.05
"""A QEMU in a QEMU without KVM: what the outer one does for the inner counts as the inner's time, and varies."""

BOOT_SECTOR = b"\xeb\xfe".ljust(510, b"\0") + b"\x55\xaa"
"""`jmp $`: one vCPU is busy from the firmware's end on, without any guest."""


@pytest.fixture
def vm(start: Start, groups: Groups, tmp_path: Path, no_left_overs: None, hierarchies: object) -> Vm:
    """A real QEMU with one busy vCPU, beside another process in the group that it is in."""
    qemu = needed("qemu-system-x86_64")
    controller(hierarchies, "cpu")  # type: ignore[arg-type]
    image = tmp_path / "boot.img"
    image.write_bytes(BOOT_SECTOR.ljust(1 << 20, b"\0"))
    monitor = tmp_path / "qmp"
    process = start(
        *(qemu, "-name", f"guest={NAME},debug-threads=on", "-accel", "tcg,thread=multi", "-smp", "2", "-m", "32"),
        *("-nodefaults", "-display", "none", "-drive", f"file={image},format=raw,if=ide"),
        *("-qmp", f"unix:{monitor},server=on,wait=off"),
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 30
    while not (monitor.exists() and cpu_percent(process.pid, over_s=0.3) > 5):
        assert time.monotonic() < deadline
    return find_vm(NAME)


def vcpu(vm: Vm, number: int = 0) -> int:
    return next(task.tid for task in HostEdge.of(vm).tasks() if task.role == f"vcpu:{number}")


def folder(vm: Vm, tid: int) -> str:
    return next(task.folder for task in HostEdge.of(vm).tasks("cpu") if task.tid == tid)


def test_the_whole_vm(vm: Vm, change: Change) -> None:
    applied(change(vm, {"cpu.cap": "40%", **FIRST}))
    assert cpu_percent(vm.pid) == pytest.approx(40, rel=WITHIN)


def test_its_vcpus_alone(vm: Vm, change: Change) -> None:
    applied(change(vm, {"cpu.vcpus.cap": "30%", **FIRST}))
    busy = vcpu(vm)
    assert cpu_percent(vm.pid, busy) == pytest.approx(30, rel=WITHIN)
    assert "ringfence-vcpus" in folder(vm, busy)
    assert "ringfence-vcpus" not in folder(vm, vm.pid), "the emulator is free"
    applied(change(vm, {"cpu.vcpu.0.cap": "15%", "cpu.cap": "150%"}))
    assert cpu_percent(vm.pid, busy) == pytest.approx(15, rel=WITHIN)


def test_what_was_made_is_listed_and_removed_though_it_is_in_use(
    vm: Vm, change: Change, hierarchies: object
) -> None:
    import asyncio

    home: Hierarchy = controller(hierarchies, "cpu")  # type: ignore[arg-type]
    before = folder(vm, vm.pid)
    if os.path.isdir("/run/systemd/system"):
        pytest.skip("a scope of systemd's lives as long as its VM")
    applied(change(vm, {"cpu.cap": "40%", "cpu.vcpu.0.cap": "20%"}))
    mine = [thing for thing in made.find() if f"-{vm.pid}" in thing.name]
    assert len(mine) == 3
    assert all(thing.holds for thing in mine)
    failed = [error for _, error in asyncio.run(made.remove(mine)) if error]
    assert failed == []
    assert folder(vm, vm.pid) == before == folder(vm, vcpu(vm))
    assert home


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """For sockets, whose paths may not be as long as those of pytest's folders are."""
    with TemporaryDirectory(prefix="rf-") as name:
        yield Path(name)


def test_a_vm_started_by_run_is_charged_from_its_first_page(
    start: Start, change: Change, no_left_overs: None, hierarchies: object, short_folder: Path
) -> None:
    needed("qemu-system-x86_64")
    controller(hierarchies, "memory")  # type: ignore[arg-type]
    import sys

    name = f"{NAME}-run"
    process = start(
        *(sys.executable, "-m", "ringfence", "run", name, "--memory", "64MiB", "--accel", "tcg", "--", "-S"),
        env=os.environ | {"XDG_RUNTIME_DIR": str(short_folder)},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 30
    while b"qemu-system" not in Path(f"/proc/{process.pid}/cmdline").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)
    group = HostEdge.of(find_vm(name)).placement().group("memory")
    assert group is not None
    assert group.dedicated
    assert group.ours
    used = Path(group.folder, "memory.current" if group.version == 2 else "memory.usage_in_bytes")
    assert int(used.read_text()) > 5 << 20
    applied(change(find_vm(name), {"memory.limit": "1GiB"}))
