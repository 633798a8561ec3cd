"""`ringfence monitor --vnc` and `--tmux`: the monitor console of a real QEMU, typed on and read back."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ringfence.qemu.launch import find_qemu

PATIENCE_S = 60
MACHINE = "-S -nodefaults -machine q35 -accel tcg -m 256 -monitor vc -device virtio-balloon-pci"
DISK = "-drive if=virtio,file=null-co://,format=raw,id=d1"
PASSWORD = "s3cret"

Run = subprocess.CompletedProcess[str]


class Vm:
    """A QEMU with its human monitor on a console only, and a QMP socket to see what came of it."""

    def __init__(self, folder: Path) -> None:
        qemu = find_qemu() or pytest.skip("no QEMU here")
        self.qmp, self.vnc = str(folder / "q"), f"unix:{folder}/v"
        self.command = [qemu, *MACHINE.split(), *DISK.split(), "-qmp", f"unix:{self.qmp},server=on,wait=off"]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *words: str) -> None:
        self.process = subprocess.Popen([*self.command, *words])
        self.await_sockets()

    def await_sockets(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while monitor(self.qmp, "info status").returncode:
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def monitor(*words: str, script: str = "") -> Run:
    return subprocess.run(
        [sys.executable, "-m", "ringfence", "monitor", *words],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        input=script,
    )


@pytest.fixture
def vm(tmp_path: Path) -> Iterator[Vm]:
    qemu = Vm(tmp_path)
    yield qemu
    qemu.end()


@pytest.fixture
def tmux(vm: Vm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, int], None]]:
    """Starts the VM with a curses display in the tmux session `vm`, of that width and height."""
    if shutil.which("tmux") is None:
        pytest.skip("no tmux here")
    monkeypatch.delenv("TMUX", raising=False)
    monkeypatch.setenv("TMUX_TMPDIR", str(tmp_path))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")

    def start(width: int, height: int) -> None:
        command = [*vm.command, "-vga", "std", "-display", "curses"]
        size = ["-x", str(width), "-y", str(height)]
        # Python's readline exports LINES, unseen by os.environ but inherited by a worker of the tests, and curses
        # would believe that instead of the pane.
        start = ["tmux", "new-session", "-d", "-s", "vm", *size, *command]
        plain = {name: value for name, value in os.environ.items() if name not in ("LINES", "COLUMNS")}
        subprocess.run(start, check=True, timeout=PATIENCE_S, env=plain)
        vm.await_sockets()

    yield start
    subprocess.run(["tmux", "kill-server"], check=False, timeout=PATIENCE_S)


def check_everything(way: tuple[str, ...], vm: Vm) -> None:
    """Lines are carried out, and read as human-monitor-command gives them."""
    changed = monitor(*way, "block_set_io_throttle d1 0 0 0 42 0 0", "balloon 200")
    assert (changed.returncode, changed.stdout, changed.stderr) == (0, "", "")
    assert '"iops": 42' in monitor(vm.qmp, "--qmp", "query-block").stdout
    lines = ["info status", "info version", "info uuid", "info balloon", "info roms", "info block d1"]
    assert monitor(*way, *lines).stdout == monitor(vm.qmp, *lines).stdout
    failed = monitor(*way, script="info status\nNo_Such {1}\n")
    assert (failed.returncode, failed.stdout) == (4, "VM status: paused (prelaunch)\n")
    assert failed.stderr == "unknown command: 'No_Such'\nerror: line 2 failed: No_Such {1}\n"


def check_cut(way: tuple[str, ...], vm: Vm) -> None:
    """Of a long answer the end is given, after a line that says so."""
    first, *rest = monitor(*way, "info qtree").stdout.splitlines()
    assert "scrolled off" in first
    assert len(rest) > 10
    assert monitor(vm.qmp, "info qtree").stdout.splitlines()[-len(rest) :] == rest


@pytest.mark.parametrize("vga", ["std", "none"])
def test_vnc(vm: Vm, vga: str) -> None:
    vm.start("-vga", vga, "-vnc", vm.vnc)
    check_everything(("--vnc", vm.vnc), vm)
    check_cut(("--vnc", vm.vnc), vm)


def test_vnc_shows_what_it_showed(vm: Vm, tmp_path: Path) -> None:
    vm.start("-vga", "std", "-vnc", vm.vnc)
    pictures = []
    for name in ("before", "after"):
        assert monitor("--vnc", vm.vnc, "info status").returncode == 0
        assert monitor(vm.qmp, f"screendump {tmp_path / name}").returncode == 0
        pictures.append((tmp_path / name).read_bytes())
    assert pictures[0] == pictures[1]


def test_vnc_password(vm: Vm, tmp_path: Path) -> None:
    vm.start("-vga", "std", "-vnc", f"{vm.vnc},password=on")
    assert monitor(vm.qmp, "--qmp", "set_password", "protocol=vnc", f"password={PASSWORD}").returncode == 0
    file = tmp_path / "password"
    for text, code in ((PASSWORD, 0), ("wrong", 2)):
        file.write_text(text + "\n")
        ran = monitor("--vnc", vm.vnc, "--password-file", str(file), "info status")
        assert (ran.returncode, ran.stdout) == (code, "" if code else "VM status: paused (prelaunch)\n")
    assert monitor("--vnc", vm.vnc, "info status").returncode == 2


def test_vnc_without_a_monitor(vm: Vm) -> None:
    vm.command[vm.command.index("-monitor") + 1] = "none"
    vm.start("-vga", "std", "-vnc", vm.vnc)
    ran = monitor("--vnc", vm.vnc, "info status")
    assert (ran.returncode, ran.stdout) == (3, "")
    assert "-monitor vc" in ran.stderr


@pytest.mark.parametrize(("width", "height"), [(80, 30), (120, 40), (80, 24)])
def test_tmux(vm: Vm, tmux: Callable[[int, int], None], width: int, height: int) -> None:
    tmux(width, height)
    check_everything(("--tmux", "vm"), vm)
    check_cut(("--tmux", "vm"), vm)
    size = ["tmux", "display-message", "-p", "-t", "vm", "#{pane_width}x#{pane_height}"]
    shown = subprocess.run(size, capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    assert shown.stdout == f"{width}x{height}\n"


def test_tmux_without_the_pane(tmux: Callable[[int, int], None]) -> None:
    tmux(80, 30)
    ran = monitor("--tmux", "nosuch", "info status")
    assert (ran.returncode, ran.stdout) == (2, "")
