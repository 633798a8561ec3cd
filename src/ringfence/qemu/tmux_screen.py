"""QEMU's consoles with `-display curses` in a pane of tmux."""

from __future__ import annotations

import asyncio
import contextlib

from ringfence.errors import MonitorError, MonitorGoneError, UsageError

_COLUMNS, _ROWS = 80, 30
"""QEMU's text console: 640x480 pixels, or less. QEMU 7.2 mixes up its rows where the pane is wider or narrower."""

_LOOK_AGAIN_S = 0.05
_ALIVE_S = 0.5
_LOOKS, _DRAWN_S = 10, 0.02
_ESCAPE = "\x1b"


class TmuxScreen:
    """A `screen.Screen`. Make one with `open`. A pane not of the size of QEMU's console is resized meanwhile."""

    def __init__(self, target: str) -> None:
        """:param target: a pane, as tmux's -t takes it."""
        self._target = target
        self._size_before: tuple[int, int] | None = None

    @classmethod
    async def open(cls, target: str) -> TmuxScreen:
        """Find the pane, and give it the size it needs.

        :raise UsageError: tmux knows no such pane, or cannot resize it.
        :raise MonitorError: tmux is not installed.
        """
        screen = cls(target)
        sizes = ""
        reason = ""
        try:
            sizes = await screen._ask("#{pane_width} #{pane_height} #{window_width} #{window_height}")
        except MonitorGoneError as error:
            reason = f": {error}"
        if not sizes:  # tmux does not fail for a pane that is not there
            raise UsageError(f"tmux has no pane {target!r}{reason}", hint="`tmux list-panes -a` lists them")
        width, height, window_width, window_height = map(int, sizes.split())
        wanted_height = max(height, _ROWS)
        if (width, height) != (_COLUMNS, wanted_height):
            screen._size_before = window_width, window_height
            await screen._resize(window_width - width + _COLUMNS, window_height - height + wanted_height)
            await asyncio.sleep(_ALIVE_S)  # QEMU draws anew
            got = await screen._ask("#{pane_width} #{pane_height}")
            if got != f"{_COLUMNS} {wanted_height}":
                await screen.close()
                raise UsageError(
                    f"tmux pane {target!r} is of {width}x{height} characters, and cannot be of {_COLUMNS}x{_ROWS}",
                    hint="give QEMU a window of its own: tmux break-pane",
                )
        return screen

    @property
    def name(self) -> str:
        """See `Screen.name`."""
        return f"tmux pane {self._target}"

    async def rows(self) -> list[str]:
        """See `Screen.rows`. Seen twice the same, as tmux shows a screen that is half drawn, too."""
        seen = await self._capture()
        for _ in range(_LOOKS):
            await asyncio.sleep(_DRAWN_S)
            before, seen = seen, await self._capture()
            if seen == before:
                break
        return [line.ljust(_COLUMNS)[:_COLUMNS] for line in seen.split("\n")[:-1]]

    async def _capture(self) -> str:
        return await _tmux("capture-pane", "-p", "-t", self._target)

    async def type(self, text: str) -> None:
        """See `Screen.type`."""
        await _tmux("send-keys", "-t", self._target, "-l", "--", text)

    async def enter(self) -> None:
        """See `Screen.enter`."""
        await _tmux("send-keys", "-t", self._target, "Enter")

    async def erase(self, count: int) -> None:
        """See `Screen.erase`."""
        await _tmux("send-keys", "-t", self._target, "-N", str(count), "BSpace")

    async def choose(self, console: int) -> None:
        """See `Screen.choose`."""
        await self.type(f"{_ESCAPE}{console}")

    async def changed(self) -> None:
        """See `Screen.changed`."""
        await asyncio.sleep(_LOOK_AGAIN_S)

    async def ended(self) -> None:
        """See `Screen.ended`."""
        with contextlib.suppress(MonitorError):
            while await self._ask("#{pane_dead}") == "0":  # noqa: ASYNC110 - tmux has nothing to wait for
                await asyncio.sleep(_ALIVE_S)

    async def close(self) -> None:
        """See `Screen.close`."""
        before, self._size_before = self._size_before, None
        if before is not None:
            with contextlib.suppress(MonitorError):
                await self._resize(*before)
                await _tmux("set-option", "-u", "-w", "-t", self._target, "window-size")

    async def _ask(self, form: str) -> str:
        return (await _tmux("display-message", "-p", "-t", self._target, form)).strip()

    async def _resize(self, width: int, height: int) -> None:
        await _tmux("resize-window", "-t", self._target, "-x", str(width), "-y", str(height))


async def _tmux(*words: str) -> str:
    pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    try:
        process = await asyncio.create_subprocess_exec("tmux", *words, stdin=null, stdout=pipe, stderr=pipe)
    except OSError as error:
        raise MonitorError(f"tmux cannot be run ({error.strerror})", hint="install tmux") from None
    try:
        out, err = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        raise MonitorGoneError(err.decode(errors="replace").strip() or "tmux failed")
    return out.decode(errors="replace")
