"""A human monitor on a socket of its own (`-monitor unix:...`), for a QEMU that has no QMP socket to spare.

Its readline answers every key with escape sequences that draw the line anew; only what follows the line is text.
On a socket shared with a serial line (`mux=on`, `-serial mon:`) it is handed the keys, and hands them back.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from ringfence.errors import (
    MonitorBusyError,
    MonitorGoneError,
    MonitorProtocolError,
    MonitorTimeoutError,
    UsageError,
)
from ringfence.qemu import sockets
from ringfence.qemu.hmp_text import check_line, unix_lines

if TYPE_CHECKING:
    import socket
    from types import TracebackType

    from ringfence.core.model import Address

_PROMPT = b"(qemu) "
_DRAWN = b"\x1b[K"  # ends each drawing of the line
_LINE_BYTES = 4095  # QEMU's READLINE_CMD_BUF_SIZE, less the closing NUL; it drops what is longer
_IN_DOUBT = "The command may have taken effect, or may still do so."
_NEXT = b"\x01c"  # Ctrl-a c: the keys go to whoever is next on a shared socket
_SHARERS = 4  # as many as QEMU's mux chardev has
_NEXT_S = 0.3
_ESCAPE = b"\x9b"  # taken for the start of a cursor key, even within a UTF-8 character


class HmpSession:
    """A human monitor that has shown its prompt. Make one with `open`.

    Lines of several tasks are executed one after the other. After a MonitorError from `execute` it is closed,
    because what QEMU would still print could not be told from the next line's text.

    :ivar address: where it is connected.
    """

    def __init__(self, address: Address, reader: _Reader, writer: asyncio.StreamWriter) -> None:
        self.address = address
        self._reader = reader
        self._writer = writer
        self._turn = asyncio.Lock()
        self._handed = 0  # how often the keys went on to the next sharer of the socket

    @classmethod
    async def open(cls, address: Address, *, timeout_s: float = 2.0, mux: bool = False) -> HmpSession:
        """Connect and await the prompt; both within `timeout_s`.

        :param mux: the socket is shared with a serial line, and whoever has the keys is asked to hand them on.
        :raise MonitorGoneError: nobody listens there, or QEMU closed the connection.
        :raise MonitorBusyError: no prompt: another client is being served; or too many clients are queued.
        :raise MonitorProtocolError: what greeted us is not a human monitor.
        :raise MonitorError: the socket may not be used by this user.

        After an error nothing is left open.
        """
        session: HmpSession | None = None
        try:
            async with asyncio.timeout(timeout_s):
                connection = await sockets.connect(address)
                session = cls(address, *await _streams(connection))
                await (session._take_keys() if mux else session._await_prompt())
        except TimeoutError:
            if session is None:
                raise sockets.late_connect(address, timeout_s) from None
            await session.close()
            raise MonitorBusyError(
                f"{address}: connected, but no prompt within {timeout_s:g} s: "
                "another client is being served, or QEMU is stopped",
                hint=sockets.BUSY_HINT,
            ) from None
        except OSError as error:
            raise sockets.monitor_error(address, error) from None
        except BaseException:
            if session is not None:
                await session.close()
            raise
        return session

    async def __aenter__(self) -> HmpSession:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def execute(self, line: str, *, timeout_s: float = 10.0) -> str:
        """Execute a line; gives its text, the same as `Session.hmp` gives.

        QEMU reports a line that failed in the text, not as an error.

        :raise UsageError: `line` is not one line of plain text, or too long; nothing was sent.
        :raise MonitorTimeoutError: the prompt did not come back within `timeout_s` of the line's turn.
        :raise MonitorGoneError: the session is closed, or QEMU closed it before it showed the prompt.
        """
        check_line(line)
        keys = line.encode()
        if len(keys) > _LINE_BYTES or _ESCAPE in keys:
            raise UsageError(
                "the human monitor's prompt cannot take this line", hint="Execute it through a QMP socket."
            )
        async with self._turn:
            try:
                async with asyncio.timeout(timeout_s):
                    return await self._execute(keys)
            except TimeoutError:
                await self.close()
                raise MonitorTimeoutError(
                    f"{self.address}: the prompt did not come back within {timeout_s:g} s after {line!r}",
                    hint="QEMU may be busy or stopped; open the monitor again, or allow more time.",
                    state=_IN_DOUBT,
                ) from None
            except BaseException:
                await self.close()
                raise

    async def ended(self) -> None:
        """Return when QEMU has closed the connection, or `close` was called; lines may be executed meanwhile."""
        await self._reader.ended.wait()

    async def close(self) -> None:
        """Give the monitor back to other clients. Idempotent, never raises, hardly waits for QEMU."""
        if self._handed:
            self._handed = 0
            self._writer.write(_NEXT)  # of two, that is the other one again
            with contextlib.suppress(TimeoutError, MonitorGoneError):
                async with asyncio.timeout(_NEXT_S):
                    await self._read()  # what QEMU has not read when we leave it never does
        self._writer.transport.abort()
        await asyncio.sleep(0)  # the socket is closed in the next round of the loop

    async def _execute(self, keys: bytes) -> str:
        if self._writer.is_closing():
            raise MonitorGoneError(f"{self.address}: the session is closed", hint="Open it again.")
        self._writer.write(keys + b"\n")
        drawn = keys + _DRAWN + b"\r\n" if keys else b"\r\n"
        seen = b""
        while drawn not in seen:
            seen = seen[-len(drawn) :] + await self._read(_IN_DOUBT)
        text = bytearray(seen.partition(drawn)[2])
        while not text.endswith(_PROMPT):
            text += await self._read(_IN_DOUBT)
        return unix_lines(text.removesuffix(_PROMPT).decode(errors="replace"))

    async def _take_keys(self) -> None:
        """On a shared socket, whose other user may print at any time."""
        while True:
            text = b""
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_NEXT_S):
                    while not text.endswith(_PROMPT):
                        text += await self._read()
                    return
            if self._handed == _SHARERS:
                raise MonitorProtocolError(
                    f"{self.address}: nobody on this shared socket is a human monitor",
                    hint="Give the socket of QEMU's -monitor option.",
                )
            self._writer.write(_NEXT)
            self._handed += 1

    async def _await_prompt(self) -> None:
        greeting = b""
        while not greeting.endswith(_PROMPT):
            greeting += await self._read()
            if not b"QEMU ".startswith(greeting[:5]):
                found = "QMP" if greeting.startswith(b"{") else "something else"
                raise MonitorProtocolError(
                    f"{self.address}: this is {found}, not a human monitor",
                    hint="Give the socket of QEMU's -monitor option.",
                )

    async def _read(self, state: str = "") -> bytes:
        try:
            data = await self._reader.read(65536)
        except OSError:
            data = b""
        if not data:
            raise MonitorGoneError(
                f"{self.address}: QEMU closed the connection", hint=sockets.GONE_HINT, state=state
            )
        return data


class _Reader(asyncio.StreamReader):
    """Tells of the end also who is not reading."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = asyncio.Event()

    def feed_eof(self) -> None:
        super().feed_eof()
        self.ended.set()

    def set_exception(self, exc: Exception) -> None:
        super().set_exception(exc)
        self.ended.set()


async def _streams(connection: socket.socket) -> tuple[_Reader, asyncio.StreamWriter]:
    """What `asyncio.open_connection` does, with our reader."""
    loop = asyncio.get_running_loop()
    reader = _Reader()
    protocol = asyncio.StreamReaderProtocol(reader)
    transport, _ = await loop.create_connection(lambda: protocol, sock=connection)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)
