"""The server: one event loop, one device model, one socket for each virtual SSD.

A request is carried out in the data file when it comes (a read when it is answered), and answered when the model
says that the flash would have been done. A flush is answered when the kernel has put the file's data on its disk:
it has no time of its own in the model.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from ringfence.errors import HostError
from ringfence.flash.geometry import SECTOR_BYTES
from ringfence.flash.online import OnlineDevice
from ringfence.flash.serve.nbd import (
    EINVAL,
    EIO,
    ENOSPC,
    FUA,
    MAX_REQUEST_BYTES,
    Closed,
    Command,
    Connection,
    Request,
)
from ringfence.flash.serve.store import Store
from ringfence.flash.serve.timer import Timer

SAVE_EVERY_S = 10.0
"""How far the saved state may be behind, when the server is killed. Each pool that changed is saved once in that
time, one after the other, so that no request waits for more than one of them."""


class Export(NamedTuple):
    """:param tenant: its number in the model."""

    name: str
    tenant: int
    size_bytes: int


class _Waiting(NamedTuple):
    """A request that the model has."""

    client: _Client
    request: Request


class Server:
    """:param model: None answers at once: for measuring what the server itself can do."""

    def __init__(self, model: OnlineDevice | None, exports: list[Export], store: Store) -> None:
        self._model, self._exports, self.store = model, exports, store
        self._waiting: dict[int, _Waiting] = {}
        self._servers: list[asyncio.Server] = []
        self._clients: set[_Client] = set()
        self._timer: Timer | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._touched: set[int] = set()
        self.served = 0

    async def start(self) -> None:
        """Listen. The sockets are the user's own: others cannot connect.

        :raise HostError: a socket cannot be made.
        """
        loop = asyncio.get_running_loop()
        if self._model is not None:
            self._timer = Timer(loop, self._tick)
            self._task(self._keep_saving(self._model))
        for export in self._exports:
            path = self.store.socket(export.name)
            mask = os.umask(0o177)
            try:
                with suppress(FileNotFoundError):
                    path.unlink()
                self._servers.append(await loop.create_unix_server(partial(_Client, self, export), str(path)))
            except OSError as error:
                raise HostError(
                    f"cannot listen on {path}: {error.strerror or error}",
                    path=str(path),
                    errno=error.errno or 0,
                    hint="a socket's path has at most 107 characters; use a directory with a shorter name",
                ) from error
            finally:
                os.umask(mask)

    async def stop(self) -> None:
        """Take no more requests, save the state, bring all data to the disk."""
        for server in self._servers:
            server.close()
        for client in list(self._clients):
            client.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._timer is not None:
            self._timer.close()
        if self._model is not None:
            for number, pool in enumerate(self._model.pools):
                self.store.save(number, pool.state())
        for export in self._exports:
            with suppress(FileNotFoundError):
                self.store.socket(export.name).unlink()
        self.store.close()

    # --- for clients

    def take(self, client: _Client, requests: list[Request]) -> None:
        """Requests that came together."""
        for request in requests:
            self._take(client, request)
        self._tick()

    def _take(self, client: _Client, request: Request) -> None:
        error = _refusal(request, client.export.size_bytes)
        if error:
            client.answer(request, error)
            return
        if request.command == Command.FLUSH:
            self._task(self._flush(client, request))
            return
        if request.command != Command.READ:
            try:
                self._change(client, request)
            except OSError as failed:
                client.answer(request, ENOSPC if failed.errno == ENOSPC else EIO)
                return
        if self._model is None or request.command not in (Command.READ, Command.WRITE):
            self._finish(client, request)
            return
        sector, end = request.offset // SECTOR_BYTES, -(-(request.offset + request.length) // SECTOR_BYTES)
        number = self._model.submit(
            time.monotonic_ns(),
            client.export.tenant,
            write=request.command == Command.WRITE,
            sector=sector,
            count=end - sector,
        )
        # What was written is in the file already: it need not be kept.
        self._waiting[number] = _Waiting(client, request._replace(data=b""))

    def gone(self, client: _Client) -> None:
        """A connection has ended; what the model still does for it is answered to nobody."""
        self._clients.discard(client)

    def came(self, client: _Client) -> None:
        """A connection was made."""
        self._clients.add(client)

    # --- data

    def _change(self, client: _Client, request: Request) -> None:
        fd = self.store.file(client.export.name)
        if request.command == Command.WRITE:
            written = os.pwrite(fd, request.data, request.offset)
            if written < request.length:
                os.pwrite(fd, request.data[written:], request.offset + written)
        else:
            _zero(fd, request.offset, request.length)
            if self._model is not None:
                sector = -(-request.offset // SECTOR_BYTES)
                end = (request.offset + request.length) // SECTOR_BYTES
                self._model.discard(client.export.tenant, sector, max(0, end - sector))

    def _finish(self, client: _Client, request: Request) -> None:
        self.served += 1
        if request.flags & FUA and request.command != Command.READ:
            self._task(self._flush(client, request))
        elif request.command == Command.READ:
            try:
                data = os.pread(self.store.file(client.export.name), request.length, request.offset)
            except OSError:
                client.answer(request, EIO)
            else:
                client.answer(request, 0, data.ljust(request.length, b"\0"))
        else:
            client.answer(request, 0)

    async def _flush(self, client: _Client, request: Request) -> None:
        # An open file's description is shared: no write that was answered before is missed.
        try:
            await asyncio.to_thread(os.fdatasync, self.store.file(client.export.name))
        except OSError:
            client.answer(request, EIO)
        else:
            client.answer(request, 0)

    # --- time

    def _tick(self) -> None:
        if self._model is None or self._timer is None:
            return
        for done in self._model.advance(time.monotonic_ns()):
            waiting = self._waiting.pop(done.request)
            self._finish(*waiting)
        self._timer.set(self._model.next_ns)

    async def _keep_saving(self, model: OnlineDevice) -> None:
        saved: list[tuple[int, int, int]] = [(-1, -1, -1)] * len(model.pools)
        while True:
            for number, pool in enumerate(model.pools):
                await asyncio.sleep(SAVE_EVERY_S / len(model.pools))
                now = (pool.open, pool.written, len(pool.place))
                if now != saved[number]:
                    state = pool.state()
                    with suppress(HostError):  # a full disk is no reason to stop; it is tried again
                        await asyncio.to_thread(self.store.save, number, state)
                        saved[number] = now

    def _task(self, work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, server: Server, export: Export) -> None:
        self._server, self.export = server, export
        self._nbd = Connection(export.name, export.size_bytes)
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.came(self)
        transport.write(self._nbd.to_send())

    def data_received(self, data: bytes) -> None:
        if self._transport is None:
            return
        found = self._nbd.feed(data)
        said = self._nbd.to_send()
        if said:
            self._transport.write(said)
        requests = [request for request in found if isinstance(request, Request)]
        if requests:
            self._server.take(self, requests)
        if found and isinstance(found[-1], Closed):
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc  # a client that breaks off and one that leaves are the same to the device
        self._transport = None
        self._server.gone(self)

    def answer(self, request: Request, error: int, data: bytes = b"") -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(self._nbd.reply(request.cookie, error) + data)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def _refusal(request: Request, size_bytes: int) -> int:
    """The error number of a request that cannot be, else 0."""
    if request.command not in set(Command) or request.command == Command.DISCONNECT:
        return EINVAL
    if request.command == Command.FLUSH:
        return 0
    if request.offset + request.length > size_bytes:
        return ENOSPC if request.command in (Command.WRITE, Command.WRITE_ZEROES) else EINVAL
    too_long = request.command == Command.READ and request.length > MAX_REQUEST_BYTES
    return EINVAL if too_long or request.length == 0 else 0


def _zero(fd: int, offset: int, length: int) -> None:
    """Make a hole, or write zeroes where the file system makes none."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    punched = libc.fallocate(fd, 1 | 2, ctypes.c_long(offset), ctypes.c_long(length))
    while punched != 0 and length > 0:
        size = min(length, 1 << 20)
        os.pwrite(fd, bytes(size), offset)
        offset, length = offset + size, length - size
