"""What Tab offers and the bottom line shows, asked of the QEMU at hand: its words once, names each time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from ringfence.cli import monitor_hmp_complete
from ringfence.cli.monitor_hmp_complete import HmpVocabulary
from ringfence.errors import RingfenceError
from ringfence.qemu import hmp_help

if TYPE_CHECKING:
    from ringfence.cli.monitor_complete import Candidate
    from ringfence.cli.monitor_console import Console


class Lookup(Protocol):
    """Help with the line being typed."""

    async def load(self) -> None:
        """Ask QEMU for its words; the rest of the help is empty until then. Never raises RingfenceError."""

    async def candidates(self, line: str) -> list[Candidate]:
        """What may stand at the end of the line; nothing when QEMU does not say."""

    def synopsis(self, line: str) -> str:
        """The command in the line and its arguments; empty while unknown. Asks nobody."""


class HmpLookup:
    """For the human monitor: from this QEMU's `help`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._vocabulary = HmpVocabulary((), ())

    async def load(self) -> None:
        """See `Lookup.load`."""
        commands, infos = [hmp_help.parse_help(await self._ask(line)) for line in ("help", "help info")]
        self._vocabulary = HmpVocabulary(commands, infos)

    async def candidates(self, line: str) -> list[Candidate]:
        """See `Lookup.candidates`."""
        source = monitor_hmp_complete.source(line, self._vocabulary)
        names = [] if source is None else monitor_hmp_complete.read_names(source, await self._ask(source.query))
        return monitor_hmp_complete.complete(line, self._vocabulary, names)

    def synopsis(self, line: str) -> str:
        """See `Lookup.synopsis`."""
        command = monitor_hmp_complete.synopsis(line, self._vocabulary)
        if command is None:
            return ""
        return f"{command.name} {command.arguments}".rstrip() + f" -- {command.help}"

    async def _ask(self, line: str) -> str:
        try:
            # The next key may cancel the question, but half an answer would be taken for the next command's.
            return (await asyncio.shield(self._console.ask(line))).text
        except RingfenceError:
            return ""
