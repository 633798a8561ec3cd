"""The interactive monitor, with keys from a pipe and a screen in memory."""

from __future__ import annotations

import asyncio
import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyte
import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.data_structures import Size
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output.vt100 import Vt100_Output

from ringfence.cli.monitor_complete import Candidate
from ringfence.cli.monitor_console import Reply, Show
from ringfence.cli.monitor_history import history_path
from ringfence.cli.monitor_prompt import Prompt
from ringfence.errors import MonitorGoneError, MonitorRefusedError

CTRL_C, CTRL_D, TAB, ENTER = "\x03", "\x04", "\t", "\r"


class FakeConsole:
    """Echoes lines; `gone` ends it."""

    address = "/run/x"

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.ran: list[str] = []
        self.answers: dict[str, str | Exception] = {}
        self.endless = ""
        self.waiting = asyncio.Event()
        self.gone = asyncio.Event()
        self.events: asyncio.Queue[list[dict[str, Any]]] = asyncio.Queue()

    async def version(self) -> str:
        return "7.2.22"

    async def run(self, line: str) -> Reply:
        self.ran.append(line)
        if line == self.endless:
            self.waiting.set()
            await asyncio.Event().wait()
        answer = self.answers.get(line, f"<{line}>\n")
        if isinstance(answer, Exception):
            raise answer
        return Reply(answer)

    async def watch(self, show: Show) -> None:
        ending = asyncio.ensure_future(self.gone.wait())
        while not ending.done():
            arrival = asyncio.ensure_future(self.events.get())
            await asyncio.wait({ending, arrival}, return_when=asyncio.FIRST_COMPLETED)
            if arrival.done():
                await show(arrival.result())
        raise MonitorGoneError("QEMU closed it")


class FakeLookup:
    """Knows two commands."""

    async def load(self) -> None:
        return None

    async def candidates(self, line: str) -> list[Candidate]:
        return [Candidate(text, len(line)) for text in ("info ", "info-more ") if text.startswith(line)]

    def synopsis(self, line: str) -> str:
        return f"about {line}" if line else ""


class Terminal(io.StringIO):
    """What is written to it appears on the screen."""

    def __init__(self, screen: pyte.Screen) -> None:
        super().__init__()
        screen.set_mode(pyte.modes.LNM)
        self._stream = pyte.Stream(screen)

    def write(self, text: str) -> int:
        self._stream.feed(text)
        return len(text)


class Person:
    """Types, looks, and runs the monitor."""

    def __init__(self, keys: PipeInput, screen: pyte.Screen) -> None:
        self._keys = keys
        self._screen = screen
        self.console = FakeConsole("HMP")
        self.events = True

    def type(self, text: str) -> None:
        self._keys.send_text(text)

    async def run(self) -> int:
        prompt = Prompt(self.console, FakeLookup(), events=self.events)  # type: ignore[arg-type]
        return await asyncio.wait_for(prompt.run("welcome\n"), 20)

    @property
    def saw(self) -> str:
        return "\n".join(self._screen.display)

    async def sees(self, text: str) -> None:
        """Wait until it is on the screen."""
        async with asyncio.timeout(20):
            while text not in self.saw:  # noqa: ASYNC110  (a screen has no event to wait for)
                await asyncio.sleep(0.005)


@pytest.fixture
def person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Person]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    screen = pyte.Screen(80, 24)
    output = Vt100_Output(Terminal(screen), lambda: Size(rows=24, columns=80), enable_cpr=False)
    with create_pipe_input() as keys, create_app_session(input=keys, output=output):
        yield Person(keys, screen)


async def test_lines_are_run_and_kept_for_the_next_time(
    person: Person, capsys: pytest.CaptureFixture[str]
) -> None:
    person.type("info block" + ENTER + "  " + ENTER + CTRL_D)
    assert await person.run() == 0
    assert person.console.ran == ["info block"]
    assert capsys.readouterr().out == "<info block>\n"
    assert "+info block\n" in history_path("HMP").read_text()


async def test_ctrl_c_gives_a_new_line(person: Person) -> None:
    person.type("stop" + CTRL_C + "cont" + ENTER + CTRL_D)
    assert await person.run() == 0
    assert person.console.ran == ["cont"]


async def test_pasted_lines_run_one_by_one(person: Person) -> None:
    person.type("\x1b[200~stop\ncont\n\x1b[201~" + ENTER + CTRL_D)
    await person.run()
    assert person.console.ran == ["stop", "cont"]


async def test_pasted_json_is_one_command(person: Person) -> None:
    person.console.mode = "QMP"
    person.type('\x1b[200~{"execute":\n"stop"}\x1b[201~' + ENTER + CTRL_D)
    await person.run()
    assert person.console.ran == ['{"execute":\n"stop"}']


@pytest.mark.parametrize(("mode", "quit_line"), [("HMP", "q"), ("QMP", '{"execute": "quit"}')])
async def test_quit_must_be_given_twice(person: Person, mode: str, quit_line: str) -> None:
    person.console.mode = mode
    person.type(quit_line + ENTER + "stop" + ENTER + quit_line + ENTER + CTRL_D)
    assert await person.run() == 0
    assert person.console.ran == ["stop"]
    assert "This ends the VM" in person.saw


async def test_quit_given_twice_ends_the_vm(person: Person) -> None:
    person.console.answers["quit"] = MonitorGoneError("gone")
    person.type("quit" + ENTER + "quit" + ENTER)
    running = asyncio.ensure_future(person.run())
    await person.sees("This ends the VM")
    person.console.gone.set()
    assert await running == 0
    assert "The VM has ended." in person.saw


async def test_an_error_is_said_and_the_prompt_goes_on(person: Person) -> None:
    person.console.answers["bad"] = MonitorRefusedError("QEMU refused bad: no", hint="try good")
    person.type("bad" + ENTER + "good" + ENTER + CTRL_D)
    assert await person.run() == 0
    assert "error: QEMU refused bad: no" in person.saw
    assert "hint: try good" in person.saw
    assert person.console.ran == ["bad", "good"]


async def test_qemu_going_away_ends_the_prompt(person: Person) -> None:
    running = asyncio.ensure_future(person.run())
    person.type("half a li")
    await person.sees("half a li")
    person.console.gone.set()
    with pytest.raises(MonitorGoneError, match="QEMU closed it"):
        await running


async def test_events_are_shown_and_the_line_stays(person: Person) -> None:
    running = asyncio.ensure_future(person.run())
    person.type("half a li")
    await person.sees("half a li")
    person.console.events.put_nowait([{"event": "STOP"}, {"event": "RESUME", "data": {"a": 1}}])
    await person.sees('RESUME {"a": 1}')
    person.type("ne" + ENTER + CTRL_D)
    assert await running == 0
    assert person.console.ran == ["half a line"]


async def test_events_can_be_hidden(person: Person) -> None:
    person.events = False
    running = asyncio.ensure_future(person.run())
    await person.sees("(qemu) ")
    person.console.events.put_nowait([{"event": "STOP"}])
    person.type("cont" + ENTER + CTRL_D)
    assert await running == 0
    assert "STOP" not in person.saw


async def test_tab_completes_and_enter_in_the_menu_only_chooses(person: Person) -> None:
    running = asyncio.ensure_future(person.run())
    person.type("in" + TAB)
    await person.sees("info-more")
    person.type(TAB + TAB)
    await person.sees("(qemu) info-more")
    person.type(ENTER + "x" + ENTER + CTRL_D)
    assert await running == 0
    assert person.console.ran == ["info-more x"]


async def test_ctrl_c_gives_up_a_command_that_does_not_end(person: Person) -> None:
    person.type("savevm" + ENTER)
    person.console.endless = "savevm"
    running = asyncio.ensure_future(person.run())
    await asyncio.wait_for(person.console.waiting.wait(), 20)
    os.kill(os.getpid(), signal.SIGINT)
    await person.sees("Not waiting for the answer")
    person.type("info status" + ENTER + CTRL_D)
    assert await running == 0
    assert person.console.ran == ["savevm", "info status"]


@pytest.mark.parametrize("lines", ["half a line", "savevm" + ENTER], ids=["at the prompt", "in a command"])
async def test_sigterm(person: Person, lines: str) -> None:
    person.type(lines)
    person.console.endless = "savevm"
    running = asyncio.ensure_future(person.run())
    await person.sees(lines.strip())
    if ENTER in lines:
        await asyncio.wait_for(person.console.waiting.wait(), 20)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await running == 128 + signal.SIGTERM


async def test_what_a_guest_wrote_cannot_draw_on_the_terminal(
    person: Person, capsys: pytest.CaptureFixture[str]
) -> None:
    person.console.answers["ringbuf_read a 9"] = "a\x1b]0;b\x07\tc\n"
    person.type("ringbuf_read a 9" + ENTER + CTRL_D)
    await person.run()
    assert capsys.readouterr().out == "a?]0;b?\tc\n"
