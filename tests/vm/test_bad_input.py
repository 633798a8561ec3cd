"""Bad requests to real VMs (paused, without a guest): the exit code, a hint, and nothing changed."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ringfence.cli import entry

QEMU = shutil.which("qemu-system-x86_64")
pytestmark = pytest.mark.skipif(QEMU is None, reason="needs qemu-system-x86_64")

TAG = f"bad{os.getpid()}"
USUAL = "-S -accel tcg -display none -nodefaults"
LINES = {
    "rich": (
        "-name {tag}-rich -M q35 -m 256 -smp 1,maxcpus=3 -device virtio-balloon-pci,id=balloon0 "
        "-drive driver=null-co,if=none,id=d1,throttling.iops-total=123 -device virtio-blk-pci,id=first,drive=d1 "
        "-drive driver=null-co,if=none,id=d2 -device virtio-blk-pci,id=second,drive=d2 "
        "-qmp unix:rich.qmp,server=on,wait=off -qmp unix:watch.qmp,server=on,wait=off"
    ),
    "poor": "-name {tag}-poor -M q35 -m 64 -smp 1 -qmp unix:poor.qmp,server=on,wait=off",
    "bare": "-name {tag}-bare -M none -qmp unix:bare.qmp,server=on,wait=off",
    "twin1": "-name {tag}-twin -M none -qmp unix:twin1.qmp,server=on,wait=off",
    "twin2": "-name {tag}-twin -M none",
    "blind": "-name {tag}-blind -M none -monitor unix:blind.hmp,server=on,wait=off",
}
STATE = ("query-block", "query-balloon", "query-hotpluggable-cpus", "query-status")


class Ran(NamedTuple):
    code: int
    out: str
    err: str


class Vms(NamedTuple):
    """:param pids: by the names of LINES. :param folder: where their sockets are."""

    pids: dict[str, int]
    folder: Path
    watch: Any

    def state(self) -> list[Any]:
        """What QEMU holds of all that can be changed on the VM `rich`."""
        return [self._ask(command) for command in STATE]

    def _ask(self, command: str) -> Any:
        self.watch.write(json.dumps({"execute": command}) + "\n")
        self.watch.flush()
        while True:
            answer = json.loads(self.watch.readline())
            if "return" in answer:
                return answer["return"]


def opened(path: Path) -> Any:
    """A QMP connection that has negotiated, as a file."""
    deadline = time.monotonic() + 20
    while True:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(20)
        try:
            client.connect(str(path))
        except OSError:
            client.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
            continue
        file = client.makefile("rw")
        client.close()
        file.readline()
        file.write('{"execute": "qmp_capabilities"}\n')
        file.flush()
        file.readline()
        return file


@pytest.fixture(scope="module")
def vms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vms]:
    folder = tmp_path_factory.mktemp("v")
    started: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, line in LINES.items():
            argv = [str(QEMU), *USUAL.split(), *line.format(tag=TAG).split()]
            started[name] = subprocess.Popen(argv, cwd=folder, stderr=subprocess.DEVNULL)
        for name in ("poor", "bare", "twin1"):
            opened(folder / f"{name}.qmp").close()
        with opened(folder / "watch.qmp") as watch:
            yield Vms({name: process.pid for name, process in started.items()}, folder, watch)
    finally:
        for process in started.values():
            process.kill()
            process.wait()


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run the program in this process."""

    def run(*arguments: str) -> Ran:
        code = entry._build(list(arguments))
        return Ran(code, *capfd.readouterr())

    return run


def check(ran: Ran, code: int, words: str, hint: str) -> None:
    labels = [line.split(":")[0] for line in ran.err.splitlines() if not line.startswith("  ")]
    assert (ran.code, ran.out) == (code, ""), ran
    assert (labels.count("error"), labels.count("hint")) == (1, 1), ran.err
    assert words in ran.err
    assert hint in ran.err.splitlines()[-1]


RICH = [
    # unknown
    ("disk.vda.iopss=1", 2, "no knob 'disk.vda.iopss'", "did you mean disk.vda.iops"),
    ("memory.targt=1G", 2, "no knob 'memory.targt'", "did you mean memory.target"),
    ("gravity=1", 2, "no knob 'gravity'", "keys begin with memory, "),
    ("disk.vdz.iops=1", 2, "no disk 'vdz'", "vda = d1 = first; vdb = d2 = second"),
    ("disk.\udce9.iops=1", 2, "no disk '\\udce9'", "vda"),
    # no value
    ("memory.target", 2, "not KEY=VALUE", "memory.target=2GiB"),
    ("memory.target=", 2, "not KEY=VALUE", "memory.target=2GiB"),
    ("=1G", 2, "not KEY=VALUE", "memory.target=2GiB"),
    ("disk.vda.group=%20", 2, "needs a name", "=none"),
    # not of the unit
    ("memory.target=1parsec", 2, "unknown unit 'parsec'", "512MiB"),
    ("memory.target=5MiB/s", 2, "unknown unit 'MiB/s'", "512MiB"),
    ("memory.target=1e30", 2, "cannot read '1e30' as bytes", "512MiB"),
    ("memory.target=\udce9", 2, "cannot read", "512MiB"),
    ("memory.target=unlimited", 2, "cannot be unlimited", "give a value"),
    ("disk.vda.bps=5furlongs", 2, "unknown unit 'furlongs'", "5MiB/s"),
    ("vcpus=1.5", 2, "no whole number", "such as 4"),
    ("disk.vda.iops.burst_length=1.5s", 2, "whole number of seconds", "10s"),
    # out of range
    ("memory.target=-1", 2, "negative", "512MiB"),
    ("memory.target=0", 2, "less than a page", "512MiB"),
    ("memory.target=257MiB", 2, "above the VM's memory, 256 MiB", "at most 256 MiB"),
    (f"memory.target={10**29}", 2, "above the VM's memory", "at most 256 MiB"),
    ("vcpus=0", 2, "at least one", "vcpus=1"),
    ("vcpus=4", 2, "above this VM's maximum, 3", "maxcpus=N"),
    (f"vcpus={10**29}", 2, "above this VM's maximum", "maxcpus=N"),
    ("disk.vda.iops=-5", 2, "negative", "100"),
    (f"disk.vda.iops={10**15 + 1}", 2, "above QEMU's largest limit", "10^15"),
    (f"disk.vda.bps={10**29}", 2, "above QEMU's largest limit", "10^15"),
    ("disk.vda.iops.burst_length=0", 2, "out of range", "at least 1 s"),
    # impossible together, with what is there already too
    ("disk.vda.iops.read=5", 2, "exclude each other", "disk.vda.iops=unlimited"),
    ("disk.vda.iops.burst=5", 2, "below disk.vda.iops=123", "raise"),
    ("disk.vdb.iops.burst=5", 2, "needs disk.vdb.iops", "set both"),
    ("disk.vdb.iops=5 disk.vdb.iops.burst_length=5s", 2, "needs disk.vdb.iops.burst", "set both"),
    ("disk.vdb.io_size=4KiB", 2, "no meaning without an iops limit", "disk.vdb.iops"),
    ("disk.vdb.group=g", 2, "without a limit", "disk.vdb.iops=500"),
    # twice
    ("vcpus=2 vcpus=2", 2, "given twice", "once"),
    ("disk.vdb.iops=5 disk.second.iops=6", 2, "are the same", "once"),
    ("disk.vdb.iops=5 disk./machine/peripheral/second.iops=6", 2, "are the same", "once"),
    # one among good ones, and several
    ("disk.vdb.iops=5 memory.target=200MiB vcpus=4", 2, "above this VM's maximum", "maxcpus=N"),
    ("nonsense=1 disk.vdb.iops=5 vcpus=2", 2, "no knob 'nonsense'", "keys begin with"),
    ("vcpus=9 disk.vdz.iops=5 memory.target=1TiB disk.vdb.iops=7", 2, "3 things are wrong", "put them right"),
    # options
    ("vcpus=2 --timeout 0", 2, "no time at all", "10s"),
    ("vcpus=2 --timeout -5s", 2, "negative", "10s"),
    ("vcpus=2 --timeout soon", 2, "cannot read 'soon' as a duration", "10s"),
    ("vcpus=2 -o xml", 2, "'xml' is not one of", "ringfence set -h"),
    ("vcpus=2 --forse", 2, "No such option: --forse", "ringfence set -h"),
]


@pytest.mark.parametrize(("words", "code", "error", "hint"), RICH, ids=[ascii(row[0]) for row in RICH])
def test_nothing_is_changed(
    vms: Vms, run: Callable[..., Ran], words: str, code: int, error: str, hint: str
) -> None:
    before = vms.state()
    arguments = [word.replace("%20", " ") for word in words.split()]
    check(run("set", f"{TAG}-rich", *arguments), code, error, hint)
    assert vms.state() == before


def test_what_is_compared_does_change(vms: Vms, run: Callable[..., Ran]) -> None:
    before = vms.state()
    assert run("set", f"{TAG}-rich", "disk.vdb.iops=77").code == 0
    assert vms.state() != before
    assert run("set", f"{TAG}-rich", "disk.vdb.iops=none").code == 0
    assert vms.state() == before


@pytest.mark.parametrize(
    ("vm", "word", "error", "hint"),
    [
        ("poor", "memory.target=32MiB", "has no balloon device", "-device virtio-balloon-pci"),
        ("poor", "vcpus=2", "no room for more", "-smp 1,maxcpus=N"),
        ("bare", "vcpus=2", "cannot plug CPUs", "-machine q35"),
        ("blind", "memory.target=1G", "has no QMP socket", "-qmp unix:"),
    ],
)
def test_a_vm_that_cannot(vms: Vms, run: Callable[..., Ran], vm: str, word: str, error: str, hint: str) -> None:
    check(run("set", f"{TAG}-{vm}", word), 3, error, hint)


def test_a_disk_of_a_vm_that_has_none(vms: Vms, run: Callable[..., Ran]) -> None:
    check(run("set", f"{TAG}-poor", "disk.vda.iops=5"), 2, "no disk 'vda'", "this VM has no disk")


@pytest.mark.parametrize("verb", ["show", "set", "doctor", "monitor"])
def test_names_that_name_no_vm_or_two(vms: Vms, run: Callable[..., Ran], verb: str) -> None:
    more = {"set": ("vcpus=2",), "monitor": ("info status",)}.get(verb, ())
    check(run(verb, f"{TAG}-ritch", *more), 2, f"no VM '{TAG}-ritch'", f"did you mean {TAG}-rich")
    check(run(verb, f"{TAG}-\udce9", *more), 2, "\\udce9", "ringfence ps")
    check(run(verb, "pid:1", *more), 2, "process 1 is no QEMU", "ringfence ps")
    ran = run(verb, f"{TAG}-twin", *more)
    check(ran, 2, f"2 VMs are called '{TAG}-twin'", "by its pid, such as pid:")
    assert all(f"pid {vms.pids[name]} " in ran.err for name in ("twin1", "twin2"))


@pytest.mark.parametrize(
    ("address", "code", "error"),
    [
        ("{folder}/nothing", 4, "nobody listens there (No such file or directory)"),
        ("{folder}", 4, "this is a directory, not a socket"),
        ("/etc/passwd", 4, "this is a file, not a socket"),
        ("{folder}/blind.hmp", 4, "this is a human monitor, not QMP"),
        ("127.0.0.1:9", 4, "nobody listens there (Connection refused)"),
        ("[::1]:9", 4, "nobody listens there"),
        ("no.such.host.invalid:4444", 4, "nobody listens there"),
        (f"{'x' * 70}:4444", 4, "cannot be the name of a host"),
        ("", 2, "neither a path nor HOST:PORT"),
        ("host:port", 2, "neither a path nor HOST:PORT"),
        ("127.0.0.1:99999", 2, "neither a path nor HOST:PORT"),
        ("\udce9/\udcff", 4, "nobody listens there"),
    ],
)
def test_a_socket_that_is_none(vms: Vms, run: Callable[..., Ran], address: str, code: int, error: str) -> None:
    where = address.format(folder=vms.folder)
    shown = run("show", "--qmp", where)
    assert shown.code == code
    assert error in shown.err
    check(run("set", "--qmp", where, "vcpus=2"), code, error, "")


def test_a_socket_that_is_taken_says_by_whom(vms: Vms, run: Callable[..., Ran]) -> None:
    with opened(vms.folder / "poor.qmp"):
        ran = run("set", f"{TAG}-poor", "vcpus=2", "--timeout", "50ms")
    check(ran, 4, "not greeted within 0.05 s", f"(pid {os.getpid()})")


def test_the_program_itself(vms: Vms) -> None:
    before = vms.state()
    words = ("set", f"{TAG}-rich", "vcpus=2", "disk.vdz.iops=5")
    ran = subprocess.run(
        [sys.executable, "-X", "dev", "-m", "ringfence", *words], capture_output=True, text=True, check=False
    )
    check(Ran(ran.returncode, ran.stdout, ran.stderr), 2, "no disk 'vdz'", "vda")
    assert len(ran.stderr.splitlines()) == 2
    assert vms.state() == before
