"""One line in, QEMU's answer out: the same for QMP, HMP over QMP, and HMP on its own socket."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from ringfence.cli import monitor_format, monitor_parse
from ringfence.errors import MonitorGoneError, MonitorProtocolError, UsageError
from ringfence.qemu import hmp_help
from ringfence.qemu.hmp_text import check_line, unix_lines

if TYPE_CHECKING:
    from ringfence.cli.monitor_lookup import Lookup
    from ringfence.qemu.door import QmpDoor
    from ringfence.qemu.hmp import HmpSession
    from ringfence.qemu.screen import ScreenMonitor

# A monitor command lasts as long as it lasts (savevm, dump-guest-memory): the person at the prompt, or who wrote a
# script, knows when that is too long.
_UNLIMITED_S = math.inf
_CUT = "[what came before has scrolled off QEMU's screen]\n"

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
    :ivar limit_s: how long a line may take; may be set at any time.
    """

    mode: str
    address: str
    limit_s: float

    async def version(self) -> str:
        """QEMU's version, such as `7.2.22`; empty when it does not say."""

    async def run(self, line: str) -> Reply:
        """Have a line carried out.

        :raise UsageError: the line cannot be read; nothing was sent.
        :raise MonitorRefusedError: QEMU answered with an error; the console can go on.
        :raise MonitorTimeoutError: it took longer than `limit_s`.
        :raise MonitorError: the way to QEMU failed; the console is closed.
        """

    def lookup(self) -> Lookup:
        """Help with the lines to run."""

    async def watch(self, show: Show) -> None:
        """Hand events to `show` as they arrive, those that wait together, until QEMU goes.

        :raise MonitorGoneError: the connection has ended; every event that came before was shown.
        """

    async def close(self) -> None:
        """Give the socket back to other clients. Idempotent, never raises."""


class _OverQmp:
    """What the two consoles on a QMP socket share."""

    def __init__(self, session: QmpDoor, sent: Sent | None = None) -> None:
        """:param sent: is told what goes over the wire, before it does."""
        self.address = str(session.address)
        self.limit_s = _UNLIMITED_S
        self._session = session
        self._sent = sent

    async def version(self) -> str:
        """See `Console.version`."""
        return monitor_format.version_text(self._session.greeting)

    async def watch(self, show: Show) -> None:
        """See `Console.watch`."""
        with self._session.listen() as listener:
            while True:
                events: list[dict[str, Any]] = []
                try:
                    event = await listener.get(None)
                    while event is not None:
                        events.append(event)
                        event = await listener.get(0)
                except MonitorGoneError:
                    raise _gone(self.address) from None
                finally:
                    if events:
                        await show(events)

    async def close(self) -> None:
        """See `Console.close`."""
        await self._session.close()

    async def _execute(self, command: str, arguments: Mapping[str, object]) -> Any:
        if self._sent is not None:
            self._sent(monitor_format.as_wire(command, arguments))
        return await self._session.execute(command, arguments, timeout_s=self.limit_s)


class QmpConsole(_OverQmp):
    """QMP, typed as `COMMAND key=value` or as JSON."""

    mode = "QMP"

    async def run(self, line: str) -> Reply:
        """See `Console.run`."""
        parsed = monitor_parse.parse_qmp(line)
        return Reply(monitor_format.as_json(await self._execute(parsed.command, parsed.arguments)))

    def lookup(self) -> Lookup:
        """See `Console.lookup`."""
        from ringfence.cli.monitor_lookup import QmpLookup

        return QmpLookup(self._session.schema)


class HmpOverQmp(_OverQmp):
    """The human monitor through QMP's human-monitor-command, which starts each line in a monitor of its own.

    What `cpu N` sets is remembered here: it is the one thing in a line that a later line depends on.
    """

    mode = "HMP"

    def __init__(self, session: QmpDoor, sent: Sent | None = None) -> None:
        """:param sent: is told what goes over the wire, before it does."""
        super().__init__(session, sent)
        self._cpu: dict[str, object] = {}

    async def run(self, line: str) -> Reply:
        """See `Console.run`."""
        line = _one_line(line)
        chosen = _chosen_cpu(line)
        answer = await self._execute("human-monitor-command", {"command-line": line, **self._cpu})
        if not isinstance(answer, str):
            raise MonitorProtocolError(
                f"{self.address}: the answer to human-monitor-command is no text",
                hint=f"this may be no QEMU; `ringfence monitor {self.address} --qmp query-version` tells",
            )
        if chosen is not None and not answer:
            self._cpu = {"cpu-index": chosen}
        return _reply(unix_lines(answer))

    def lookup(self) -> Lookup:
        """See `Console.lookup`."""
        from ringfence.cli.monitor_lookup import HmpLookup

        return HmpLookup(self._session.hmp)


class PlainHmp:
    """The human monitor on a socket of its own. It has no events."""

    mode = "HMP"

    def __init__(self, hmp: HmpSession) -> None:
        self.address = str(hmp.address)
        self.limit_s = _UNLIMITED_S
        self._hmp = hmp
        self._given_up = False

    async def version(self) -> str:
        """See `Console.version`."""
        return _version_in(await self._execute("info version"))

    async def run(self, line: str) -> Reply:
        """See `Console.run`. When cancelled the console is closed: what QEMU still prints belongs to no line."""
        try:
            return _reply(await self._execute(_one_line(line)))
        except asyncio.CancelledError:
            self._given_up = True
            raise

    def lookup(self) -> Lookup:
        """See `Console.lookup`."""
        from ringfence.cli.monitor_lookup import HmpLookup

        return HmpLookup(self._execute)

    async def watch(self, show: Show) -> None:  # noqa: ARG002
        """See `Console.watch`."""
        await self._hmp.ended()
        if self._given_up:
            raise MonitorGoneError(f"{self.address} was left while QEMU was executing a command")
        raise _gone(self.address)

    async def close(self) -> None:
        """See `Console.close`."""
        await self._hmp.close()

    async def _execute(self, line: str) -> str:
        return await self._hmp.execute(line, timeout_s=self.limit_s)


class OnScreen:
    """The human monitor on a screen of QEMU's own. It has no events, and is not asked for its words."""

    mode = "HMP"

    def __init__(self, monitor: ScreenMonitor) -> None:
        self.address = monitor.name
        self.limit_s = _UNLIMITED_S
        self._monitor = monitor

    async def version(self) -> str:
        """See `Console.version`."""
        return _version_in(await self._monitor.execute("info version", timeout_s=self.limit_s))

    async def run(self, line: str) -> Reply:
        """See `Console.run`. What was longer than the screen begins with a line that says so."""
        reply = _reply(await self._monitor.execute(_one_line(line), timeout_s=self.limit_s))
        if self._monitor.cut:
            return reply._replace(text=_CUT + reply.text)
        return reply

    def lookup(self) -> Lookup:
        """See `Console.lookup`."""
        from ringfence.cli.monitor_lookup import HmpLookup

        return HmpLookup(_knows_nothing)

    async def watch(self, show: Show) -> None:  # noqa: ARG002
        """See `Console.watch`."""
        await self._monitor.ended()
        raise _gone(self.address)

    async def close(self) -> None:
        """See `Console.close`."""
        await self._monitor.close()


async def _knows_nothing(_: str) -> str:
    return ""


def _version_in(text: str) -> str:
    found = re.match(r"\d+(?:\.\d+)*", text)
    return found[0] if found else ""


def _one_line(line: str) -> str:
    """A tab separates words as a space does; any other control character raises UsageError."""
    line = line.replace("\t", " ")
    check_line(line)
    return line


def _reply(text: str) -> Reply:
    if text and not text.endswith("\n"):
        text += "\n"
    return Reply(text, hmp_help.failed(text))


def _gone(address: str) -> MonitorGoneError:
    return MonitorGoneError(f"QEMU closed {address}: the VM has ended, or is about to")


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
