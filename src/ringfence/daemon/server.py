"""The control socket: takes requests of those who may make them, many at a time, and answers each.

What a verb does stands in `ringfence.daemon.verbs`; here is who asks, and in which form.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from ringfence.control import protocol
from ringfence.daemon.peers import GROUP, Peer, peer_of
from ringfence.daemon.service import log
from ringfence.errors import HostError, RingfenceError, UsageError

_MOST_AT_ONCE = 16
"""Requests of one connection that are under way; more wait to be read."""


class Call(NamedTuple):
    """One request. :ivar tell: sends a word of how far it is."""

    peer: Peer
    arguments: Mapping[str, Any]
    tell: Callable[[Mapping[str, Any]], None]


Verb: TypeAlias = Callable[[Call], Awaitable[Any]]


class Server:
    """Listens on a unix socket until `close`.

    :param verbs: by name; each raises RingfenceError for what fails.
    """

    def __init__(self, path: Path, verbs: Mapping[str, Verb]) -> None:
        self.path = path
        self._verbs = verbs
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begin to listen. The socket may be connected to by everybody: who may do what is settled for each verb.

        :raise HostError: another daemon listens there, or the socket cannot be made.
        """
        _clear(self.path)
        try:
            self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._server = await asyncio.start_unix_server(
                self._connected, self.path, limit=protocol.LINE_MAX_BYTES
            )
            self.path.chmod(0o666)
        except OSError as error:
            raise HostError(
                f"cannot listen on {self.path}: {error.strerror or error}",
                path=str(self.path),
                errno=error.errno or 0,
                hint="`--socket PATH` listens elsewhere; the system's needs root",
            ) from error

    async def close(self) -> None:
        """End all connections and remove the socket."""
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        with suppress(OSError):
            self.path.unlink()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # asyncio makes one for each connection
        self._connections.add(task)
        try:
            await _Connection(reader, writer, self._verbs).serve()
        except asyncio.CancelledError:
            pass
        finally:
            self._connections.discard(task)
            writer.close()


class _Connection:
    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, verbs: Mapping[str, Verb]
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._verbs = verbs
        self._gate = asyncio.Semaphore(_MOST_AT_ONCE)
        self._running: set[asyncio.Task[None]] = set()
        self._peer = peer_of(writer.get_extra_info("socket"))

    async def serve(self) -> None:
        """Take requests until the client closes; what it has not waited for is cancelled."""
        try:
            while line := await self._line():
                await self._gate.acquire()
                task = asyncio.create_task(self._answer(line))
                self._running.add(task)
                task.add_done_callback(self._ended)
        except (OSError, ValueError):
            pass  # a line longer than any request, or a client that broke off
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    async def _line(self) -> bytes:
        return await self._reader.readline()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._gate.release()

    async def _answer(self, line: bytes) -> None:
        number: Any = None
        message: Mapping[str, Any] = {}
        try:
            message = protocol.decode(line)
            number = message.get("id")
            asked = protocol.request(message)
            verb = self._verbs.get(asked.verb)
            if verb is None:
                raise UsageError(f"there is no verb {asked.verb!r}", hint=f"there are {', '.join(self._verbs)}")
            call = Call(self._peer, asked.arguments, lambda data: self._send({"id": number, "progress": data}))
            self._send({"id": number, "result": await verb(call)})
        except RingfenceError as error:
            self._send({"id": number, "error": protocol.error_data(error)})
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            log("error", f"{message.get('verb')!r} of pid {self._peer.pid}: {error!r}")
            told = UsageError(f"the arguments cannot be read: {error}", hint="see docs/control.md")
            self._send({"id": number, "error": protocol.error_data(told)})
        with suppress(OSError):
            await self._writer.drain()

    def _send(self, message: Mapping[str, Any]) -> None:
        if not self._writer.is_closing():
            self._writer.write(protocol.encode(message))


def _clear(path: Path) -> None:
    """Remove the socket that a daemon which died has left.

    :raise HostError: one listens there, or it is no socket.
    """
    try:
        found = os.lstat(path)
    except OSError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise HostError(f"{path} is no socket", path=str(path), hint="remove it, or use --socket PATH")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            with suppress(OSError):
                path.unlink()
            return
    raise HostError(f"a daemon listens on {path} already", path=str(path), hint=f"members of {GROUP} may ask it")
