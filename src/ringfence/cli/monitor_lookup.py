"""What Tab offers and the bottom line shows, asked of the QEMU at hand: its words once, names each time."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Protocol

from ringfence.cli import monitor_hmp_complete, monitor_qmp_complete
from ringfence.cli.monitor_hmp_complete import HmpVocabulary
from ringfence.errors import RingfenceError
from ringfence.qemu import hmp_help

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ringfence.cli.monitor_complete import Candidate
    from ringfence.qemu.schema import Schema


class Lookup(Protocol):
    """Help with the line being typed. Where QEMU does not answer there is none: nothing is raised for that."""

    async def load(self) -> None:
        """Ask QEMU for its words."""

    async def candidates(self, line: str) -> list[Candidate]:
        """What may stand at the end of the line. Waits for `load`."""

    def synopsis(self, line: str) -> str:
        """The command in the line and its arguments; empty while unknown. Asks nobody."""


class HmpLookup:
    """For the human monitor: from this QEMU's `help`."""

    def __init__(self, ask: Callable[[str], Awaitable[str]]) -> None:
        """:param ask: gives the answer to a line of the human monitor."""
        self._ask_qemu = ask
        self._loaded = asyncio.Event()
        self._vocabulary = HmpVocabulary((), ())

    async def load(self) -> None:
        """See `Lookup.load`."""
        commands, infos = [hmp_help.parse_help(await self._ask(line)) for line in ("help", "help info")]
        self._vocabulary = HmpVocabulary(commands, infos)
        self._loaded.set()

    async def candidates(self, line: str) -> list[Candidate]:
        """See `Lookup.candidates`."""
        await self._loaded.wait()
        source = monitor_hmp_complete.source(line, self._vocabulary)
        names = [] if source is None else monitor_hmp_complete.read_names(source, await self._ask(source.query))
        return monitor_hmp_complete.complete(line, self._vocabulary, names)

    def synopsis(self, line: str) -> str:
        """See `Lookup.synopsis`."""
        command = monitor_hmp_complete.synopsis(line, self._vocabulary)
        return "" if command is None else f"{command.name} {command.arguments}".rstrip() + f" -- {command.help}"

    async def _ask(self, line: str) -> str:
        try:
            # The next key cancels the completion; a question given up half way would spoil the next answer.
            return await asyncio.shield(asyncio.ensure_future(self._ask_qemu(line)))
        except RingfenceError:
            return ""


class QmpLookup:
    """For QMP: from this QEMU's schema."""

    def __init__(self, ask: Callable[[], Awaitable[Schema]]) -> None:
        """:param ask: gives the schema."""
        self._ask_qemu = ask
        self._loaded = asyncio.Event()
        self._schema: Schema | None = None

    async def load(self) -> None:
        """See `Lookup.load`."""
        with contextlib.suppress(RingfenceError):
            self._schema = await self._ask_qemu()
        self._loaded.set()

    async def candidates(self, line: str) -> list[Candidate]:
        """See `Lookup.candidates`."""
        await self._loaded.wait()
        return [] if self._schema is None else monitor_qmp_complete.complete(line, self._schema)

    def synopsis(self, line: str) -> str:
        """See `Lookup.synopsis`."""
        return "" if self._schema is None else monitor_qmp_complete.synopsis(line, self._schema)
