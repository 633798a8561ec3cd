"""The interactive monitor. Imports prompt_toolkit: only for a person at a terminal."""

from __future__ import annotations

import asyncio
import re
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
from prompt_toolkit.output import Output
from prompt_toolkit.shortcuts import print_formatted_text
from prompt_toolkit.styles import Style

from ringfence.cli import monitor_format, monitor_parse
from ringfence.cli.monitor_console import Console, Reply
from ringfence.cli.monitor_history import open_history
from ringfence.cli.monitor_lookup import Lookup
from ringfence.errors import MonitorError, MonitorGoneError, MonitorRefusedError, UsageError

_PROMPTS = {"HMP": "(qemu) ", "QMP": "(QMP) "}
_STYLE = Style.from_dict(
    {"event": "ansibrightblack", "error": "ansired", "bottom-toolbar": "noreverse ansibrightblack"}
)
_QUIT_AGAIN = "This ends the VM. Type quit again to do it, or Ctrl-D to leave the monitor."
_QUIT_S = 10.0  # QEMU flushes its disks before it goes
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_TERMINATED = 128 + signal.SIGTERM


class Prompt:
    """A person's session with one console. The console stays open; whoever opened it closes it."""

    def __init__(self, console: Console, lookup: Lookup, *, events: bool, output: Output | None = None) -> None:
        """:param events: show events as they arrive.
        :param output: the terminal; None is standard output.
        """
        self._console = console
        self._lookup = lookup
        self._events = events
        self._qmp = console.mode == "QMP"
        self._gone: MonitorError | None = None
        self._quit_asked = False
        self._watching: asyncio.Future[None] = asyncio.Future()
        self._running: asyncio.Task[Reply] | None = None
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
            output=output,
        )

    async def run(self, greeting: str) -> int:
        """Greet, prompt and carry out until the person leaves or the VM ends as asked; gives the exit code.

        :raise MonitorError: QEMU went away unasked. The terminal is as it was.
        """
        self._say(greeting)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._terminate)
        self._watching = asyncio.ensure_future(self._watch())
        helpers = [self._watching, asyncio.ensure_future(self._lookup.load())]
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
            await asyncio.wait(helpers)
        for task in helpers:
            if not task.cancelled():
                task.result()
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
            self._say(_QUIT_AGAIN + "\n", "class:event")
            return True
        self._quit_asked = False
        try:
            reply = await self._interruptible(line)
        except (MonitorRefusedError, UsageError) as error:
            self._say(f"error: {error}\n", "class:error")
            if error.hint:
                self._say(f"hint: {error.hint}\n", "class:event")
            return True
        except MonitorGoneError:
            if not ends_vm:
                raise
            reply = ""
        if reply is not None:
            self._answer(reply)
        return not (ends_vm and reply is not None and await self._has_ended())

    async def _interruptible(self, line: str) -> str | None:
        """QEMU's answer; None when Ctrl-C or SIGTERM came first."""
        loop = asyncio.get_running_loop()
        running = self._running = asyncio.ensure_future(self._console.run(line))
        loop.add_signal_handler(signal.SIGINT, running.cancel)
        try:
            await asyncio.wait([running])
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            self._running = None
        if not running.cancelled():
            return running.result().text
        self._say("\nNot waiting for the answer; QEMU may still be at it.\n", "class:event")
        return None

    async def _has_ended(self) -> bool:
        """Whether QEMU goes, after it took `quit`."""
        await asyncio.wait([self._watching], timeout=_QUIT_S)
        if not self._watching.done():
            return False
        self._say("The VM has ended.\n", "class:event")
        return True

    async def _watch(self) -> None:
        try:
            await self._console.watch(self._show)
        except MonitorError as error:
            self._gone = error
            self._leave(self._gone)

    async def _show(self, events: list[dict[str, Any]]) -> None:
        if not self._events:
            return
        text = "".join(monitor_format.event_line(event) + "\n" for event in events)
        # The line being typed is taken away, and drawn again below the events.
        await run_in_terminal(lambda: self._say(text, "class:event"))

    def _terminate(self) -> None:
        self._terminated = True
        if self._running is not None:
            self._running.cancel()
        self._leave(EOFError())

    def _leave(self, error: BaseException) -> None:
        """End the prompt, when it is there, by `error`."""
        app = self._session.app
        if app.is_running and not app.is_done:
            app.exit(exception=error)

    def _say(self, text: str, style: str = "") -> None:
        """Our own words, to the terminal, wherever standard output goes."""
        print_formatted_text(FormattedText([(style, text)]), style=_STYLE, end="", output=self._session.output)

    def _answer(self, text: str) -> None:
        """QEMU's words, to standard output; what a guest wrote (ringbuf_read) must not draw on the terminal."""
        sys.stdout.write(_CONTROLS.sub("?", text))
        sys.stdout.flush()

    def _toolbar(self) -> str:
        return self._lookup.synopsis(self._session.default_buffer.text)


class _LookupCompleter(Completer):
    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> list[Completion]:  # noqa: ARG002
        return []  # never asked: get_completions_async is

    async def get_completions_async(
        self,
        document: Document,
        complete_event: CompleteEvent,  # noqa: ARG002
    ) -> AsyncGenerator[Completion, None]:
        for one in await self._lookup.candidates(document.current_line_before_cursor):
            yield Completion(one.text, -one.length, one.label or one.text, one.help)


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter", filter=completion_is_selected)
    def _choose(event: KeyPressEvent) -> None:
        """Enter in the menu chooses; it takes another one to send the line to a running VM."""
        event.current_buffer.complete_state = None

    return keys
