"""Every way in which a connection comes about, or does not."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest

from ringfence.core.model import Address
from ringfence.errors import (
    MonitorBusyError,
    MonitorError,
    MonitorGoneError,
)
from ringfence.qemu import sockets
from ringfence.qemu.session import Session
from ringfence.testing.fake_qemu import GREETING, FakeQemu

pytestmark = pytest.mark.usefixtures("quiet")
SHORT_S = 0.03
LONG_S = 5.0


async def test_nobody_there(path):
    with pytest.raises(MonitorGoneError, match="nobody listens") as caught:
        await Session.open(Address(str(path)))
    assert caught.value.hint


async def test_socket_left_behind_by_a_dead_qemu(path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(MonitorGoneError, match="nobody listens"):
        await Session.open(Address(str(path)))


async def test_what_is_no_socket_is_said(tmp_path):
    (tmp_path / "file").touch()
    for name, words in (("file", "a file, not a socket"), (".", "a directory, not a socket")):
        with pytest.raises(MonitorGoneError, match=words) as caught:
            await Session.open(Address(str(tmp_path / name)))
        assert "ringfence ps" in caught.value.hint


async def test_a_host_that_cannot_be_one():
    with pytest.raises(MonitorGoneError, match="cannot be the name of a host"):
        await Session.open(Address(host="a" * 70, port=4444))


def test_permission_denied_is_not_gone():
    error = sockets.monitor_error(Address("/x"), PermissionError(13, "Permission denied"))
    assert type(error) is MonitorError
    assert "root" in error.hint


async def fill(address):
    """Take every place in the backlog."""
    queued = []
    while True:
        queue = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        queued.append(queue)
        try:
            queue.connect(address.path)
        except BlockingIOError:
            return queued


async def test_full_backlog_is_busy(path):
    async with FakeQemu(path) as qemu, await Session.open(qemu.address):
        queued = await fill(qemu.address)
        with pytest.raises(MonitorBusyError, match="queued"):
            await Session.open(qemu.address, timeout_s=SHORT_S)
        for queue in queued:
            queue.close()


async def test_waits_for_a_place_in_the_backlog(path):
    async with FakeQemu(path) as qemu:
        first = await Session.open(qemu.address)
        queued = await fill(qemu.address)
        waiting = asyncio.ensure_future(Session.open(qemu.address, timeout_s=LONG_S))
        await asyncio.sleep(SHORT_S)
        await first.close()
        for queue in queued:
            queue.close()
        await (await waiting).close()


async def test_path_too_long_for_a_socket_address(tmp_path, monkeypatch):
    folder = tmp_path / ("x" * 60) / ("y" * 60)
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    async with FakeQemu("qmp"):
        address = Address(str(folder / "qmp"))
        async with await Session.open(address) as session:
            assert session.address == address
    with pytest.raises(MonitorGoneError):
        await Session.open(address)
    monkeypatch.chdir(tmp_path)


async def test_tcp(path):
    async def serve(reader, writer):
        writer.write(json.dumps(GREETING).encode() + b"\r\n")
        while line := await reader.readline():
            writer.write(json.dumps({"return": 5, "id": json.loads(line)["id"]}).encode() + b"\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    for host in ("127.0.0.1", "localhost", ""):
        async with await Session.open(Address(host=host, port=port)) as session:
            assert await session.execute("query-status") == 5
    server.close()
    with pytest.raises(MonitorGoneError, match=f"127.0.0.1:{port}"):
        await Session.open(Address(host="127.0.0.1", port=port))
