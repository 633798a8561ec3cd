"""`ringfence monitor` with a real QEMU, and in a real terminal."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pyte
import pytest

from ringfence.qemu.launch import find_qemu

PATIENCE_S = 60
_ROWS, _COLUMNS = 30, 200
CTRL_C, CTRL_D, TAB, ENTER = "\x03", "\x04", "\t", "\r"


class Vm:
    """A QEMU that stands still, with two QMP sockets, and human monitors on a unix and a TCP socket."""

    def __init__(self, folder: Path) -> None:
        self.name = f"monitor-{os.getpid()}-{folder.name}"
        self.qmp, self.qmp2, self.hmp = (str(folder / name) for name in ("q1", "q2", "h"))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.tcp = f"127.0.0.1:{port}"
        sockets = ["-chardev", f"socket,id=t,host=127.0.0.1,port={port},server=on,wait=off", "-mon", "chardev=t"]
        sockets += [
            word
            for option, path in (("-qmp", self.qmp), ("-qmp", self.qmp2), ("-monitor", self.hmp))
            for word in (option, f"unix:{path},server=on,wait=off")
        ]
        machine = "-S -display none -nodefaults -machine q35 -accel tcg -m 1024 -device virtio-balloon-pci"
        disk = "-drive if=virtio,file=null-co://,format=raw,id=d1"
        qemu = find_qemu() or pytest.skip("no QEMU here")
        self.process = subprocess.Popen([qemu, "-name", self.name, *machine.split(), *disk.split(), *sockets])
        until(lambda: os.path.exists(self.hmp))

    def monitor(self, *words: str, script: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run `ringfence monitor NAME WORDS...` and wait for its end; `script` is its standard input."""
        command = [sys.executable, "-m", "ringfence", "monitor", self.name, *words]
        source = {"stdin": subprocess.DEVNULL} if script is None else {"input": script}
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False, **source)

    def end(self) -> None:
        """Kill it, and wait until it is dead."""
        self.process.kill()
        self.process.wait()


class Terminal:
    """A person's terminal with `ringfence monitor` in it."""

    def __init__(self, *words: str) -> None:
        self.screen = pyte.Screen(_COLUMNS, _ROWS)
        self._stream = pyte.ByteStream(self.screen)
        command = ["-m", "ringfence", "monitor", *words]
        env = {**os.environ, "TERM": "xterm"}
        self.child = pexpect.spawn(sys.executable, command, dimensions=(_ROWS, _COLUMNS), env=env)
        # What a terminal answers by itself, such as where its cursor is.
        self.screen.write_process_input = self.child.send

    def type(self, text: str) -> None:
        self.child.send(text)

    @property
    def lines(self) -> list[str]:
        """What is on the screen, without empty lines."""
        return [line.rstrip() for line in self.screen.display if line.strip()]

    def sees(self, text: str) -> None:
        """Wait until the text stands on the screen."""
        self._until(lambda: text in "\n".join(self.lines), text)

    def line_is(self, text: str) -> None:
        """Wait until the line with the cursor is this, and the cursor behind it."""
        self._until(lambda: self._typed() == text, text)

    def ends(self) -> int:
        """Wait for the program's end; gives its exit code."""
        self._until(lambda: not self.child.isalive(), "the end")
        self._read()
        return self.child.exitstatus if self.child.exitstatus is not None else -self.child.signalstatus

    def restored(self) -> bool:
        """Whether the terminal echoes and reads lines, as a shell expects it."""
        import termios

        flags = termios.tcgetattr(self.child.child_fd)[3]
        return bool(flags & termios.ECHO) and bool(flags & termios.ICANON)

    def _typed(self) -> str:
        cursor = self.screen.cursor
        return self.screen.display[cursor.y][: cursor.x]

    def _until(self, true: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not true():
            self._read()
            assert time.monotonic() < deadline, f"no {what!r} in:\n" + "\n".join(self.lines)

    def _read(self) -> None:
        with contextlib.suppress(pexpect.TIMEOUT, pexpect.EOF):
            self._stream.feed(self.child.read_nonblocking(65536, timeout=0.05))


def until(true: Callable[[], bool]) -> None:
    """Wait for it, for a while."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def vm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Vm]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    qemu = Vm(tmp_path)
    yield qemu
    qemu.end()


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def open_terminal(*words: str) -> Terminal:
        opened.append(Terminal(*words))
        return opened[-1]

    yield open_terminal
    for one in opened:
        one.child.close(force=True)


@contextlib.contextmanager
def busy(*paths: str) -> Iterator[None]:
    """Be the client that is served on these sockets."""
    with contextlib.ExitStack() as stack:
        for path in paths:
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(path)
            client.recv(1)
        yield


# One command


def test_hmp_prints_what_qemu_says(vm: Vm) -> None:
    ran = vm.monitor("info balloon")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "balloon: actual=1024\n", "")


def test_hmp_changes_what_qemu_has(vm: Vm) -> None:
    ran = vm.monitor("block_set_io_throttle d1 0 0 0 77 0 0", "info block d1")
    assert ran.returncode == 0
    assert "iops=77" in ran.stdout


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("nosuch", "unknown command: 'nosuch'\n"),
        ("eject d1", "Error: Device 'd1' is not removable\n"),
        ("balloon", 'unexpected end of expression\nTry "help balloon" for more information\n'),
    ],
)
@pytest.mark.parametrize("way", ["over QMP", "on its own socket"])
def test_hmp_failures(vm: Vm, way: str, line: str, text: str) -> None:
    with busy(*([vm.qmp, vm.qmp2] if way == "on its own socket" else [])):
        ran = vm.monitor(line)
    assert (ran.returncode, ran.stdout, ran.stderr) == (4, "", text)


def test_qmp_prints_json(vm: Vm) -> None:
    ran = vm.monitor("--qmp", "query-status")
    assert ran.returncode == 0
    assert json.loads(ran.stdout)["status"] == "prelaunch"


def test_qmp_both_syntaxes(vm: Vm) -> None:
    add = ["object-add", "qom-type=throttle-group", "id=tg1", "limits.iops-total=120"]
    get = json.dumps({"execute": "qom-get", "arguments": {"path": "/objects/tg1", "property": "limits"}})
    ran = vm.monitor("--qmp", "--verbose", *add, get)
    assert ran.returncode == 0, ran.stderr
    assert '"iops-total": 120' in ran.stdout
    assert '-> {"execute": "object-add"' in ran.stderr


def test_qmp_error(vm: Vm) -> None:
    ran = vm.monitor("--qmp", "balloon", "value=much")
    assert (ran.returncode, ran.stdout) == (4, "")
    assert ran.stderr.startswith("error: QEMU refused balloon: ")


@pytest.mark.parametrize("mode", ["--hmp", "--qmp"])
def test_quit_ends_the_vm(vm: Vm, mode: str) -> None:
    assert vm.monitor(mode, "quit").returncode == 0
    assert vm.process.wait(PATIENCE_S) == 0


def test_the_socket_is_free_afterwards(vm: Vm) -> None:
    for _ in range(3):
        assert vm.monitor("--qmp", "query-status").returncode == 0


def test_named_by_its_sockets(vm: Vm) -> None:
    for address in (vm.qmp2, vm.hmp, vm.tcp):
        command = [sys.executable, "-m", "ringfence", "monitor", address, "info balloon"]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert (ran.returncode, ran.stdout) == (0, "balloon: actual=1024\n"), ran.stderr


@pytest.mark.parametrize(
    "words",
    [
        "-serial mon:unix:{0},server=on,wait=off",
        "-chardev socket,id=m,path={0},mux=on,server=on,wait=off -mon m -serial chardev:m",
    ],
)
def test_a_monitor_that_shares_its_socket_with_the_serial_line(tmp_path: Path, words: str) -> None:
    """The keys go to the serial line at first, and do again afterwards."""
    qemu = find_qemu() or pytest.skip("no QEMU here")
    name, path = f"mux-{os.getpid()}-{tmp_path.name}", f"{tmp_path}/m"
    machine = "-S -display none -nodefaults -machine q35 -accel tcg -m 512 -device virtio-balloon-pci"
    process = subprocess.Popen([qemu, "-name", name, *machine.split(), *words.format(path).split()])
    try:
        until(lambda: os.path.exists(path))
        for where in (name, path, name):
            command = [sys.executable, "-m", "ringfence", "monitor", where, "info balloon", "info status"]
            ran = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
            assert (ran.returncode, ran.stdout) == (0, "balloon: actual=512\nVM status: paused (prelaunch)\n"), ran
    finally:
        process.kill()
        process.wait()


def test_all_sockets_busy(vm: Vm) -> None:
    host, port = vm.tcp.split(":")
    with busy(vm.qmp, vm.qmp2, vm.hmp), socket.create_connection((host, int(port))) as client:
        client.recv(1)
        ran = vm.monitor("info balloon")
    assert ran.returncode == 4
    assert ran.stderr.startswith("error: ")
    assert "another client is being served" in ran.stderr


# A script


def test_script(vm: Vm) -> None:
    ran = vm.monitor(script="# limits\n\nblock_set_io_throttle d1 0 0 0 5 0 0\ninfo balloon\n")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "balloon: actual=1024\n", "")


def test_script_stops_at_the_first_failure(vm: Vm) -> None:
    ran = vm.monitor(script="info balloon\n# next\nnosuch\ninfo balloon\n")
    assert (ran.returncode, ran.stdout) == (4, "balloon: actual=1024\n")
    assert ran.stderr == "unknown command: 'nosuch'\nerror: line 3 failed: nosuch\n"


def test_script_that_keeps_going(vm: Vm) -> None:
    ran = vm.monitor("--qmp", "--keep-going", script="nosuch\nquery-balloon\n")
    assert (ran.returncode, json.loads(ran.stdout)) == (4, {"actual": 1 << 30})
    assert ran.stderr.startswith("error: line 1: ")


# A person


def test_prompt_completion_and_leaving(vm: Vm, terminal: Callable[..., Terminal]) -> None:
    person = terminal(vm.name)
    person.line_is("(qemu) ")
    assert person.lines[0].startswith(f"{vm.name}: QEMU ")
    assert "HMP" in person.lines[0]
    person.sees("Ctrl-D leaves")
    person.type("info ball" + TAB)
    person.line_is("(qemu) info balloon")
    person.type(ENTER)
    person.sees("balloon: actual=1024")
    person.line_is("(qemu) ")
    person.type("eject " + TAB)
    person.line_is("(qemu) eject d1")
    person.type(CTRL_C)
    person.line_is("(qemu) ")
    person.type("block_job_" + TAB)
    person.sees("block_job_set_speed  device speed -- set maximum speed")
    person.type(CTRL_C)
    person.line_is("(qemu) ")
    person.type(CTRL_D)
    assert person.ends() == 0
    assert person.restored()
    assert vm.process.poll() is None


def test_qmp_prompt(vm: Vm, terminal: Callable[..., Terminal]) -> None:
    person = terminal(vm.name, "--qmp")
    person.line_is("(QMP) ")
    person.type("query-ballo" + TAB)
    person.line_is("(QMP) query-balloon")
    person.type(ENTER)
    person.sees('"actual": 1073741824')
    person.line_is("(QMP) ")
    person.type("balloon v" + TAB)
    person.line_is("(QMP) balloon value=")
    person.type("x" + ENTER)
    person.sees("error: QEMU refused balloon")
    person.line_is("(QMP) ")
    person.type("blockdev-add driver=null-c" + TAB)  # what an object can be is no enumeration before QEMU 6.0
    person.line_is("(QMP) blockdev-add driver=null-co")
    person.type(CTRL_C + CTRL_D)
    assert person.ends() == 0


def test_history_across_runs(vm: Vm, terminal: Callable[..., Terminal]) -> None:
    first = terminal(vm.name)
    first.line_is("(qemu) ")
    first.type("info balloon" + ENTER)
    first.sees("actual=1024")
    first.line_is("(qemu) ")
    first.type(CTRL_D)
    assert first.ends() == 0
    second = terminal(vm.name)
    second.line_is("(qemu) ")
    second.type("\x1b[A")
    second.line_is("(qemu) info balloon")


def test_an_event_leaves_the_line_being_typed(vm: Vm, terminal: Callable[..., Terminal]) -> None:
    person = terminal(vm.qmp)
    person.line_is("(qemu) ")
    person.type("info ball")
    person.line_is("(qemu) info ball")
    assert vm.monitor("--qmp", "cont", "stop").returncode == 0
    person.sees("] STOP")
    person.line_is("(qemu) info ball")
    assert sum("(qemu)" in line for line in person.lines) == 1
    person.type("oon" + ENTER)
    person.sees("balloon: actual=1024")


def test_events_can_be_hidden(vm: Vm, terminal: Callable[..., Terminal]) -> None:
    person = terminal(vm.qmp, "--no-events")
    person.line_is("(qemu) ")
    person.type("cont" + ENTER)
    person.type("info status" + ENTER)
    person.sees("VM status: running")
    person.line_is("(qemu) ")
    assert "RESUME" not in "\n".join(person.lines)


def test_quit_asks_first(vm: Vm, terminal: Callable[..., Terminal]) -> None:
    person = terminal(vm.name)
    person.line_is("(qemu) ")
    person.type("quit" + ENTER)
    person.sees("This ends the VM")
    assert vm.process.poll() is None
    person.type("quit" + ENTER)
    assert person.ends() == 0
    person.sees("The VM has ended.")
    assert vm.process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("way", ["over QMP", "on its own socket"])
def test_qemu_killed_under_us(vm: Vm, terminal: Callable[..., Terminal], way: str) -> None:
    person = terminal(vm.qmp if way == "over QMP" else vm.hmp)
    person.line_is("(qemu) ")
    person.type("half a li")
    person.line_is("(qemu) half a li")
    vm.end()
    assert person.ends() == 4
    assert [line for line in person.lines if line.startswith("error:")] == [person.lines[-1]]
    assert "the VM has ended" in person.lines[-1]
    assert person.restored()


def test_terminated(vm: Vm, terminal: Callable[..., Terminal]) -> None:
    person = terminal(vm.name)
    person.line_is("(qemu) ")
    person.child.kill(signal.SIGTERM)
    assert person.ends() == 128 + signal.SIGTERM
    assert person.restored()
