"""The monitor on a console, on a screen of our own that does as QEMU's does."""

from __future__ import annotations

import asyncio

import pytest

from ringfence.errors import MonitorTimeoutError, TenantError, UsageError
from ringfence.qemu import screen
from ringfence.qemu.screen import ScreenMonitor

WIDTH, HEIGHT = 30, 6


class FakeScreen:
    """A picture on console 1; a monitor on `monitor_at`, where each line is answered from `answers`."""

    name = "fake"

    def __init__(self, monitor_at: int = 2, shown: int = 1, answers: dict[str, str] | None = None) -> None:
        self.monitor_at = monitor_at
        self.shown = shown
        self.answers = answers or {}
        self.text = ["(qemu) "]
        self.done: list[str] = []
        self.lost = ""
        self.closed = False

    async def rows(self) -> list[str]:
        text = self.text if self.shown == self.monitor_at else ["?" * WIDTH] * 3
        rows = [row[at : at + WIDTH] for row in text for at in range(0, max(1, len(row)), WIDTH)][-HEIGHT:]
        return [row.ljust(WIDTH) for row in rows + [""] * (HEIGHT - len(rows))]

    async def type(self, text: str) -> None:
        assert self.shown == self.monitor_at
        self.text[-1] += "".join(char for char in text if char not in self.lost)

    async def enter(self) -> None:
        line = self.text[-1].removeprefix("(qemu) ")
        self.done.append(line)
        answer = self.answers.get(line, "")
        if answer != "silence":
            self.text += [*answer.splitlines(), "(qemu) "]

    async def erase(self, count: int) -> None:
        self.text[-1] = "(qemu) " + self.text[-1].removeprefix("(qemu) ")[:-count]

    async def choose(self, console: int) -> None:
        if console <= self.monitor_at:
            self.shown = console

    async def changed(self) -> None:
        await asyncio.sleep(0)

    async def ended(self) -> None:
        return

    async def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "_ECHO_S", 0.02)
    monkeypatch.setattr(screen, "_SHOWN_S", 0.02)


@pytest.mark.parametrize("monitor_at", [2, 3])
async def test_execute(monitor_at: int) -> None:
    fake = FakeScreen(monitor_at, answers={"info a": "one\ntwo\n"})
    monitor = await ScreenMonitor.open(fake)
    assert fake.shown == 1
    assert await monitor.execute("info a") == "one\ntwo\n"
    assert await monitor.execute("stop  ") == ""
    assert (fake.done, fake.shown, monitor.cut) == (["info a", "stop"], 1, False)
    await monitor.close()
    assert fake.closed


async def test_a_monitor_that_is_shown_stays() -> None:
    fake = FakeScreen(1, shown=1)
    await (await ScreenMonitor.open(fake)).execute("stop")
    assert (fake.done, fake.shown) == (["stop"], 1)


async def test_no_monitor() -> None:
    fake = FakeScreen(9)
    with pytest.raises(TenantError):
        await ScreenMonitor.open(fake)
    assert (fake.closed, fake.shown) == (True, 1)


async def test_longer_than_the_screen() -> None:
    fake = FakeScreen(answers={"info a": "".join(f"{n}\n" for n in range(9))})
    monitor = await ScreenMonitor.open(fake)
    assert await monitor.execute("info a") == "4\n5\n6\n7\n8\n"
    assert monitor.cut
    await monitor.execute("stop")
    assert not monitor.cut


async def test_what_somebody_left_there_is_erased() -> None:
    fake = FakeScreen()
    fake.text = ["(qemu) quit"]
    await (await ScreenMonitor.open(fake)).execute("stop")
    assert fake.done == ["stop"]


async def test_keys_that_are_lost() -> None:
    fake = FakeScreen()
    monitor = await ScreenMonitor.open(fake)
    fake.lost = "8"
    with pytest.raises(MonitorTimeoutError, match="but 'balloon 0'"):
        await monitor.execute("balloon 80")
    assert (fake.done, fake.shown, fake.text) == ([], 1, ["(qemu) "])


async def test_no_answer() -> None:
    fake = FakeScreen(answers={"savevm": "silence"})
    monitor = await ScreenMonitor.open(fake)
    with pytest.raises(MonitorTimeoutError, match="did not come back"):
        await monitor.execute("savevm", timeout_s=0.02)
    assert fake.shown == 1
    fake.text.append("(qemu) ")
    assert await monitor.execute("stop") == ""


async def test_somebody_else_chooses_another_console(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "_CHOOSE_AGAIN_S", 0.0)

    class Disturbed(FakeScreen):
        async def enter(self) -> None:
            await super().enter()
            self.shown = 1

    fake = Disturbed(answers={"info a": "one\n"})
    assert await (await ScreenMonitor.open(fake)).execute("info a") == "one\n"


async def test_no_prompt() -> None:
    fake = FakeScreen()
    monitor = await ScreenMonitor.open(fake)
    fake.text.append("busy")
    with pytest.raises(MonitorTimeoutError, match="no prompt"):
        await monitor.execute("stop")
    assert (fake.done, fake.text) == ([], ["(qemu) ", "busy"])


@pytest.mark.parametrize("line", ["grün", "a\nb", "x" * 2000, " info  vnc"])
async def test_lines_that_are_not_typed(line: str) -> None:
    fake = FakeScreen()
    monitor = await ScreenMonitor.open(fake)
    with pytest.raises(UsageError):
        await monitor.execute(line)
    assert fake.done == []


async def test_nothing_is_typed_for_an_empty_line() -> None:
    fake = FakeScreen()
    assert await (await ScreenMonitor.open(fake)).execute("  ") == ""
    assert fake.done == []
