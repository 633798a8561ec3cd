"""The control socket, with a real client on a real socket, and verbs of the tests' own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ringfence.control import protocol
from ringfence.control.client import connect, required
from ringfence.daemon.server import Call, Server
from ringfence.errors import HostError, MonitorBusyError, RingfenceError, UsageError


@pytest.fixture
async def listening(tmp_path: Path) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """A server's socket, and what its verbs have seen."""
    seen: dict[str, Any] = {"cancelled": asyncio.Event()}

    async def echo(call: Call) -> Any:
        call.tell({"done": 1})
        return {"arguments": dict(call.arguments), "uid": call.peer.uid, "pid": call.peer.pid}

    async def busy(call: Call) -> Any:
        raise MonitorBusyError("held by another", hint="wait", state="nothing was changed")

    async def odd(call: Call) -> Any:
        return call.arguments["missing"]

    async def slow(call: Call) -> Any:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen["cancelled"].set()
            raise

    server = Server(tmp_path / "sock", {"echo": echo, "busy": busy, "odd": odd, "slow": slow})
    await server.start()
    yield str(tmp_path / "sock"), seen
    await server.close()
    assert not (tmp_path / "sock").exists()


async def call(
    path: str, verb: str, arguments: dict[str, Any] | None = None, told: list[Any] | None = None
) -> Any:
    def ask() -> Any:
        with required(path) as client:
            return client.call(verb, arguments, progress=told.append if told is not None else None)

    return await asyncio.to_thread(ask)


async def test_a_result_with_its_progress_and_who_asked(listening: tuple[str, Any]) -> None:
    import os

    told: list[Any] = []
    result = await call(listening[0], "echo", {"a": [1, "x"]}, told)
    assert result == {"arguments": {"a": [1, "x"]}, "uid": os.getuid(), "pid": os.getpid()}
    assert told == [{"done": 1}]


async def test_an_error_comes_out_as_what_it_was(listening: tuple[str, Any]) -> None:
    with pytest.raises(MonitorBusyError) as caught:
        await call(listening[0], "busy")
    assert (caught.value.hint, caught.value.state) == ("wait", "nothing was changed")


@pytest.mark.parametrize(("verb", "says"), [("nosuch", "no verb"), ("odd", "arguments cannot be read")])
async def test_a_wrong_request_is_the_clients_fault(listening: tuple[str, Any], verb: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        await call(listening[0], verb)


@pytest.mark.parametrize(
    "line", [b"[]\n", b"{\n", b'{"id": 1}\n', b'{"id": "x", "verb": "echo"}\n', b"\xff\n", b"[" * 5000 + b"\n"]
)
async def test_nonsense_is_answered_and_the_connection_goes_on(listening: tuple[str, Any], line: bytes) -> None:
    reader, writer = await asyncio.open_unix_connection(listening[0])
    writer.write(line)
    assert protocol.decode(await reader.readline())["error"]["kind"] == "UsageError"
    writer.write(protocol.encode({"id": 2, "verb": "echo"}))
    assert protocol.decode(await reader.readline())["id"] == 2
    writer.close()


async def test_what_is_asked_later_may_be_answered_first(listening: tuple[str, Any]) -> None:
    reader, writer = await asyncio.open_unix_connection(listening[0])
    writer.write(protocol.encode({"id": 1, "verb": "slow"}) + protocol.encode({"id": 2, "verb": "echo"}))
    await reader.readline()  # its progress
    assert protocol.decode(await reader.readline())["id"] == 2
    writer.close()


async def test_a_client_that_leaves_ends_what_it_asked_for(listening: tuple[str, Any]) -> None:
    _, writer = await asyncio.open_unix_connection(listening[0])
    writer.write(protocol.encode({"id": 1, "verb": "slow"}))
    await writer.drain()
    await asyncio.sleep(0.01)
    writer.close()
    async with asyncio.timeout(5):
        await listening[1]["cancelled"].wait()


async def test_a_second_daemon_is_refused_and_a_dead_ones_socket_taken_over(
    listening: tuple[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(HostError, match=r"listens on .* already"):
        await Server(Path(listening[0]), {}).start()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead"))
    server = Server(tmp_path / "dead", {})
    await server.start()
    await server.close()
    (tmp_path / "file").write_text("precious")
    with pytest.raises(HostError, match="is no socket"):
        await Server(tmp_path / "file", {}).start()
    assert (tmp_path / "file").read_text() == "precious"


def test_no_daemon_is_none_or_an_error_with_a_way_out(tmp_path: Path) -> None:
    assert connect(str(tmp_path / "nothing")) is None
    with pytest.raises(HostError) as caught:
        required(str(tmp_path / "nothing"))
    assert "ringfence daemon" in caught.value.hint


def test_every_error_survives_the_wire() -> None:
    from ringfence import errors

    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, RingfenceError):
            back = protocol.raised(protocol.error_data(kind("it failed", hint="do this", state="as it was")))
            assert (type(back), back.exit_code, back.hint, back.state) == (
                kind,
                kind.exit_code,
                "do this",
                "as it was",
            ), name
    newer = protocol.raised({"kind": "FromTheFuture", "message": "m", "exit_code": 9})
    assert (type(newer), newer.exit_code) == (RingfenceError, 9)
