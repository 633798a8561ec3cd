"""One QMP session: connect within a deadline, execute, pipeline, listen, let go.

Over the QEMU project's own client, whose errors become those of `ringfence.errors`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from qemu.qmp import ConnectError, ExecInterruptedError, ExecuteError, QMPError, Runstate, StateError
from qemu.qmp.error import ProtocolError
from qemu.qmp.message import DeserializationError

from ringfence.errors import (
    MonitorBusyError,
    MonitorError,
    MonitorGoneError,
    MonitorProtocolError,
    MonitorRefusedError,
    MonitorTimeoutError,
)
from ringfence.qemu import sockets
from ringfence.qemu.client import Client, Inbox

if TYPE_CHECKING:
    import socket
    from types import TracebackType

    from ringfence.core.model import Address

_CLOSE_S = 1.0  # a local socket closes in well under a millisecond; past this QEMU no longer reads
_IN_DOUBT = "The command may have taken effect, or may still do so."


class Session:
    """A QMP connection that was greeted and may execute commands. Make one with `open`.

    Several tasks may use one session at a time. After `MonitorGoneError` or `MonitorProtocolError` it is closed;
    after `MonitorTimeoutError` from a command it is still open, and a late answer is dropped. `reopen` works
    after either.

    :ivar address: where it is, or was, connected.
    :ivar greeting: the `QMP` object of QEMU's greeting: `version`, `capabilities`.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.greeting: Mapping[str, Any] = {}
        self._client = Client()
        self._socket: socket.socket | None = None
        self._closing: asyncio.Task[Exception | None] | None = None

    @classmethod
    async def open(cls, address: Address, *, timeout_s: float = 2.0) -> Session:
        """Connect, await the greeting, negotiate; all of it within `timeout_s`.

        :raise MonitorGoneError: nobody listens there, or QEMU closed the connection.
        :raise MonitorBusyError: connected, but not greeted: another client is being served.
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
        self._client = Client()
        self._closing = None
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
        try:
            async with asyncio.timeout(timeout_s):
                return await self._answer(command, arguments)
        except TimeoutError:
            raise self._late(command, timeout_s) from None

    async def execute_all(
        self, commands: Sequence[tuple[str, Mapping[str, object] | None]], *, timeout_s: float = 5.0
    ) -> list[Any]:
        """Send commands back to back; gives their answers in the same order.

        QEMU executes them one after the other, all of them, even when one fails: the first error is raised only
        after all were answered. `timeout_s` is for all together. Errors as in `execute`.
        """
        tasks = [asyncio.ensure_future(self._answer(command, arguments)) for command, arguments in commands]
        if not tasks:
            return []
        try:
            _, pending = await asyncio.wait(tasks, timeout=timeout_s)
        finally:
            for task in tasks:
                task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for (command, _), task, result in zip(commands, tasks, results, strict=True):
            if task in pending:
                raise self._late(command, timeout_s)
            if isinstance(result, BaseException):
                raise result
        return results

    async def hmp(self, line: str, *, timeout_s: float = 10.0) -> str:
        """Execute a line of the human monitor; gives its text, lines ended by a newline.

        QEMU reports a failed line in the text, not as an error. Errors as in `execute`.
        """
        text = await self.execute("human-monitor-command", {"command-line": line}, timeout_s=timeout_s)
        return str(text).replace("\r\n", "\n")

    def listen(self, events: Collection[str] = ()) -> Listener:
        """Collect events, while the returned context is entered: those named, or all."""
        return Listener(self, frozenset(events))

    async def _connect(self, timeout_s: float) -> None:
        client = self._client
        try:
            async with asyncio.timeout(timeout_s):
                self._socket = await sockets.connect(self.address)
                await client.connect(self._socket)
                await client.execute("qmp_capabilities")
        except TimeoutError:
            greeted, connected = client.greeting is not None, self._socket is not None
            await self._release()
            self._raise_connect_timeout(connected, greeted, timeout_s)
        except OSError as error:
            raise sockets.monitor_error(self.address, error) from None
        except (QMPError, ExecInterruptedError) as error:
            cause = await self._release()
            raise self._translate(error, cause) from None
        except BaseException:
            await self._release()
            raise
        if client.greeting is not None:
            qmp = client.greeting.QMP
            self.greeting = {"version": qmp.version, "capabilities": qmp.capabilities}

    def _raise_connect_timeout(self, connected: bool, greeted: bool, timeout_s: float) -> NoReturn:
        if greeted:
            raise self._late("qmp_capabilities", timeout_s)
        if connected:
            raise MonitorBusyError(
                f"{self.address}: connected, but not greeted within {timeout_s:g} s: another client is being "
                "served, or QEMU is stopped",
                hint=sockets.BUSY_HINT,
            )
        raise MonitorGoneError(f"{self.address}: no connection within {timeout_s:g} s", hint=sockets.GONE_HINT)

    async def _answer(self, command: str, arguments: Mapping[str, object] | None) -> Any:
        try:
            return await self._client.execute(command, arguments)
        except ExecuteError as error:
            raise MonitorRefusedError(f"QEMU refused {command}: {error}", error_class=error.error_class) from None
        except QMPError as error:
            cause = await self._release()
            raise self._translate(error, cause) from None

    def _late(self, command: str, timeout_s: float) -> MonitorTimeoutError:
        return MonitorTimeoutError(
            f"{self.address}: no answer to {command} within {timeout_s:g} s",
            hint="QEMU may be busy or stopped; ask again, or allow more time.",
            state=_IN_DOUBT,
        )

    def _translate(self, error: QMPError, cause: Exception | None) -> MonitorError:
        """What to raise for a session that ended: `error` met the call, `cause` ended the session."""
        if isinstance(error, ConnectError):
            cause = error.exc
        root = getattr(cause, "exc", cause)
        if isinstance(error, StateError) or root is None:
            return MonitorGoneError(f"{self.address}: the session is closed", hint="Open it again.")
        truncated = isinstance(root, DeserializationError) and not root.raw.endswith(b"\n")
        if truncated or isinstance(root, EOFError | OSError):
            return MonitorGoneError(
                f"{self.address}: QEMU closed the connection", hint=sockets.GONE_HINT, state=_IN_DOUBT
            )
        return self._not_qmp(root)

    def _not_qmp(self, root: Exception) -> MonitorProtocolError:
        if isinstance(root, DeserializationError) and root.raw.startswith(b"QEMU "):
            return MonitorProtocolError(
                f"{self.address}: this is a human monitor, not QMP",
                hint="Give the socket of -qmp, not that of -monitor.",
            )
        what = root.error_message if isinstance(root, ProtocolError) else str(root)
        return MonitorProtocolError(
            f"{self.address}: what answers there does not speak QMP ({what})",
            hint="Give the socket of QEMU's -qmp option.",
        )

    async def _release(self) -> Exception | None:
        """Disconnect once, whoever asks, and give what had ended the session, None when nothing had."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._disconnect())
        return await asyncio.shield(self._closing)

    async def _disconnect(self) -> Exception | None:
        leaving = asyncio.ensure_future(self._client.disconnect())
        done, _ = await asyncio.wait([leaving], timeout=_CLOSE_S)
        if not done and self._socket is not None:
            import socket

            self._socket.shutdown(socket.SHUT_RDWR)  # QEMU does not read: give up what is still unsent
        try:
            await leaving
        except Exception as error:  # noqa: BLE001 - whatever ended the session, it is over
            return error
        finally:
            if self._socket is not None:
                self._socket.close()
        return None


class Listener:
    """Events since the context was entered, in order. Enter it before the command that causes them."""

    def __init__(self, session: Session, events: frozenset[str]) -> None:
        self._session = session
        self._client = session._client
        self._inbox = Inbox(events)

    def __enter__(self) -> Listener:
        self._client.register_listener(self._inbox)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.remove_listener(self._inbox)

    async def get(self, timeout_s: float | None) -> dict[str, Any] | None:
        """The next event (`event`, `data`, `timestamp`), or None when none came within `timeout_s`.

        :param timeout_s: None waits as long as the session lasts; 0 looks without waiting.
        :raise MonitorGoneError: QEMU went, and every event it had sent was given.
        """
        waiting = self._inbox.waiting
        if waiting.empty() and self._client.runstate is Runstate.RUNNING:
            arrival = asyncio.ensure_future(waiting.get())
            ending = asyncio.ensure_future(self._client.runstate_changed())
            try:
                await asyncio.wait({arrival, ending}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            finally:
                arrival.cancel()
                ending.cancel()
            if arrival.done() and not arrival.cancelled():
                return dict(arrival.result())
        if not waiting.empty():
            return dict(waiting.get_nowait())
        if self._client.runstate is not Runstate.RUNNING:
            raise MonitorGoneError(
                f"{self._session.address}: the session ended while waiting for an event", hint=sockets.GONE_HINT
            )
        return None
