"""One QMP session: connect within a deadline, execute, pipeline, listen, let go.

Over the QEMU project's own client, whose errors become those of `ringfence.errors`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qemu.qmp import ConnectError, Message, QMPError, Runstate
from qemu.qmp.error import ProtocolError
from qemu.qmp.message import DeserializationError

from ringfence.errors import (
    MonitorBusyError,
    MonitorError,
    MonitorProtocolError,
)
from ringfence.qemu import replies, sockets
from ringfence.qemu.client import Client
from ringfence.qemu.events import Listener
from ringfence.qemu.hmp_text import check_line, unix_lines

if TYPE_CHECKING:
    import socket
    from types import TracebackType

    from ringfence.core.model import Address
    from ringfence.qemu.schema import Schema

__all__ = ["Listener", "Session"]

_CLOSE_S = 1.0  # a local socket closes in well under a millisecond; past this QEMU no longer reads


class Session:
    """A QMP connection that was greeted and may execute commands. Make one with `open`.

    Several tasks may use one session at a time. After `MonitorGoneError` or `MonitorProtocolError` it is closed;
    after `MonitorTimeoutError` it is still open, and an answer that comes late is dropped. `reopen` works after
    any of them.

    :ivar address: where it is, or was, connected.
    :ivar greeting: the `QMP` object of QEMU's greeting: `version`, `capabilities`.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.greeting: Mapping[str, Any] = {}
        self._start()

    def _start(self) -> None:
        self._client = Client()
        self._socket: socket.socket | None = None
        self._closing: asyncio.Task[Exception | None] | None = None
        self._schema: Schema | None = None

    @classmethod
    async def open(cls, address: Address, *, timeout_s: float = 2.0) -> Session:
        """Connect, await the greeting, negotiate; all of it within `timeout_s`.

        :raise MonitorGoneError: nobody listens there, or QEMU closed the connection.
        :raise MonitorBusyError: not greeted: another client is being served; or too many clients are queued.
        :raise MonitorTimeoutError: greeted, but `qmp_capabilities` was not answered.
        :raise MonitorProtocolError: what greeted us is not QMP.
        :raise MonitorError: the socket may not be used by this user.

        After an error nothing is left open.
        """
        session = cls(address)
        await session._connect(timeout_s)
        return session

    async def reopen(self, *, timeout_s: float = 2.0) -> None:
        """Close what is left and open the same address anew. Errors as in `open`; listeners are not kept."""
        await self.close()
        self._start()
        await self._connect(timeout_s)

    async def close(self) -> None:
        """Give the monitor back to other clients. Idempotent, never raises, takes a second at most."""
        await self._release()

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, *, timeout_s: float = 5.0
    ) -> Any:
        """Execute one command; gives what stands in the answer's `return`.

        :raise MonitorRefusedError: QEMU answered with an error; `error_class` is its class.
        :raise MonitorTimeoutError: no answer within `timeout_s`.
        :raise MonitorGoneError: the session is closed, or QEMU closed it before it answered.
        :raise MonitorProtocolError: what came back is not QMP.
        """
        (reply,) = await self._submit([(command, arguments)])
        try:
            async with asyncio.timeout(timeout_s):
                message = await reply
        except TimeoutError:
            raise replies.late(self.address, command, timeout_s) from None
        return await self._value(command, message)

    async def execute_all(
        self, commands: Sequence[tuple[str, Mapping[str, object] | None]], *, timeout_s: float = 5.0
    ) -> list[Any]:
        """Send commands back to back; gives their answers in the same order.

        QEMU executes them one after the other, all of them, even when one fails: the first error is raised only
        after all were answered. `timeout_s` is for all together. Errors as in `execute`.
        """
        if not commands:
            return []
        awaited = await self._submit(commands)
        names = [command for command, _ in commands]
        try:
            async with asyncio.timeout(timeout_s):
                messages = [await reply for reply in awaited]
        except TimeoutError:
            late = next(name for name, reply in zip(names, awaited, strict=True) if _unanswered(reply))
            raise replies.late(self.address, late, timeout_s) from None
        return [await self._value(name, message) for name, message in zip(names, messages, strict=True)]

    async def hmp(self, line: str, *, timeout_s: float = 10.0) -> str:
        """Execute a line of the human monitor; gives its text, each line ended by a newline.

        QEMU reports a line that failed in the text, not as an error.

        :raise UsageError: `line` holds more than one line, or a control character. Others as in `execute`.
        """
        check_line(line)
        text = await self.execute("human-monitor-command", {"command-line": line}, timeout_s=timeout_s)
        return unix_lines(str(text))

    async def schema(self) -> Schema:
        """What this QEMU's QMP knows; asked once a session, 0.2 MB. Errors as in `execute`."""
        if self._schema is None:
            from ringfence.qemu.schema import Schema

            self._schema = Schema(await self.execute("query-qmp-schema"))
        return self._schema

    def listen(self, events: Collection[str] = ()) -> Listener:
        """A context that collects events while it is entered: those named, or all."""
        return Listener(self._client, self.address, frozenset(events))

    async def _connect(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                self._socket = await sockets.connect(self.address)
                await self._client.connect(self._socket)
                await self._negotiate()
        except TimeoutError:
            await self._release()
            raise self._late_connect(timeout_s) from None
        except OSError as error:
            raise sockets.monitor_error(self.address, error) from None
        except QMPError as error:
            await self._release()
            raise self._ended(error.exc if isinstance(error, ConnectError) else error) from None
        except BaseException:
            await self._release()
            raise

    async def _negotiate(self) -> None:
        greeting = self._client.greeting
        if greeting is None:
            raise MonitorProtocolError(f"{self.address}: no greeting")
        self.greeting = {"version": greeting.QMP.version, "capabilities": greeting.QMP.capabilities}
        # Without oob QEMU stops reading while it executes: 0.1 ms more for each pipelined command.
        wanted = {"enable": ["oob"]} if "oob" in greeting.QMP.capabilities else None
        (reply,) = await self._submit([("qmp_capabilities", wanted)])
        message = await reply
        await self._value("qmp_capabilities", message)

    def _late_connect(self, timeout_s: float) -> MonitorError:
        if self._client.greeting is not None:
            return replies.late(self.address, "qmp_capabilities", timeout_s)
        if self._socket is not None:
            return MonitorBusyError(
                f"{self.address}: connected, but not greeted within {timeout_s:g} s: "
                "another client is being served, or QEMU is stopped",
                hint=sockets.BUSY_HINT,
            )
        return sockets.late_connect(self.address, timeout_s)

    async def _submit(
        self, commands: Sequence[tuple[str, Mapping[str, object] | None]]
    ) -> list[asyncio.Future[Message | None]]:
        if self._client.runstate is not Runstate.RUNNING:
            raise self._ended(await self._release())
        return self._client.submit(commands)

    async def _value(self, command: str, message: Message | None) -> Any:
        if message is None:
            raise self._ended(await self._release(), state=replies.IN_DOUBT)
        try:
            return replies.value(self.address, command, message)
        except MonitorProtocolError:
            await self._release()
            raise

    def _ended(self, cause: Exception | None, *, state: str = "") -> MonitorError:
        """What to raise for a session that `cause` has ended, None if `close` has."""
        root = getattr(cause, "exc", cause)  # the library wraps errors of the greeting
        if root is None:
            return replies.left(self.address, state)
        truncated = isinstance(root, DeserializationError) and not root.raw.endswith(b"\n")
        if truncated or isinstance(root, EOFError | OSError):
            return replies.closed(self.address, state)
        if isinstance(root, DeserializationError) and root.raw.startswith(b"QEMU "):
            return MonitorProtocolError(
                f"{self.address}: this is a human monitor, not QMP",
                hint="Give the socket of QEMU's -qmp option, not that of -monitor.",
                state=state,
            )
        what = root.error_message if isinstance(root, ProtocolError) else str(root)
        return replies.not_qmp(self.address, what, state)

    async def _release(self) -> Exception | None:
        """Disconnect once, whoever asks, and give what had ended the session, None when nothing had."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._disconnect())
        return await asyncio.shield(self._closing)

    async def _disconnect(self) -> Exception | None:
        leaving = asyncio.ensure_future(self._client.disconnect())
        done, _ = await asyncio.wait([leaving], timeout=_CLOSE_S)
        if not done and self._socket is not None:
            self._socket.shutdown(2)  # both ways: QEMU does not read, so give up what is still unsent
        try:
            await leaving
        except Exception as error:  # noqa: BLE001 - whatever had ended the session, it is over now
            return error
        finally:
            if self._socket is not None:
                self._socket.close()
        return None


def _unanswered(reply: asyncio.Future[Message | None]) -> bool:
    return reply.cancelled() or not reply.done()
