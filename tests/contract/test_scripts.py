"""scripts/bootstrap.sh, with stand-ins for the programs that would change the machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = [*sorted((ROOT / "scripts").iterdir()), ROOT / ".ci/run"]


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck here")
def test_shellcheck_finds_nothing() -> None:
    found = subprocess.run(["shellcheck", "-x", *SCRIPTS], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


class Machine:
    """A machine with stand-ins for programs, first on its path."""

    def __init__(self, folder: Path) -> None:
        self.programs = folder / "bin"
        self.programs.mkdir()
        self.log = folder / "log"
        self.log.touch()
        self.has("dpkg-query", "exit 1")
        self.has("id", "echo 0")

    def has(self, program: str, script: str) -> None:
        path = self.programs / program
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def runs(
        self, text: str, *, path: str = os.environ["PATH"], **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/bash", "-euo", "pipefail", "-c", f'. "$1/scripts/bootstrap.sh"; {text}', "-", str(ROOT)],
            env={"PATH": f"{self.programs}:{path}", "LOG": str(self.log), **environment},
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_what_is_there_is_not_installed(machine: Machine) -> None:
    machine.has("dpkg-query", "echo install ok installed")
    machine.has("apt-get", "echo called >>$LOG")
    done = machine.runs("ensure_packages one two")
    assert (done.returncode, done.stderr, machine.log.read_text()) == (0, "", "")


def test_what_is_missing_is_said_and_installed_quietly(machine: Machine) -> None:
    machine.has("dpkg-query", '[ "$3" = there ] && echo install ok installed')
    machine.has("apt-get", 'echo "$*" >>$LOG; echo chatter')
    done = machine.runs("ensure_packages there one two")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "== installing system packages: one two\n")
    update, install = machine.log.read_text().splitlines()
    assert update.endswith(" update")
    assert install.endswith(" install -y --no-install-recommends one two")


def test_a_source_that_fails_is_passed_over_and_a_failed_installation_is_shown(machine: Machine) -> None:
    machine.has("apt-get", 'case "$*" in *update) exit 100 ;; esac')
    assert machine.runs("ensure_packages one").returncode == 0
    machine.has("apt-get", 'echo "E: no such package" >&2; exit 100')
    done = machine.runs("ensure_packages one")
    assert done.returncode == 1
    assert "E: no such package" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("== apt-get could not install them: check the network")


def test_users_use_sudo_and_without_it_are_told_what_root_has_to_do(machine: Machine, tmp_path: Path) -> None:
    for program in ("readlink", "dirname", "realpath", "env", "mktemp", "cat", "rm", "grep"):
        (machine.programs / program).symlink_to(str(shutil.which(program)))
    machine.has("id", "echo 1000")
    machine.has("apt-get", 'echo "$*" >>$LOG')
    done = machine.runs("ensure_packages one", path="/nowhere")
    assert done.returncode == 1
    assert "have root run: apt-get install one" in done.stderr
    machine.has("sudo", 'echo sudo >>$LOG; exec "$@"')
    assert machine.runs("ensure_packages one", path="/nowhere").returncode == 0
    assert machine.log.read_text().splitlines()[::2] == ["sudo", "sudo"]
    (machine.programs / "apt-get").unlink()
    done = machine.runs("ensure_packages one", path="/nowhere")
    assert (done.returncode, "not a Debian or Ubuntu machine" in done.stderr) == (1, True)


def test_a_directory_that_it_did_not_make_is_left_alone(machine: Machine, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "file").touch()
    done = machine.runs('ensure_venv ""', RINGFENCE_VENV=str(mine))
    assert done.returncode == 1
    assert "set RINGFENCE_VENV to another directory" in done.stderr
    assert [path.name for path in mine.iterdir()] == ["file"]


def test_the_checkout_is_found_through_links(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(ROOT / "scripts/bootstrap.sh")
    assert machine.runs(f'. {tmp_path}/link; echo "$top"').stdout == f"{ROOT.resolve()}\n"
