"""README is executed: each command of its console block in order, and its Python example, on a real guest."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from ringfence.errors import GuestError
from ringfence.lab.image import Image

README = (Path(__file__).parents[2] / "README.md").read_text()
NAME = "web1"


class Command(NamedTuple):
    """A line that README lets its reader type, and the lines that it shows below."""

    text: str
    shown: tuple[str, ...]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands() -> list[Command]:
    _, *chunks = re.split(r"^\$ ", blocks("console")[0], flags=re.MULTILINE)
    return [Command(text, tuple(shown)) for text, *shown in (chunk.splitlines() for chunk in chunks)]


def without_times(line: str) -> str:
    """A line that was printed, less what differs from run to run: how long it took, and how wide a column is."""
    return " ".join(re.sub(r"\(.*\)$", "", line).split())


class Reader:
    """Does as README says, in a shell, with a guest whose name is nobody else's."""

    def __init__(self, bin_: Path) -> None:
        self.name = f"readme-{os.getpid()}"
        program = bin_ / "ringfence"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m ringfence "$@"\n')
        program.chmod(0o755)
        self._environment = os.environ | {"PATH": f"{bin_}:{os.environ['PATH']}"}

    def types(self, text: str) -> subprocess.CompletedProcess[str]:
        return self._run(["sh", "-c", text.replace(NAME, self.name)])

    def runs_python(self, text: str) -> subprocess.CompletedProcess[str]:
        return self._run([sys.executable, "-c", text.replace(NAME, self.name)])

    def _run(self, argv: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv, env=self._environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )


@pytest.fixture
def reader(image: Image, tmp_path: Path) -> Reader:
    return Reader(tmp_path)


def test_what_the_readme_says_works(reader: Reader) -> None:
    *uses, end = commands()
    assert end.text == f"ringfence lab down {NAME}"
    printed: dict[str, str] = {}
    try:
        for use in uses:
            done = reader.types(use.text)
            printed[use.text] = done.stdout
            if use.text.endswith("vcpus=3") and not room_for_vcpus(reader):
                assert (done.returncode, "partial by guest" in done.stdout) == (GuestError.exit_code, True)
                continue
            assert done.returncode == 0, (use.text, done.stdout, done.stderr)
            assert [without_times(line) for line in done.stdout.splitlines()][: len(use.shown)] == [
                without_times(line) for line in use.shown
            ]
        check_output(reader, {text.removeprefix("ringfence "): out for text, out in printed.items()})
        scripts = [reader.runs_python(text) for text in blocks("python")]
        assert [script.returncode for script in scripts] == [0, 0], scripts
        assert {script.stdout for script in scripts} == {
            f"memory.target applied {1 << 30}\ndisk.vda.iops applied 100\n"
        }
    finally:
        ended = reader.types(end.text)
    assert ended.returncode == 0, ended.stderr
    assert reader.name not in reader.types("ringfence ps").stdout


def room_for_vcpus(reader: Reader) -> bool:
    """Whether the guest's kernel takes vCPUs at all, see `workloads.possible_cpus`."""
    possible = reader.types(f"ringfence lab run {NAME} cat /sys/devices/system/cpu/possible").stdout.strip()
    return possible != "0"


def check_output(reader: Reader, printed: dict[str, str]) -> None:
    """The commands of which README shows no output say what a reader expects of them."""
    assert reader.name in printed["ps"]
    assert "disk.vda.iops" in printed[f"show {NAME}"]
    request = json.loads(printed[f"set {NAME} disk.vda.bps=20MiB/s --dry-run"])
    assert request["execute"] == "block_set_io_throttle"
    assert (request["arguments"]["bps"], request["arguments"]["iops"]) == (20 << 20, 500)
    assert printed[f"monitor {NAME} 'info balloon'"].strip() == "balloon: actual=768"
    assert json.loads(printed[f"monitor {NAME} --qmp query-status"])["status"] == "running"
    assert "memory.target" in printed[f"doctor {NAME}"]
    now = json.loads(reader.types(f"ringfence show {NAME} -o json").stdout)
    (bps,) = [knob["actual"] for knob in now["knobs"] if knob["key"] == "disk.vda.bps"]
    assert bps is None, "a dry run changed it"
