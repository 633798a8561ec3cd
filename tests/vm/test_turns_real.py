"""Two commands at once on one VM with two monitors: neither undoes the other's limit."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringfence.qemu.launch import installed_qemu

NAME = "two-at-once"


@pytest.fixture
def vm(tmp_path: Path) -> Iterator[None]:
    line = [installed_qemu(), "-S", "-nodefaults", "-display", "none", "-accel", "tcg", "-machine", "q35"]
    line += ["-name", f"{NAME}-{tmp_path.name}", "-drive", "if=virtio,driver=null-co"]
    for number in (1, 2):
        line += ["-qmp", f"unix:{tmp_path}/{number}.sock,server=on,wait=off"]
    process = subprocess.Popen(line)
    while not (tmp_path / "2.sock").exists():
        assert process.poll() is None
        time.sleep(0.01)
    yield
    process.kill()
    process.wait()


def test_no_limit_is_lost(vm: None, tmp_path: Path) -> None:
    name = f"{NAME}-{tmp_path.name}"
    program = str(Path(sys.executable).parent / "ringfence")
    for number in range(1, 9):
        both = [
            subprocess.Popen([program, "set", name, key], stdout=subprocess.DEVNULL)
            for key in (f"disk.vda.iops={number}", f"disk.vda.bps={number}MiB/s")
        ]
        assert [process.wait() for process in both] == [0, 0]
        shown = subprocess.run([program, "show", name, "-o", "json"], capture_output=True, text=True, check=True)
        assert f'"actual": {number},' in shown.stdout
        assert f'"actual": {number << 20},' in shown.stdout
