"""The server with a real socket and real files: what was flushed survives kill -9, state and refusals."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringfence.flash.serve.nbd import EINVAL, ENOSPC, FUA, Command

BLOCK = 4096
SIZE = 4 << 20


class Client:
    """A small NBD client; replies may come in any order."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._cookies = 0

    @classmethod
    async def open(cls, path: Path) -> Client:
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(struct.pack(">I", 3) + struct.pack(">QII", 0x49484156454F5054, 1, 0))
        await reader.readexactly(18 + 10)
        return cls(reader, writer)

    def send(self, command: int, offset: int = 0, length: int = 0, data: bytes = b"", flags: int = 0) -> int:
        self._cookies += 1
        head = struct.pack(">IHHQQI", 0x25609513, flags, command, self._cookies, offset, length)
        self._writer.write(head + data)
        return self._cookies

    async def reply(self) -> tuple[int, int]:
        _, error, cookie = struct.unpack(">IIQ", await self._reader.readexactly(16))
        return cookie, error

    async def do(self, command: int, offset: int = 0, length: int = 0, data: bytes = b"", flags: int = 0) -> int:
        self.send(command, offset, length, data, flags)
        return (await self.reply())[1]

    async def read(self, offset: int, length: int) -> bytes:
        assert await self.do(Command.READ, offset, length) == 0
        return await self._reader.readexactly(length)

    def close(self) -> None:
        self._writer.close()


class Served:
    """`ringfence flash serve` as a process."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        command = [sys.executable, "-m", "ringfence", "flash", "serve", str(directory), "--vssd", "a,size=4MiB"]
        self.process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith("serving"):
                return
        raise AssertionError("it did not start")

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        assert self.process.stderr is not None
        self.process.stderr.read()
        self.process.stderr.close()
        return self.process.wait(timeout=20)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Short: a socket's path has at most 107 characters."""
    import shutil
    import tempfile

    made = Path(tempfile.mkdtemp(prefix="rf-"))
    yield made / "ssd"
    shutil.rmtree(made)


def pools(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.glob("pool-*.json")}


async def killed_under_load(served: Served) -> tuple[list[bytes], list[set[bytes]]]:
    """Write blocks at random and flush now and then until the server is killed: what is safe, what may be."""
    client = await Client.open(served.directory / "a.sock")
    draw = random.Random(4)
    written = [bytes(BLOCK)] * 16
    safe = list(written)
    later: list[set[bytes]] = [set() for _ in written]
    for number in range(400):
        place = draw.randrange(16)
        data = struct.pack(">Q", number + 1) * (BLOCK // 8)
        later[place].add(data)
        assert await client.do(Command.WRITE, place * BLOCK, BLOCK, data) == 0
        written[place] = data
        if number % 20 == 19:
            assert await client.do(Command.FLUSH) == 0
            safe = list(written)
            later = [set() for _ in written]
    for place in range(16):  # and then some that are never answered
        later[place].add(b"x" * BLOCK)
        client.send(Command.WRITE, place * BLOCK, BLOCK, b"x" * BLOCK)
    served.end(signal.SIGKILL)
    client.close()
    return safe, later


async def test_what_was_flushed_survives_kill_9_under_load(directory: Path) -> None:
    safe, later = await killed_under_load(Served(directory))
    served = Served(directory)
    client = await Client.open(directory / "a.sock")
    for place in range(16):
        found = await client.read(place * BLOCK, BLOCK)
        assert found == safe[place] or found in later[place]
    client.close()
    assert served.end() == 0
    assert len(pools(directory)) == 64


async def test_the_model_goes_on_where_it_was(directory: Path) -> None:
    served = Served(directory)
    client = await Client.open(directory / "a.sock")
    for place in range(64):
        assert await client.do(Command.WRITE, place * 16384, 16384, bytes(16384)) == 0
    client.close()
    served.end()
    before = pools(directory)
    assert sum(len(json.loads(text)["page"]) for text in before.values()) == 64
    Served(directory).end()
    assert pools(directory) == before


async def test_requests_that_cannot_be_are_refused_and_the_rest_goes_on(directory: Path) -> None:
    served = Served(directory, "--instant")
    client = await Client.open(directory / "a.sock")
    assert await client.do(Command.WRITE, SIZE, 512, bytes(512)) == ENOSPC
    assert await client.do(Command.READ, SIZE - 512, 1024) == EINVAL
    assert await client.do(Command.READ, 0, 0) == EINVAL
    assert await client.do(17) == EINVAL
    assert await client.do(Command.WRITE, 1000, 5, b"hello", FUA) == 0
    assert await client.read(998, 9) == b"\0\0hello\0\0"
    assert await client.do(Command.WRITE_ZEROES, 1001, 2) == 0
    assert await client.read(1000, 5) == b"h\0\0lo"
    assert await client.do(Command.TRIM, 0, BLOCK) == 0
    assert await client.read(1000, 5) == bytes(5)
    assert oct(os.stat(directory / "a.sock").st_mode & 0o777) == "0o600"
    client.close()
    assert served.end() == 0
    assert not (directory / "a.sock").exists()
