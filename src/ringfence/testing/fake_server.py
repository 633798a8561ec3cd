"""A unix socket that serves one client at a time, as a QEMU character device does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Self

from ringfence.core.model import Address
from ringfence.testing.script import HangUp, Pause, Raw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from ringfence.testing.script import Act

_BACKLOG = 1  # QEMU's own: two more clients are queued, the next one's connect fails


class FakeServer(ABC):
    """Listens while its context is entered: with `async with` in the running loop, with `with` in its own thread.

    What a function in the table of answers raises is raised again when the context is left.

    :param path: where to listen; must not exist.
    :param greeting: sent to each client when it is served; None sends nothing.

    :ivar address: for whoever connects.
    :ivar clients: how many were served so far.
    """

    def __init__(self, path: str | os.PathLike[str], *, greeting: bytes | None) -> None:
        self.address = Address(os.fspath(path))
        self.clients = 0
        self._greeting = greeting
        self._writer: asyncio.StreamWriter | None = None
        self._listener: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread: threading.Thread | None = None

    @abstractmethod
    async def _converse(self, reader: asyncio.StreamReader) -> None:
        """Serve one client, already greeted, until it leaves or is hung up on."""

    def hang_up(self) -> None:
        """Close the connection of the client being served, and serve the next. From any thread."""
        self._call(self._close_client)

    async def __aenter__(self) -> Self:
        self._listen()
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._serve())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._end()

    def __enter__(self) -> Self:
        self._listen()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is not None and self._task is not None:
            self._call(self._task.cancel)
            self._thread.join()
        self._end()

    def _run(self, ready: threading.Event) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            self._task = self._loop.create_task(self._serve())
            ready.set()
            await asyncio.wait([self._task])

        asyncio.run(serve())

    def _end(self) -> None:
        if self._listener is not None:
            self._listener.close()
            os.unlink(self.address.path)
        if self._task is not None and not self._task.cancelled():
            failure = self._task.exception()
            if failure is not None:
                raise failure

    def _listen(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._listener.bind(self.address.path)
        self._listener.listen(_BACKLOG)

    async def _serve(self) -> None:
        if self._listener is None:
            return
        try:
            while True:
                connection = await _accept(self._listener)
                try:
                    reader, self._writer = await asyncio.open_connection(sock=connection)
                except BaseException:
                    connection.close()
                    raise
                self.clients += 1
                with contextlib.suppress(ConnectionError):
                    if self._greeting is not None:
                        self._send(self._greeting)
                    await self._converse(reader)
                self._close_client()
        finally:
            self._close_client()

    async def _perform(self, acts: Iterable[Act], wire: Callable[[Act], bytes]) -> None:
        """Do the acts one after the other; `wire` gives the bytes of those that speak the protocol."""
        for act in acts:
            match act:
                case Pause(seconds):
                    await asyncio.sleep(seconds)
                case HangUp():
                    self._close_client()
                case Raw(data):
                    self._send(data)
                case _:
                    self._send(wire(act))

    def _send(self, data: bytes) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(data)

    def _close_client(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _call(self, function: Callable[..., object], *arguments: Any) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(function, *arguments)


async def _accept(listener: socket.socket) -> socket.socket:
    """The next client. `loop.sock_accept` loses one, unclosed, when it is cancelled just as the client comes."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            readable = loop.create_future()
            loop.add_reader(listener, _set, readable)
            try:
                await readable
            finally:
                loop.remove_reader(listener)
        else:
            connection.setblocking(False)
            return connection


def _set(readable: asyncio.Future[None]) -> None:
    if not readable.done():
        readable.set_result(None)
