"""One line in, QEMU's answer out: the same for HMP over QMP, HMP on its own socket, and QMP."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from ringfence.cli import monitor_format, monitor_parse
from ringfence.errors import UsageError
from ringfence.qemu import hmp_help

if TYPE_CHECKING:
    from ringfence.cli.monitor_lookup import Lookup
    from ringfence.qemu.hmp import HmpSession
    from ringfence.qemu.session import Session

# A monitor command lasts as long as it lasts (savevm, dump-guest-memory): the person at the prompt, or timeout(1)
# around a script, knows when that is too long.
_UNLIMITED_S = math.inf


Show: TypeAlias = Callable[[list[dict[str, Any]]], Awaitable[None]]
Sent: TypeAlias = Callable[[str], None]


class Reply(NamedTuple):
    """QEMU's answer as text that ends with a newline, or empty.

    :param failed: QEMU's text says that the command failed (see `hmp_help.failed`; QMP raises instead).
    """

    text: str
    failed: bool = False


class Console(Protocol):
    """A way to have lines carried out.

    :ivar mode: `HMP` or `QMP`.
    :ivar address: the socket, for messages.
    :ivar version: QEMU's version, empty when it did not say.
    """

    mode: str
    address: str
    version: str

    async def run(self, line: str) -> Reply:
        """Have a line carried out.

        :raise UsageError: the line cannot be read; nothing was sent.
        :raise MonitorRefusedError: QEMU answered with an error; the console can go on.
        :raise MonitorError: the way to QEMU failed; the console is closed.
        """

    def lookup(self) -> Lookup:
        """Help with the lines to run."""

    async def watch(self, show: Show) -> None:
        """Hand events to `show` as they arrive, those that wait together, until QEMU goes.

        :raise MonitorError: the connection has ended; every event before was shown.
        """

    async def close(self) -> None:
        """Give the socket back to other clients. Idempotent, never raises."""


class QmpConsole:
    """QMP, typed as `COMMAND key=value` or as JSON."""

    mode = "QMP"

    def __init__(self, session: Session, sent: Sent | None = None) -> None:
        """:param sent: is told what goes over the wire, before it does."""
        self.session = session
        self.address = str(session.address)
        self.version = monitor_format.version_text(session.greeting)
        self._sent = sent

    async def run(self, line: str) -> Reply:
        """See `Console.run`."""
        parsed = monitor_parse.parse_qmp(line)
        if self._sent is not None:
            self._sent(monitor_format.as_wire(parsed.command, parsed.arguments))
        answer = await self.session.execute(parsed.command, parsed.arguments, timeout_s=_UNLIMITED_S)
        return Reply(monitor_format.as_json(answer))

    def lookup(self) -> Lookup:
        """See `Console.lookup`."""
        from ringfence.cli.monitor_lookup import QmpLookup

        return QmpLookup(self.session.schema)

    async def watch(self, show: Show) -> None:
        """See `Console.watch`."""
        await _watch(self.session, show)

    async def close(self) -> None:
        """See `Console.close`."""
        await self.session.close()


class HmpOverQmp:
    """The human monitor through QMP's human-monitor-command, which forgets the line before each new one.

    What `cpu N` sets is remembered here, as that is the one thing in a line that a later line depends on.
    """

    mode = "HMP"

    def __init__(self, session: Session, sent: Sent | None = None) -> None:
        """:param sent: is told what goes over the wire, before it does."""
        self.session = session
        self.address = str(session.address)
        self.version = monitor_format.version_text(session.greeting)
        self._sent = sent
        self._cpu_index: int | None = None

    async def run(self, line: str) -> Reply:
        """See `Console.run`."""
        chosen = _chosen_cpu(line)
        arguments: dict[str, object] = {"command-line": line}
        if self._cpu_index is not None:
            arguments["cpu-index"] = self._cpu_index
        if self._sent is not None:
            self._sent(monitor_format.as_wire("human-monitor-command", arguments))
        answer = str(await self.session.execute("human-monitor-command", arguments, timeout_s=_UNLIMITED_S))
        if chosen is not None and not answer:
            self._cpu_index = chosen
        return _reply(answer.replace("\r\n", "\n"))

    def lookup(self) -> Lookup:
        """See `Console.lookup`."""
        from ringfence.cli.monitor_lookup import HmpLookup

        return HmpLookup(self.session.hmp)

    async def watch(self, show: Show) -> None:
        """See `Console.watch`."""
        await _watch(self.session, show)

    async def close(self) -> None:
        """See `Console.close`."""
        await self.session.close()


class PlainHmp:
    """The human monitor on a socket of its own."""

    mode = "HMP"

    def __init__(self, hmp: HmpSession) -> None:
        self._hmp = hmp
        self.address = str(hmp.address)
        self.version = hmp.version
        self._turn = asyncio.Lock()

    async def run(self, line: str) -> Reply:
        """See `Console.run`."""
        return _reply(await self._execute(line))

    async def _execute(self, line: str) -> str:
        async with self._turn:
            return await self._hmp.execute(line, timeout_s=_UNLIMITED_S)

    def lookup(self) -> Lookup:
        """See `Console.lookup`."""
        from ringfence.cli.monitor_lookup import HmpLookup

        return HmpLookup(self._execute)

    async def watch(self, show: Show) -> None:
        """See `Console.watch`; a human monitor has no events."""
        await self._hmp.ended()

    async def close(self) -> None:
        """See `Console.close`."""
        await self._hmp.close()


async def _watch(session: Session, show: Show) -> None:
    with session.listen() as listener:
        while True:
            events = []
            event = await listener.get(None)
            try:
                while event is not None:
                    events.append(event)
                    event = await listener.get(0)
            finally:
                await show(events)


def _reply(text: str) -> Reply:
    if text and not text.endswith("\n"):
        text += "\n"
    return Reply(text, hmp_help.failed(text))


def _chosen_cpu(line: str) -> int | None:
    """The vCPU that `cpu N` chooses, None for any other line."""
    words = line.split()
    if len(words) != 2 or words[0] != "cpu":
        return None
    try:
        return int(words[1], 0)
    except ValueError:
        raise UsageError(
            f"cpu {words[1]}: over QMP the index must be a plain number", hint="`info cpus` lists them"
        ) from None
