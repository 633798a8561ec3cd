"""What `ringfence monitor` makes of its options, and the console on a screen."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from ringfence.cli import monitor, monitor_open
from ringfence.cli.monitor_console import Console, OnScreen, Reply
from ringfence.errors import HostError, MonitorGoneError, UsageError
from ringfence.qemu.screen import ScreenMonitor

app = typer.Typer()
monitor.register(app)
app.command("other")(lambda: None)


class FakeMonitor(ScreenMonitor):
    """Answers each line with itself."""

    name = "VNC at x"

    def __init__(self) -> None:
        self.cut = False
        self.lines: list[str] = []

    async def execute(self, line: str, *, timeout_s: float = 10.0) -> str:
        self.lines.append(line)
        self.cut = line == "long"
        return "7.2.22Debian\n" if line == "info version" else f"{line}\n"

    async def ended(self) -> None:
        return

    async def close(self) -> None:
        return


@pytest.mark.parametrize(
    "words",
    [
        ["--vnc", ":1", "--tmux", "a", "stop"],
        ["--vnc", ":1", "--qmp", "stop"],
        ["--qmp", "--hmp", "web1"],
        ["web1", "--password-file", "x"],
        [],
        ["--vnc", "nowhere", "stop"],
    ],
)
def test_options_that_do_not_go_together(words: list[str]) -> None:
    assert isinstance(CliRunner().invoke(app, ["monitor", *words]).exception, UsageError)


def test_with_a_console_the_first_word_is_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    async def open_vnc(where: str, password_file: str | None) -> Console:
        asked.append((where, password_file))
        return OnScreen(FakeMonitor())

    monkeypatch.setattr(monitor_open, "open_vnc", open_vnc)
    ran = CliRunner().invoke(app, ["monitor", "--vnc", ":1", "--password-file", "f", "info a", "info b"])
    assert (ran.exit_code, ran.stdout, asked) == (0, "info a\ninfo b\n", [(":1", "f")])


async def test_console_on_a_screen() -> None:
    fake = FakeMonitor()
    console = OnScreen(fake)
    assert (console.mode, console.address, await console.version()) == ("HMP", "VNC at x", "7.2.22")
    assert await console.run("info\ta") == Reply("info a\n")
    assert (await console.run("Error: no")).failed
    first, last = (await console.run("long")).text.splitlines()
    assert ("scrolled off" in first, last) == (True, "long")
    lookup = console.lookup()
    await lookup.load()
    assert await lookup.candidates("info ") == []
    assert lookup.synopsis("info") == ""
    with pytest.raises(MonitorGoneError):
        await console.watch(lambda _: pytest.fail("no events"))
    await console.close()


async def test_a_password_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(HostError):
        await monitor_open.open_vnc("unix:/nowhere", str(tmp_path / "none"))
