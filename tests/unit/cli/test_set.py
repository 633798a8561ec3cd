"""`ringfence set`: what is sent, what is printed, and what is refused before anything is sent."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ringfence.cli import set_change
from ringfence.core.knob import Verdict
from ringfence.engine.changes import Result
from ringfence.knobs import registry
from ringfence.testing.fake_qemu import FakeQemu
from ringfence.testing.obedient_vm import ObedientVm, changing

MIB = 1 << 20


class Vm:
    """The obedient VM at a socket, and the program to run on it."""

    def __init__(self, folder: Path, run: Callable[..., Any], behind: Callable[..., Any]) -> None:
        self.obedient = ObedientVm()
        self.path = str(folder / "qmp")
        self.received: list[dict[str, Any]] = []
        self._run = run
        self._behind = behind

    def set(self, *words: str) -> Any:
        """Run it; `received` is then what QEMU was sent to change the VM."""
        return self.run("--qmp", self.path, *words)

    def run(self, *words: str) -> Any:
        """The same with the VM named as the words do."""
        with FakeQemu(self.path, self.obedient.answers) as qemu:
            self._behind(qemu)
            ran = self._run("set", *words)
        self.received = changing(qemu.received)
        return ran


@pytest.fixture
def vm(tmp_path: Path, run: Callable[..., Any], vm_behind: Callable[..., Any]) -> Vm:
    return Vm(tmp_path, run, vm_behind)


# The dry run


@pytest.mark.parametrize(
    "words",
    [
        ("disk.vda.iops=100",),
        ("disk.vda.iops=100", "disk.vda.iops.burst=500", "disk.b.bps.read=1MiB/s", "disk.vdb.bps.write=2MiB/s"),
        ("memory.target=512MiB",),
        ("vcpus=4",),
        ("vcpus=1",),
        ("vcpus=3", "memory.target=700MiB", "disk.node-a.iops=7"),
    ],
    ids=" ".join,
)
def test_the_dry_run_prints_what_the_real_one_sends(vm: Vm, words: tuple[str, ...]) -> None:
    vm.obedient.poll_s = 5 if len(words) == 3 else 0
    dry = vm.set(*words, "--dry-run")
    assert (dry.code, vm.received) == (0, [])
    assert vm.set(*words).code == 0
    assert [json.loads(line) for line in dry.out.splitlines()] == vm.received != []


def test_the_dry_run_of_what_is_so_already(vm: Vm) -> None:
    assert vm.set("vcpus=2", "disk.vda.iops=none", "--dry-run").out.splitlines() == [
        "# vcpus: already so",
        "# disk.vda.iops: already so",
    ]


def test_the_dry_run_as_data(vm: Vm) -> None:
    (step,) = json.loads(vm.set("disk.a.iops=9", "--dry-run", "-o", "json").out)
    assert (step["part"], step["keys"]) == ("vda", ["disk.a.iops"])
    assert step["requests"][0]["arguments"]["iops"] == 9


def test_the_dry_run_refuses_what_the_real_one_would(vm: Vm) -> None:
    assert vm.set("vcpus=9", "--dry-run").code == 2


# Results


def test_the_table_has_a_line_for_each_key(vm: Vm) -> None:
    out = vm.set("disk.vda.iops=100", "memory.target=512MiB").out.splitlines()
    assert out[0].startswith("disk.vda.iops  unlimited -> 100  applied  (")
    assert out[1].startswith("memory.target  1 GiB -> 512 MiB  applied  (")


def test_what_is_so_already_sends_nothing(vm: Vm) -> None:
    ran = vm.set("vcpus=2")
    assert (ran.code, vm.received) == (0, [])
    assert "already so" in ran.err


def test_results_as_data(vm: Vm) -> None:
    (result,) = json.loads(vm.set("disk.vda.bps=1MiB/s", "-o", "json").out)
    assert (result["key"], result["before"], result["asked"], result["actual"]) == ("disk.vda.bps", None, MIB, MIB)
    assert (result["verdict"], result["known"], result["unit"]) == ("applied", True, "bytes/s")


def a_result(**changed: Any) -> Result:
    key = registry.parse_key("memory.target")
    usual = Result(
        key=key.text,
        row=key.row,
        before=1024 * MIB,
        asked=512 * MIB,
        target=700 * MIB,
        actual=700 * MIB,
        known=True,
        verdict=Verdict.PARTIAL,
        by="guest",
        detail="it stopped",
        hint="wait",
        state="",
        notes=("host RSS",),
        took_ms=2000.0,
        exit_code=6,
    )
    return usual._replace(**changed)


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({}, "1 GiB -> 700 MiB  partial by guest, asked for 512 MiB  (2 s)"),
        (
            {"verdict": Verdict.REFUSED, "actual": 1024 * MIB, "by": "ringfence"},
            "1 GiB -> 1 GiB  refused by ringfence, asked for 512 MiB  (2 s)",
        ),
        ({"verdict": Verdict.APPLIED, "by": "", "actual": 512 * MIB}, "1 GiB -> 512 MiB  applied  (2 s)"),
        (
            {"verdict": Verdict.FAILED, "by": "", "known": False, "actual": None},
            "1 GiB -> not known  failed, asked for 512 MiB  (2 s)",
        ),
        ({"verdict": Verdict.NOT_ATTEMPTED, "by": "", "actual": 1024 * MIB}, "1 GiB  not attempted"),
    ],
)
def test_each_verdict_in_words(changed: dict[str, Any], line: str) -> None:
    assert set_change._verdict(a_result(**changed)) == line


def test_only_the_first_failure_is_the_error(capsys: pytest.CaptureFixture[str]) -> None:
    later = a_result(key="vcpus", verdict=Verdict.NOT_ATTEMPTED, detail="because", hint="", notes=())
    set_change._print_results([a_result(), later], set_change.Format.TABLE)
    assert capsys.readouterr().err.splitlines() == [
        "  host RSS",
        "error: memory.target partial: it stopped",
        "hint: wait",
    ]


# Bad requests


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ((), "Missing argument"),
        (("vcpus",), "'vcpus' is not KEY=VALUE"),
        (("vcpus=",), "'vcpus=' is not KEY=VALUE"),
        (("=3",), "'=3' is not KEY=VALUE"),
        (("vcpus=3", "vcpus=3"), "vcpus is given twice"),
        (("disk.vda.iops=1", "disk.node-a.iops=2"), "are the same"),
        (("vcpus=3", "disk.vdz.iops=5"), "no disk 'vdz'"),
        (("vcpus=3", "disk.vda.iops.burst_length=0"), "out of range"),
        (("vcpus=3", "--timeout", "0s"), "leaves no time"),
        (("vcpus=3", "--timeout", "soon"), "--timeout: cannot read 'soon' as a duration"),
        (("vcpus=3", "-o", "xml"), "'xml' is not one of"),
        (("vcpus=3", "--forse"), "No such option"),
    ],
)
def test_a_bad_request_changes_nothing(vm: Vm, words: tuple[str, ...], error: str) -> None:
    ran = vm.set(*words)
    assert (ran.code, ran.out, vm.received) == (2, "", [])
    assert ran.err.startswith("error: ")
    assert error in ran.err
    assert "\nhint: " in ran.err


def test_every_mistake_is_told_at_once(vm: Vm) -> None:
    ran = vm.set("disk.vda.iops=7", "nonsense=1", "memory.target=1parsec", "disk.vdz.bps=5", "vcpus=99")
    assert (ran.code, vm.received) == (2, [])
    first, *lines, hint = ran.err.splitlines()
    assert first == "error: 4 things are wrong, and nothing was changed:"
    for line, words in zip(lines, ("nonsense", "parsec", "vdz", "vcpus=99"), strict=True):
        assert words in line
    assert hint == "hint: put them right, or leave them out"


def test_what_the_vm_lacks_is_told_as_such_when_the_request_is_else_right(vm: Vm) -> None:
    vm.obedient.answers |= {"qom-list": [], "query-hotpluggable-cpus": [], "query-cpus-fast": []}
    assert vm.set("memory.target=1GiB", "vcpus=3").code == 3
    assert vm.set("memory.target=1GiB", "vcpus=3", "vcpu=3").code == 2


def test_a_forgotten_vm_is_not_taken_for_one(run: Callable[..., Any]) -> None:
    ran = run("set", "memory.target=1GiB")
    assert ran.code == 2
    assert ran.err.splitlines()[1] == "hint: ringfence set VM memory.target=1GiB"


def test_without_options_and_for_limits_of_disks_neither_typer_nor_a_loop_is_loaded(
    tmp_path: Path, obedient: ObedientVm
) -> None:
    program = (
        "import sys\n"
        "from ringfence.cli import entry\n"
        "from ringfence.qemu import discovery\n"
        "discovery.find_vm = lambda path: discovery.vm_at(discovery.parse_address(path), '/nowhere')\n"
        "discovery.find_vms = lambda *_: []\n"
        "code = entry._build(['set', *sys.argv[1:]])\n"
        "print([name for name in ('typer', 'asyncio', 'qemu.qmp', 'rich', 'ssl') if name in sys.modules])\n"
        "sys.exit(code)\n"
    )
    with FakeQemu(tmp_path / "qmp", obedient.answers) as qemu:

        def loaded(*words: str) -> str:
            command = [sys.executable, "-c", program, qemu.address.path, *words]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]

        assert loaded("disk.vda.iops=100") == "[]"
        assert loaded("vcpus=3") == "['asyncio', 'qemu.qmp', 'ssl']"
    assert (obedient.limits["a"]["iops"], len(obedient.cpus)) == (100, 3)


@pytest.mark.parametrize(
    "words",
    [
        ("VM", "disk.vda.iops=100"),
        ("VM", "disk.vda.iops=1", "disk.vda.iops.burst=x"),
        ("VM", "disk.vda.iopss=1"),
        ("VM",),
        ("disk.vda.iops=1",),
        ("none", "disk.vda.iops=1"),
        ("VM", "disk.vda.iops"),
    ],
)
def test_with_and_without_what_reads_the_options_it_is_the_same(
    vm: Vm, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(set_change, "_took", lambda _: "a while")
    words = tuple(vm.path if word == "VM" else word for word in words)
    short = vm.run(*words)
    sent = vm.received
    vm.obedient.limits["a"].clear()
    assert (vm.run(*words, "--timeout", "60s"), vm.received) == (short, sent)
