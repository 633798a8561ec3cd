import shlex

import pytest
import typer
from typer.testing import CliRunner

from ringfence.cli import run
from ringfence.errors import UsageError


@pytest.fixture
def app(tmp_path, monkeypatch) -> typer.Typer:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    made = typer.Typer()
    made.callback()(lambda: None)
    run.register(made)
    return made


@pytest.fixture
def qemu(tmp_path) -> str:
    script = tmp_path / "qemu"
    script.write_text("#!/bin/sh\necho '  deflate-on-oom=<bool>'\n")
    script.chmod(0o755)
    return str(script)


def test_print_gives_a_line_for_the_shell(app, qemu, tmp_path):
    disk = tmp_path / "my disk.raw"
    disk.touch()
    arguments = [
        "--qemu",
        qemu,
        "--accel",
        "tcg",
        "--print",
        "--memory",
        "2GiB",
        "--vcpus",
        "2",
        "--max-vcpus",
        "3",
    ]
    result = CliRunner().invoke(app, ["run", "vm1", *arguments, "--disk", str(disk), "--", "-nic", "user"])
    assert result.exception is None
    line = shlex.split(result.stdout)
    assert line[0] == qemu
    assert line[-2:] == ["-nic", "user"]
    assert "size=2048M,slots=8,maxmem=8192M" in line
    assert "cpus=2,maxcpus=3,sockets=1,cores=3,threads=1" in line
    assert any(f"file={disk},format=raw" in word for word in line)
    assert f"unix:{tmp_path}/ringfence/vm/vm1/qmp.sock,server=on,wait=off" in line
    assert (tmp_path / "ringfence/vm/vm1").is_dir()


def test_a_vm_that_runs_is_not_started_again(app, qemu, tmp_path, monkeypatch):
    monkeypatch.setattr("ringfence.qemu.running.holder", lambda pidfile: 4711)
    result = CliRunner().invoke(app, ["run", "vm1", "--qemu", qemu, "--accel", "tcg"])
    assert isinstance(result.exception, UsageError)
    assert "4711" in str(result.exception)


def test_qemu_takes_our_place(app, qemu, monkeypatch):
    became = []
    monkeypatch.setattr("signal.signal", lambda number, handler: None)  # it would outlive this test
    monkeypatch.setattr("os.execvp", lambda program, line: became.append((program, line)))
    CliRunner().invoke(app, ["run", "vm1", "--qemu", qemu, "--accel", "tcg"])
    ((program, line),) = became
    assert program == qemu
    assert line[0] == qemu
    assert "guest=vm1,debug-threads=on" in line


def test_virtio_mem_makes_room_for_itself(app, qemu):
    arguments = ["--qemu", qemu, "--accel", "tcg", "--print", "--memory", "1GiB", "--virtio-mem", "8GiB"]
    result = CliRunner().invoke(app, ["run", "vm1", *arguments])
    assert result.exception is None
    line = shlex.split(result.stdout)
    assert "size=1024M,slots=8,maxmem=9216M" in line
    assert "memory-backend-ram,id=virtio-mem-ram,size=8192M" in line
