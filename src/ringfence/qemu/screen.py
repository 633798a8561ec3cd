"""The human monitor on a console of QEMU's own (`-monitor vc`), by keys and eyes.

A console is one for all who look at it: while a line is carried out they see the monitor, and afterwards what was
shown before. One line is typed at a time, and its echo is read before Enter: QEMU drops keys that come too fast.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol, TypeVar

from ringfence.errors import (
    MonitorError,
    MonitorTimeoutError,
    TenantError,
    UsageError,
)
from ringfence.qemu import screen_text
from ringfence.qemu.hmp_text import check_line
from ringfence.qemu.screen_text import Answer

_ECHO_S = 5.0  # QEMU echoes within a tenth of a second, unless the host is starved
_SHOWN_S = 1.0
_CHOOSE_AGAIN_S = 2.0
_LINE_CHARS = 1000  # some screens full; far below what QEMU's readline takes
_CONSOLES = (2, 1, 3, 4)
"""Where the monitor may be: behind the VGA, in its place, or behind other consoles."""
_ENDS_QEMU = ["info", "vnc"]
"""QEMU 10.0.2 aborts on it while the console shown is the monitor."""
_IN_DOUBT = "The command may have taken effect, or may still do so."

T = TypeVar("T")


class Screen(Protocol):
    """Somewhere QEMU's consoles are shown, and take keys.

    Every method raises MonitorGoneError when it is there no longer.
    """

    @property
    def name(self) -> str:
        """Where it is, for messages."""

    async def rows(self) -> list[str]:
        """The screen as text, each row as long as the screen is wide; a picture gives rows of no meaning."""

    async def type(self, text: str) -> None:
        """Press the keys of printable ASCII."""

    async def enter(self) -> None:
        """Press Enter."""

    async def erase(self, count: int) -> None:
        """Press Backspace so many times."""

    async def choose(self, console: int) -> None:
        """Have console N shown, from 1; nothing happens when there is none."""

    async def changed(self) -> None:
        """Wait until there may be something new to see, half a second at most."""

    async def ended(self) -> None:
        """Return when the screen is gone."""

    async def close(self) -> None:
        """Leave it. Idempotent, never raises."""


class ScreenMonitor:
    """The monitor on a screen. Make one with `open`.

    Lines of several tasks are carried out one after the other. After MonitorTimeoutError it is still open, and the
    next line waits until QEMU shows its prompt again.

    :ivar cut: the last answer was longer than the screen, and its beginning is lost.
    """

    def __init__(self, screen: Screen) -> None:
        self.cut = False
        self._screen = screen
        self._console: int | None = None  # None: it is shown already, and stays
        self._turn = asyncio.Lock()

    @classmethod
    async def open(cls, screen: Screen) -> ScreenMonitor:
        """Find the console that the monitor is on, and show again what was shown before.

        :raise TenantError: no console shows the monitor's prompt.
        :raise MonitorGoneError: the screen is gone.

        The screen is closed after an error.
        """
        monitor = cls(screen)
        try:
            await monitor._find()
        except BaseException:
            await screen.close()
            raise
        return monitor

    @property
    def name(self) -> str:
        """Where the screen is, for messages."""
        return self._screen.name

    async def execute(self, line: str, *, timeout_s: float = 10.0) -> str:
        """Execute a line; gives its text, as far as the screen held it (`cut`).

        :raise UsageError: `line` is not one line of plain ASCII, or too long; nothing was typed.
        :raise MonitorTimeoutError: QEMU did not show what was typed, or no prompt within `timeout_s`.
        :raise MonitorGoneError: the screen is gone.
        """
        check_line(line)
        if not line.isascii() or len(line) > _LINE_CHARS:
            raise UsageError("the monitor's console cannot take this line", hint="use a QMP socket for it")
        line = line.rstrip()
        if not line:
            return ""
        if line.split() == _ENDS_QEMU:
            raise UsageError(
                "`info vnc` is not typed here: some versions of QEMU abort on it while their monitor is shown",
                hint="ask through a QMP socket, or see the VM's command line",
            )
        async with self._turn:
            return await self._shown(line, timeout_s)

    async def ended(self) -> None:
        """Return when the screen is gone."""
        await self._screen.ended()

    async def close(self) -> None:
        """Leave the screen to others. Idempotent, never raises."""
        await self._screen.close()

    async def _shown(self, line: str, timeout_s: float) -> str:
        """Execute with the monitor shown, and then what was shown before."""
        if self._console is not None:
            await self._screen.choose(self._console)
        try:
            await self._type(line)
            answer = await self._await_answer(line, timeout_s)
        finally:
            await self._show_first_console()
        self.cut = answer.cut
        return answer.text

    async def _show_first_console(self) -> None:
        if self._console is not None:
            with contextlib.suppress(MonitorError):
                await self._screen.choose(1)

    async def _type(self, line: str) -> None:
        standing = await self._until(screen_text.typed, _ECHO_S)
        if standing is None:
            raise MonitorTimeoutError(
                f"{self.name}: the monitor's console shows no prompt",
                hint="QEMU may be busy with a command typed before, or stopped; nothing was typed.",
            )
        if standing:
            await self._screen.erase(len(standing))
            await self._until(_is_empty, _ECHO_S)
        await self._screen.type(line)
        if not await self._until(lambda rows: screen_text.is_echoed(rows, line) or None, _ECHO_S):
            seen = screen_text.typed(await self._screen.rows()) or ""
            await self._screen.erase(max(len(seen), len(line)))
            raise MonitorTimeoutError(
                f"{self.name}: QEMU did not show what was typed, but {seen!r}",
                hint="Somebody else may be typing, or keys were lost. Enter was not pressed: nothing was done.",
            )

    async def _await_answer(self, line: str, timeout_s: float) -> Answer:
        await self._screen.enter()
        answer = await self._until(lambda rows: screen_text.answer(rows, line), timeout_s)
        if answer is None:
            raise MonitorTimeoutError(
                f"{self.name}: the prompt did not come back within {timeout_s:g} s after {line!r}",
                hint="QEMU may be busy or stopped; see its screen.",
                state=_IN_DOUBT,
            )
        return answer

    async def _find(self) -> None:
        if screen_text.typed(await self._screen.rows()) is not None:
            return
        try:
            for console in _CONSOLES:
                self._console = console
                await self._screen.choose(console)
                if await self._until(screen_text.typed, _SHOWN_S) is not None:
                    return
        finally:
            await self._show_first_console()
        raise TenantError(
            f"{self.name}: no console shows QEMU's monitor", hint="start QEMU with -monitor vc beside its display"
        )

    async def _until(self, see: Callable[[list[str]], T | None], timeout_s: float) -> T | None:
        """What `see` makes of the screen once that is not None; None when time is up.

        The console is chosen again now and then: somebody else may have had another one shown, and QEMU draws it
        all anew.
        """
        loop = asyncio.get_running_loop()
        started = chosen = loop.time()
        while True:
            seen = see(await self._screen.rows())
            now = loop.time()
            if seen is not None or now - started >= timeout_s:
                return seen
            if self._console is not None and now - chosen >= _CHOOSE_AGAIN_S:
                chosen = now
                await self._screen.choose(self._console)
            await self._screen.changed()


def _is_empty(rows: list[str]) -> bool | None:
    return screen_text.typed(rows) == "" or None
