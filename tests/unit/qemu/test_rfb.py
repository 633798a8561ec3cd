"""The remote framebuffer protocol, by its bytes."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ringfence.core.model import Address
from ringfence.errors import MonitorError, MonitorGoneError, MonitorProtocolError, UsageError
from ringfence.qemu.des import vnc_response
from ringfence.qemu.rfb import Frame, RfbClient

INIT = struct.pack(">HH16xI", 4, 2, 4) + b"QEMU"
PICTURE = struct.pack(">BxHHHHHi", 0, 1, 0, 0, 4, 2, 0) + bytes(range(8))
RESIZED = struct.pack(">BxHHHHHi", 0, 2, 0, 0, 2, 1, -223) + struct.pack(">HHHHi", 0, 0, 2, 1, 0) + b"\x07\x08"
ASK_ALL = bytes.fromhex("03000000000000040002")
ASK_NEW = bytes.fromhex("03010000000000040002")
SETUP = bytes.fromhex("00000000 0808 0001 0007 0007 0003 000306 000000") + bytes.fromhex(
    "02000002 00000000 ffffff21"
)

Server = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(path: Path, serve: Server) -> AsyncIterator[Address]:
    errors: list[BaseException] = []

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
            await reader.read()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)
        finally:
            writer.close()

    server = await asyncio.start_unix_server(one, path)
    try:
        yield Address(str(path))
    finally:
        server.close()
        await asyncio.sleep(0.01)
    assert errors == []


async def expect(reader: asyncio.StreamReader, data: bytes) -> None:
    assert await reader.readexactly(len(data)) == data


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As QEMU does without a password, up to the first picture."""
    writer.write(b"RFB 003.008\n")
    await expect(reader, b"RFB 003.008\n")
    writer.write(b"\x01\x01")
    await expect(reader, b"\x01")
    writer.write(bytes(4))
    await expect(reader, b"\x01")
    writer.write(INIT)
    await expect(reader, SETUP + ASK_ALL)
    writer.write(PICTURE)
    await expect(reader, ASK_NEW)


async def test_the_first_picture(tmp_path: Path) -> None:
    async with serving(tmp_path / "v", greet) as address:
        client = await RfbClient.open(address)
        frame = client.frame
        assert (frame.width, frame.height, bytes(frame.pixels)) == (4, 2, bytes(range(8)))
        await client.close()
        await client.close()


async def test_keys_are_released_in_reverse(tmp_path: Path) -> None:
    ready, pressed = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        ready.set()
        events = [(1, 0xFFE1), (1, 0x41), (0, 0x41), (0, 0xFFE1)]
        await expect(reader, b"".join(struct.pack(">BBHI", 4, down, 0, keysym) for down, keysym in events))
        pressed.set()

    async with serving(tmp_path / "v", serve) as address:
        client = await RfbClient.open(address)
        async with asyncio.timeout(5):
            await ready.wait()
            client.press(0xFFE1, 0x41)
            await pressed.wait()
        await client.close()


async def test_a_new_size_and_messages_that_do_not_matter(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        cut_text, colours = struct.pack(">BxxxI", 3, 2) + b"hi", struct.pack(">BxHH", 1, 0, 1) + bytes(6)
        writer.write(b"\x02" + cut_text + colours + RESIZED)

    async with serving(tmp_path / "v", serve) as address:
        client = await RfbClient.open(address)
        async with asyncio.timeout(5):
            await client.changed()
        assert (client.frame.width, client.frame.height, bytes(client.frame.pixels)) == (2, 1, b"\x07\x08")
        await client.close()


async def test_the_end(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        writer.close()

    async with serving(tmp_path / "v", serve) as address:
        client = await RfbClient.open(address)
        async with asyncio.timeout(5):
            await client.ended()
        with pytest.raises(MonitorGoneError):
            client.press(0x41)
        with pytest.raises(MonitorGoneError):
            await client.changed()
        await client.close()


def wants_password(answer: bytes) -> Server:
    challenge = bytes(range(16))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"RFB 003.008\n")
        await reader.readexactly(12)
        writer.write(b"\x01\x02")
        await expect(reader, b"\x02")
        writer.write(challenge)
        await expect(reader, vnc_response("secret", challenge))
        writer.write(answer)
        await expect(reader, b"\x01")
        writer.write(INIT)
        await expect(reader, SETUP + ASK_ALL)
        writer.write(PICTURE)

    return serve


async def test_password(tmp_path: Path) -> None:
    async with serving(tmp_path / "v", wants_password(bytes(4))) as address:
        await (await RfbClient.open(address, password="secret")).close()


async def test_password_refused(tmp_path: Path) -> None:
    refused = struct.pack(">II", 1, 6) + b"failed"
    async with serving(tmp_path / "v", wants_password(refused)) as address:
        with pytest.raises(UsageError, match="not let in: failed"):
            await RfbClient.open(address, password="secret")


async def test_password_missing(tmp_path: Path) -> None:
    async with serving(tmp_path / "v", wants_password(b"")) as address:
        with pytest.raises(UsageError, match="wants a password"):
            await RfbClient.open(address)


def says(data: bytes, *, then_close: bool = False) -> Server:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        if then_close:
            writer.close()

    return serve


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b'{"QMP": {}}\r\n', "not a VNC server"),
        (b"RFB 003.008\n\x01\x13", "VeNCrypt"),
        (b"RFB 003.008\n\x00" + struct.pack(">I", 4) + b"full", "refused: full"),
        (b"RFB 003.008\n\x01\x01" + bytes(4) + INIT + b"\x09", "unknown message 9"),
        (
            b"RFB 003.008\n\x01\x01" + bytes(4) + INIT + struct.pack(">BxHHHHHi", 0, 1, 0, 0, 4, 2, 5),
            "not asked for",
        ),
    ],
)
async def test_not_what_was_expected(tmp_path: Path, data: bytes, text: str) -> None:
    async with serving(tmp_path / "v", says(data)) as address:
        with pytest.raises(MonitorProtocolError, match=text):
            await RfbClient.open(address)


async def test_hung_up_on(tmp_path: Path) -> None:
    async with serving(tmp_path / "v", says(b"RFB", then_close=True)) as address:
        with pytest.raises(MonitorGoneError):
            await RfbClient.open(address)


async def test_silence(tmp_path: Path) -> None:
    async with serving(tmp_path / "v", says(b"")) as address:
        with pytest.raises(MonitorError, match="no picture"):
            await RfbClient.open(address, timeout_s=0.05)


async def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(MonitorGoneError):
        await RfbClient.open(Address(str(tmp_path / "v")))


def test_what_is_outside_of_the_frame_is_left_out() -> None:
    frame = Frame(3, 2)
    frame.draw(2, 1, 2, b"\x01\x02\x03\x04")
    frame.draw(3, 0, 1, b"\x05")
    assert bytes(frame.pixels) == b"\x00\x00\x00\x00\x00\x01"
