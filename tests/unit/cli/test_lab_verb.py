from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from ringfence.cli import lab
from ringfence.errors import UsageError
from ringfence.qemu.agent import AgentRun
from ringfence.qemu.files import Files


class StubGuest:
    """Answers one run; keeps what it was asked."""

    name, pid, accel, memory_bytes = "vm1", None, "tcg", 512 << 20
    files = Files(Path("/run/vm1"))

    def __init__(self, result: AgentRun) -> None:
        self.result = result
        self.asked = []
        self.is_down = False

    async def run(self, command, *, stdin, timeout_s):
        self.asked.append((command, stdin, timeout_s))
        return self.result

    async def down(self) -> None:
        self.is_down = True


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer()
    lab.register(made)
    return made


@pytest.fixture
def guest(monkeypatch):
    """Gives a function that puts a guest with this result in the place of every guest."""

    def put(result: AgentRun) -> StubGuest:
        stub = StubGuest(result)
        monkeypatch.setattr("ringfence.lab.guest.find_guest", lambda name: stub)
        monkeypatch.setattr("ringfence.lab.guest.list_guests", lambda: (stub,))
        return stub

    return put


def test_run_passes_everything_through(app, guest):
    stub = guest(AgentRun(3, b"out\xff", b"err"))
    result = CliRunner().invoke(app, ["lab", "run", "vm1", "--timeout", "2min", "--", "ls", "-l"], input="in")
    assert (result.exit_code, result.stdout_bytes, result.stderr_bytes) == (3, b"out\xff", b"err")
    assert stub.asked == [(["ls", "-l"], b"in", 120.0)]


def test_one_word_with_blanks_is_shell_text(app, guest):
    stub = guest(AgentRun(0, b"", b""))
    CliRunner().invoke(app, ["lab", "run", "vm1", "echo a; echo b"])
    CliRunner().invoke(app, ["lab", "run", "vm1", "true"])
    assert [asked[0] for asked in stub.asked] == ["echo a; echo b", ["true"]]


def test_an_end_by_a_signal_is_told_as_shells_do(app, guest):
    guest(AgentRun(-9, b"", b""))
    assert CliRunner().invoke(app, ["lab", "run", "vm1", "true"]).exit_code == 137


def test_output_that_was_dropped_is_not_passed_over(app, guest):
    guest(AgentRun(0, b"", b"", truncated=True))
    assert "16 MiB" in CliRunner().invoke(app, ["lab", "run", "vm1", "true"]).stderr


@pytest.mark.parametrize("arguments", [[], ["vm1", "--all"]])
def test_down_wants_a_name_or_all(app, guest, arguments):
    stub = guest(AgentRun(0, b"", b""))
    result = CliRunner().invoke(app, ["lab", "down", *arguments])
    assert isinstance(result.exception, UsageError)
    assert not stub.is_down


@pytest.mark.parametrize("arguments", [["vm1"], ["--all"]])
def test_down_ends_guests(app, guest, arguments):
    stub = guest(AgentRun(0, b"", b""))
    assert CliRunner().invoke(app, ["lab", "down", *arguments]).exit_code == 0
    assert stub.is_down


def test_ls_prints_for_people_and_programs(app, guest):
    guest(AgentRun(0, b"", b""))
    assert "vm1   ended  tcg    512 MiB" in CliRunner().invoke(app, ["lab", "ls"]).stdout
    assert '"qmp": "/run/vm1/qmp.sock"' in CliRunner().invoke(app, ["lab", "ls", "-o", "json"]).stdout


def test_qemu_prints_the_path_alone(app, monkeypatch):
    def fetched(suite, say) -> Path:
        say("fetching")
        return Path(f"/cache/{suite}/qemu")

    monkeypatch.setattr("ringfence.lab.qemus.ensure_qemu", fetched)
    result = CliRunner().invoke(app, ["lab", "qemu", "trixie"])
    assert (result.exit_code, result.stdout) == (0, "/cache/trixie/qemu\n")
    assert "fetching" in result.stderr
