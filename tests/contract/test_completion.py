"""What a shell gets on Tab: the whole program, through the environment that typer's scripts for shells set."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ringfence.cli.entry import VERBS

OWN = f"completed-{os.getpid()}"  # another run of these tests may have its VMs on this host too


def ask(**environment: str) -> list[str]:
    """What the program prints for the shell; nothing else may reach the terminal."""
    done = subprocess.run(
        (sys.executable, "-m", "ringfence"),
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.splitlines() if done.stdout.strip() else []


def bash(*words: str) -> list[str]:
    """`words` as bash has split them; the cursor is behind the last."""
    typed = ("ringfence", *words)
    return ask(_RINGFENCE_COMPLETE="complete_bash", COMP_WORDS="\n".join(typed), COMP_CWORD=str(len(typed) - 1))


def fish(line: str) -> list[str]:
    """Candidates and their help, a tab in between."""
    return ask(
        _RINGFENCE_COMPLETE="complete_fish",
        _TYPER_COMPLETE_FISH_ACTION="get-args",
        _TYPER_COMPLETE_ARGS=f"ringfence {line}",
    )


def zsh(line: str) -> str:
    """The code that zsh evaluates."""
    return "\n".join(ask(_RINGFENCE_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS=f"ringfence {line}"))


@pytest.fixture
def vm(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Starts processes that look like QEMU from outside: `vm("web1", "-smp", "2")`."""
    program = tmp_path / "qemu-system-x86_64"
    shutil.copy("/bin/sh", program)
    processes: list[subprocess.Popen[bytes]] = []

    def start(name: str, *options: str) -> None:
        line = (str(program), "-c", "read end", "-name", name, *options)
        processes.append(subprocess.Popen(line, stdin=subprocess.PIPE))

    yield start
    for process in processes:
        process.communicate()


def test_verbs() -> None:
    assert bash("") == list(VERBS)
    assert bash("mon") == ["monitor"]
    assert bash("monitor") == ["monitor"]
    (doctor,) = fish("do")
    assert doctor.startswith("doctor\tWhat this host and its VMs can do")
    assert '"doctor"' in zsh("do")


def test_options_and_their_values() -> None:
    assert {"--qmp", "--all", "--output"} <= set(bash("show", "-"))
    assert bash("set", "--dr") == ["--dry-run"]
    assert bash("ps", "-o", "") == ["table", "json", "yaml"]
    assert bash("lab", "") == ["up", "run", "down", "demo", "qemu", "ls"]


@pytest.mark.parametrize("verb", ["show", "set", "monitor", "doctor"])
def test_names_of_vms(verb: str, vm: Callable[..., None]) -> None:
    first, second = (f"{OWN}-{number}" for number in (1, 2))
    vm(first)
    vm(second)
    assert bash(verb, first[:-1]) == [first, second]
    assert bash(verb, second) == [second]
    assert bash(verb, "./") == []


def test_names_that_a_shell_would_evaluate_are_not_offered(vm: Callable[..., None]) -> None:
    for name in ("evil $(id)", "evil`id`", "evil*", "evil'\"", "evil\nname", "evil)", "evil:1", "-evil"):
        vm(name)
    plain = f"evil_but.plain-{OWN}"
    vm(plain)
    assert [name for name in bash("show", "evil") if name.endswith(OWN)] == [plain]
    assert fish(f"show {plain}") == [plain]
    assert zsh(f"show {plain}") == f"_arguments '*: :((\"{plain}\"))'"


def test_names_of_lab_guests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "ringfence" / "lab" / "guest1").mkdir(parents=True, mode=0o700)
    (tmp_path / "ringfence").chmod(0o700)
    (tmp_path / "ringfence" / "lab").chmod(0o700)
    assert bash("lab", "down", "") == ["guest1"]
    assert bash("lab", "run", "g") == ["guest1"]
    assert bash("lab", "up", "g") == []


def test_no_runtime_directory_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "ringfence").touch()
    assert bash("lab", "down", "") == []


def test_keys_without_a_vm() -> None:
    main = ["memory.target=", "vcpus=", "cpu.cap=", "cpu.weight=", "memory.limit="]
    assert [key for key in bash("set", "no-such-vm", "") if key in main] == main
    assert bash("set", "no-such-vm", "memory") == ["memory.target=", "memory.limit=", "memory.bandwidth="]
    assert bash("set", "no-such-vm", "memory.")[:3] == ["memory.target=", "memory.target.via=", "memory.ramp="]
    assert bash("set", "no-such-vm", "memory.target.via=v") == ["memory.target.via=virtio-mem"]
    keys = bash("set", "no-such-vm", "disk.my-disk.b")
    assert keys[:3] == ["disk.my-disk.bps=", "disk.my-disk.bps.burst=", "disk.my-disk.bps.burst_length="]
    assert bash("set", "--qmp", "/nowhere", "v") == ["vcpus="]
    assert bash("set", "no-such-vm", "nonsense=") == []


def test_values_and_the_key_alone_beside_them(vm: Callable[..., None]) -> None:
    vm(OWN, "-m", "1G", "-smp", "1,maxcpus=3")
    assert bash("set", OWN, "v") == ["vcpus=", "vcpus=1", "vcpus=2", "vcpus=3"]
    assert bash("set", OWN, "memory.target=") == ["memory.target=512MiB", "memory.target=1024MiB"]
    assert fish(f"set {OWN} vcpus=") == ["vcpus=1", "vcpus=2", "vcpus=3"]
    assert fish(f"set {OWN} disk.vda.iops.re") == [
        "disk.vda.iops.read=\trequests per second, reads",
        "disk.vda.iops.read.burst=\trequests per second while a burst lasts, reads",
        "disk.vda.iops.read.burst_length=\twhole seconds a full burst may last",
    ]
    assert fish(f"set {OWN} disk.vda.iops=u") == ["disk.vda.iops=unlimited"]


def test_bash_makes_words_of_key_equals_and_value(vm: Callable[..., None]) -> None:
    vm(OWN, "-smp", "1,maxcpus=3")
    assert bash("set", OWN, "vcpus", "=") == ["1", "2", "3"]
    assert bash("set", OWN, "vcpus", "=", "2") == ["2"]
    assert bash("set", OWN, "vcpus", "=", "2", "v") == []


def test_a_key_is_offered_once() -> None:
    assert fish("set no-such-vm vcpus=2 ")[0] == "memory.target=\t" + fish("set no-such-vm m")[0].split("\t")[1]
    assert [line for line in fish("set no-such-vm vcpus=2 ") if line.startswith("vcpus")] == []
