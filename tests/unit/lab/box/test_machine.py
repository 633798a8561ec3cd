"""A box's QEMU and what is said to the agent in it, with a stand-in for QEMU."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import pytest

from ringfence.errors import GuestError
from ringfence.lab.box.image import BoxImage
from ringfence.lab.box.machine import Hardware, Start, command_line, started

IMAGE = BoxImage(Path("/k"), Path("/i"), Path("/d"), "3.11", "key")
START = Start(Path("/r,1/root.qcow2"), Path("/share"), Path("/cache"))


def option(line: list[str], name: str, containing: str) -> str:
    return next(value for key, value in pairwise(line) if key == name and containing in value)


def test_what_is_written_to_the_disk_is_gone_unless_it_is_kept() -> None:
    line = command_line(Hardware("qemu", "tcg", IMAGE), START, Path("/run"))
    root = "file=/r,,1/root.qcow2"
    assert option(line, "-drive", "disk0") == f"if=none,id=disk0,snapshot=on,format=qcow2,{root}"
    kept = command_line(Hardware("qemu", "tcg", IMAGE), START._replace(keep=True), Path("/run"))
    assert "snapshot=on" not in option(kept, "-drive", "disk0")


def test_saved_and_restored_machines_have_the_same_devices() -> None:
    hardware = Hardware("qemu", "tcg", IMAGE, disks=(Path("/w"),))
    first = command_line(hardware, START._replace(keep=True), Path("/run"))
    then = command_line(hardware, START._replace(state=Path("/a b")), Path("/run"))
    devices = [[value for key, value in pairwise(line) if key == "-device"] for line in (first, then)]
    assert devices[0] == devices[1]
    assert then[-2:] == ["-incoming", "exec:cat '/a b'"]


STAND_IN = """\
#!{python}
import socket, sys
def end(name):
    ends = socket.socket(socket.AF_UNIX)
    path = next(word.partition("path=")[2] for word in sys.argv if word.startswith(f"socket,id={{name}},"))
    ends.connect(path)
    return ends
control, output = end("control"), end("output")
control.sendall(b"ready 6.1\\n")
for line in control.makefile():
    word, *rest = line.split()
    import base64
    script = base64.b64decode(rest[-1])
    if script == b"die":
        sys.exit("killed by the script")
    output.sendall(b"said " + script)
    control.sendall(b"exit 7\\n" if word == "run" else b"prepared 0\\n")
"""


@pytest.fixture
def hardware(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hardware:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    program = tmp_path / "qemu"
    program.write_text(STAND_IN.format(python=sys.executable))
    program.chmod(0o755)
    return Hardware(str(program), "tcg", IMAGE)


async def test_the_status_and_all_output_come_back_and_nothing_is_left(hardware: Hardware, tmp_path: Path) -> None:
    said: list[bytes] = []
    async with started(hardware, START, said.append) as machine:
        assert await machine.ready() == "6.1"
        await machine.prepare("one ", 5)
        assert await machine.run("two", 5) == 7
    assert b"".join(said) == b"said one said two"
    assert list((tmp_path / "ringfence/box").iterdir()) == []


async def test_a_box_that_ends_early_is_told_with_what_it_said_last(hardware: Hardware) -> None:
    async with started(hardware, START, lambda _: None) as machine:
        await machine.ready()
        with pytest.raises(GuestError, match="killed by the script"):
            await machine.run("die", 5)
