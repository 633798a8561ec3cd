"""The interactive monitor. Imports prompt_toolkit: only for a person at a terminal."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncGenerator
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.application import run_in_terminal
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import completion_is_selected
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.shortcuts import print_formatted_text
from prompt_toolkit.styles import Style

from ringfence.cli import monitor_format, monitor_parse
from ringfence.cli.monitor_console import Console
from ringfence.cli.monitor_history import open_history
from ringfence.cli.monitor_lookup import Lookup
from ringfence.errors import MonitorError, MonitorGoneError, MonitorRefusedError, UsageError

_PROMPTS = {"HMP": "(qemu) ", "QMP": "(QMP) "}
_STYLE = Style.from_dict({"event": "ansibrightblack", "error": "ansired", "bottom-toolbar": "noreverse ansibrightblack"})
_QUIT_AGAIN = "This ends the VM. Type quit again to do it, or Ctrl-D to leave the monitor."
_TERMINATED = 128 + signal.SIGTERM


class Prompt:
    """A person's session with one console. The console stays open; whoever opened it closes it."""

    def __init__(self, console: Console, lookup: Lookup, *, events: bool) -> None:
        """:param events: show events as they arrive."""
        self._console = console
        self._lookup = lookup
        self._events = events
        self._qmp = console.mode == "QMP"
        self._gone: MonitorError | None = None
        self._quit_asked = False
        self._running: asyncio.Task[Any] | None = None
        self._terminated = False
        self._session: PromptSession[str] = PromptSession(
            _PROMPTS[console.mode],
            history=open_history(console.mode),
            completer=_LookupCompleter(lookup),
            complete_while_typing=False,
            bottom_toolbar=self._toolbar,
            key_bindings=_keys(),
            style=_STYLE,
            enable_suspend=True,
        )

    async def run(self) -> int:
        """Prompt and carry out until the person leaves or the VM ends as asked; gives the exit code.

        :raise MonitorError: QEMU went away unasked. The terminal is as it was.
        """
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._terminate)
        helpers = [asyncio.ensure_future(self._watch()), asyncio.ensure_future(self._lookup.load())]
        try:
            while not self._terminated:
                try:
                    text = await self._ask()
                except KeyboardInterrupt:
                    continue
                except EOFError:
                    break
                for line in [text] if self._qmp else text.splitlines():
                    if line.strip() and not await self._carry_out(line):
                        return 0
        finally:
            loop.remove_signal_handler(signal.SIGTERM)
            for task in helpers:
                task.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
        return _TERMINATED if self._terminated else 0

    async def _ask(self) -> str:
        if self._gone is not None:
            raise self._gone
        return await self._session.prompt_async()

    async def _carry_out(self, line: str) -> bool:
        """Run one line and print what comes of it; False when the VM was ended by it."""
        ends_vm = monitor_parse.is_quit(line, qmp=self._qmp)
        if ends_vm and not self._quit_asked:
            self._quit_asked = True
            _print(_QUIT_AGAIN + "\n", "class:event")
            return True
        self._quit_asked = False
        try:
            reply = await self._interruptible(line)
        except (MonitorRefusedError, UsageError) as error:
            _print(f"error: {error}\n", "class:error")
            if error.hint:
                _print(f"hint: {error.hint}\n", "class:event")
            return True
        except MonitorGoneError:
            if ends_vm:
                _print("The VM has ended.\n", "class:event")
                return False
            raise
        if reply is not None:
            _print(reply)
        return True
