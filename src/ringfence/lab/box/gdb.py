"""QEMU's debugger interface, as far as the box needs it: the GDB remote serial protocol over a unix socket.

GDB manual, appendix "GDB Remote Serial Protocol"; QEMU's `-gdb`, docs/system/gdb.rst.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

from ringfence.errors import GuestError

REGISTERS = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip"),
)
"""The first in QEMU's `g` packet for x86-64, 8 bytes each."""

_STOPPED = re.compile(r"T[0-9a-f]{2}thread:")
_LIMIT_BYTES = 1 << 20
_CONNECT_WITHIN_S = 10.0
_ANSWER_WITHIN_S = 30.0


class Stop(NamedTuple):
    """A breakpoint was met: by which virtual CPU, as QEMU numbers them, and with which registers."""

    thread: str
    registers: dict[str, int]


class Debugger:
    """A connection that holds all virtual CPUs stopped, but for the time of `resume` and of `step`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read_memory(self, address: int, size: int) -> bytes:
        """Guest memory, by virtual address as the stopped CPU sees it.

        :raise GuestError: it is not mapped.
        """
        return bytes.fromhex(await self._ask(f"m{address:x},{size:x}", "E"))

    async def write_memory(self, address: int, data: bytes) -> None:
        """As `read_memory`."""
        await self._ask(f"M{address:x},{len(data):x}:{data.hex()}", "E")

    async def write_register(self, name: str, value: int) -> None:
        """Of the CPU that stopped."""
        await self._ask(f"P{REGISTERS.index(name):x}={struct.pack('<Q', value).hex()}", "E")

    async def set_breakpoint(self, address: int) -> None:
        """A hardware breakpoint, which needs no memory there yet."""
        await self._ask(f"Z1,{address:x},1", "E")

    async def clear_breakpoint(self, address: int) -> None:
        """:raise GuestError: there is none."""
        await self._ask(f"z1,{address:x},1", "E")

    async def resume(self) -> Stop:
        """Let all CPUs run until one meets a breakpoint.

        :raise EOFError: QEMU ended instead.
        """
        self._send("c")
        return await self._stopped(await self._receive())

    async def step(self, stop: Stop, address: int) -> None:
        """Have the CPU that stopped pass the breakpoint at `address`, while the others stay where they are."""
        await self.clear_breakpoint(address)
        self._send(f"vCont;s:{stop.thread}")
        await self._receive()
        await self.set_breakpoint(address)

    async def finish(self, stop: Stop, entry: int) -> Stop:
        """Have the CPU that stopped at a function's `entry` return from it, while the others stay in place."""
        (back,) = struct.unpack("<Q", await self.read_memory(stop.registers["rsp"], 8))
        await self.clear_breakpoint(entry)
        await self.set_breakpoint(back)
        self._send(f"vCont;c:{stop.thread}")
        found = await self._stopped(await self._receive())
        await self.clear_breakpoint(back)
        await self.set_breakpoint(entry)
        return found

    async def skip(self, stop: Stop, result: int | None = None) -> None:
        """Have the CPU that stopped at a function's entry return at once, with `result` if there is one."""
        stack = stop.registers["rsp"]
        (back,) = struct.unpack("<Q", await self.read_memory(stack, 8))
        if result is not None:
            await self.write_register("rax", result)
        await self.write_register("rsp", stack + 8)
        await self.write_register("rip", back)

    async def detach(self) -> None:
        """Let the machine run without us. Breakpoints are gone."""
        await self._ask("D", "E")

    async def greet(self) -> None:
        """Learn of each other; QEMU takes single registers only once its description of them was read."""
        await self._ask("qSupported:hwbreak+;vContSupported+", "E")
        await self._ask("qXfer:features:read:target.xml:0,ffb", "E")
        await self._ask("?", "E")

    async def _stopped(self, said: str) -> Stop:
        """From QEMU's `T05thread:01;`; turns to that CPU. `W` and `X` are a QEMU that ends."""
        thread = next((word[7:] for word in said[3:].split(";") if word.startswith("thread:")), "")
        if said[:1] in ("W", "X"):
            raise EOFError
        if said[:1] != "T" or not thread:
            raise GuestError(
                f"QEMU's debugger interface said {said!r} where a CPU was to stop", hint="report this"
            )
        await self._ask(f"Hg{thread}", "E")
        values = struct.unpack_from(f"<{len(REGISTERS)}Q", bytes.fromhex(await self._ask("g", "E")))
        return Stop(thread, dict(zip(REGISTERS, values, strict=True)))

    async def _ask(self, packet: str, failed: str) -> str:
        self._send(packet)
        async with asyncio.timeout(_ANSWER_WITHIN_S):
            said = await self._receive()
            while packet != "?" and _STOPPED.match(
                said
            ):  # a machine that ran is stopped by our coming, and says so
                said = await self._receive()
        if said.startswith(failed) and len(said) == 3:
            raise GuestError(f"QEMU's debugger interface refused {packet[:40]!r}: {said}", hint="report this")
        return said

    def _send(self, packet: str) -> None:
        self._writer.write(f"${packet}#{sum(packet.encode()) & 0xFF:02x}".encode())

    async def _receive(self) -> str:
        """The next packet, past acknowledgements."""
        await self._reader.readuntil(b"$")
        packet = (await self._reader.readuntil(b"#"))[:-1]
        await self._reader.readexactly(2)
        self._writer.write(b"+")
        return packet.decode("latin-1")


@contextlib.asynccontextmanager
async def attached(path: Path) -> AsyncIterator[Debugger]:
    """Connect to the socket of QEMU's `-gdb`, which stops the machine.

    :raise GuestError: nobody listens there.
    """
    async with asyncio.timeout(_CONNECT_WITHIN_S):
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(path, limit=_LIMIT_BYTES)
                break
            except OSError:
                await asyncio.sleep(0.05)
    debugger = Debugger(reader, writer)
    try:
        await debugger.greet()
        yield debugger
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
