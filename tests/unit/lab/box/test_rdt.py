"""RDT brought into a machine, against a stand-in for QEMU's debugger interface that plays a script of stops."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ringfence.errors import GuestError
from ringfence.lab.box import gdb, rdt

CPUID, READ, WRITE, END = 0x1000, 0x2000, 0x3000, 0x4000
SYMBOLS = {"native_cpuid": CPUID, "native_read_msr": READ, "native_write_msr": WRITE, "run_init_process": END}
STACK, BACK, EAX, EBX, ECX, EDX = 0x8000, 0x5000, 0x9000, 0x9004, 0x9008, 0x900C
REAL = (7, 0x10, 8, 9)


class Stub:
    """A machine with some memory and one CPU, which meets breakpoints as `stops` say: registers to be set first.

    A stop whose `rip` is the entry of CPUID has the memory at EAX and ECX hold `leaf` and `subleaf`.
    """

    def __init__(self, stops: list[dict[str, int]], entry: bytes = b"\x0f\x1f\x44\x00") -> None:
        self.stops = iter(stops)
        self.memory = bytearray(0x10000)
        for address in (CPUID, READ, WRITE):
            self.memory[address : address + 4] = entry
        self.put(STACK, BACK, 8)
        self.registers = dict.fromkeys(gdb.REGISTERS, 0)
        self.breakpoints: set[int] = set()
        self.returned: list[tuple[int, ...]] = []
        self.stepped = 0

    def put(self, address: int, value: int, size: int = 4) -> None:
        self.memory[address : address + size] = value.to_bytes(size, "little")

    def get(self, address: int) -> int:
        return int.from_bytes(self.memory[address : address + 4], "little")

    def outputs(self) -> tuple[int, ...]:
        return tuple(map(self.get, (EAX, EBX, ECX, EDX)))

    def run(self) -> str | None:
        if self.registers["rip"] == BACK:
            self.returned.append((self.registers["rax"], *self.outputs()))
        stop = next(self.stops, None)
        if stop is None:
            return None
        self.registers.update(rsp=STACK, rdi=EAX, rsi=EBX, rdx=ECX, rcx=EDX)
        if "leaf" in stop:
            self.put(EAX, stop["leaf"])
            self.put(ECX, stop["subleaf"])
        self.registers.update({name: value for name, value in stop.items() if name in self.registers})
        assert self.registers["rip"] in self.breakpoints
        return "T05thread:01;"

    def answer(self, packet: str) -> str | None:
        kind, rest = packet[0], packet[1:]
        if kind == "c":
            return self.run()
        if packet.startswith("vCont;s"):
            self.stepped += 1
            assert self.registers["rip"] not in self.breakpoints
            return "T05thread:01;"
        if packet.startswith("vCont;c"):  # the function's own code runs, to its end
            for address, value in zip((EAX, EBX, ECX, EDX), REAL, strict=True):
                self.put(address, value)
            self.registers.update(rip=BACK, rsp=STACK + 8)
            return "T05thread:01;"
        if kind in "zZ":
            address = int(rest.split(",")[1], 16)
            (self.breakpoints.add if kind == "Z" else self.breakpoints.remove)(address)
        elif kind == "g":
            return struct.pack("<17Q", *(self.registers[name] for name in gdb.REGISTERS)).hex()
        elif kind == "P":
            number, value = rest.split("=")
            name = gdb.REGISTERS[int(number, 16)]
            self.registers[name] = int.from_bytes(bytes.fromhex(value), "little")
        elif kind in "mM":
            where, _, data = rest.partition(":")
            address, size = (int(word, 16) for word in where.split(","))
            if address + size > len(self.memory):
                return "E14"
            if kind == "m":
                return self.memory[address : address + size].hex()
            self.memory[address : address + size] = bytes.fromhex(data)
        return "OK"

    @asynccontextmanager
    async def listening(self, path: Path) -> AsyncIterator[None]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.send(writer, "T02thread:01;")  # as a machine that ran says when the debugger comes
            try:
                while True:
                    await reader.readuntil(b"$")
                    packet = (await reader.readuntil(b"#"))[:-1].decode()
                    await reader.readexactly(2)
                    said = self.answer(packet)
                    if said is None:
                        break
                    writer.write(b"+")
                    self.send(writer, said)
            except asyncio.IncompleteReadError:
                pass
            finally:
                writer.close()
                await writer.wait_closed()
                closed.set()

        closed = asyncio.Event()
        async with await asyncio.start_unix_server(serve, path):
            yield
            await closed.wait()

    def send(self, writer: asyncio.StreamWriter, packet: str) -> None:
        writer.write(f"${packet}#{sum(packet.encode()) % 256:02x}".encode())


def cpuid(leaf: int, subleaf: int = 0) -> dict[str, int]:
    return {"rip": CPUID, "leaf": leaf, "subleaf": subleaf}


async def test_leaves_of_rdt_are_answered_and_the_others_run(tmp_path: Path) -> None:
    stub = Stub([cpuid(0x10, 1), cpuid(1), cpuid(7), cpuid(7), cpuid(7, 1), {"rip": END}])
    async with stub.listening(tmp_path / "gdb"):
        boot = await rdt.answer_until_userspace(tmp_path / "gdb", SYMBOLS, rdt.Rdt())
    assert boot == rdt.Boot(stops=5, answers=3)
    with_rdt = (7, 0x10 | 1 << 12 | 1 << 15, 8, 9)
    assert [outputs for _, *outputs in stub.returned] == [[10, 0x600, 4, 15], list(with_rdt), list(with_rdt)]
    assert stub.stepped == 0


async def test_an_entry_that_does_something_is_stepped_over(tmp_path: Path) -> None:
    stub = Stub([cpuid(1), cpuid(2), {"rip": END}], entry=b"\x53\x90\x90\x90")
    async with stub.listening(tmp_path / "gdb"):
        await rdt.answer_until_userspace(tmp_path / "gdb", SYMBOLS, rdt.Rdt())
    assert stub.stepped == 2
    assert CPUID in stub.breakpoints


async def test_what_is_programmed_is_noted_and_counters_are_answered(tmp_path: Path) -> None:
    def writes(msr: int, low: int, high: int = 0) -> dict[str, int]:
        return {"rip": WRITE, "rdi": msr, "rsi": low, "rdx": high}

    reads = {"rip": READ, "rdi": rdt.QM_CTR}
    total = [writes(rdt.QM_EVTSEL, 2, 5), reads]
    stub = Stub([writes(0xC91, 3), writes(0x10, 9), writes(rdt.QM_EVTSEL, 1, 5), reads, *total, writes(0xD51, 70)])
    noted: list[tuple[int, int]] = []
    watching = asyncio.Event()
    clock = iter([100.0, 102.5])
    async with stub.listening(tmp_path / "gdb"):
        await rdt.record_msrs(
            tmp_path / "gdb",
            SYMBOLS,
            lambda msr, value: noted.append((msr, value)),
            watching,
            now=lambda: next(clock, 102.5),
        )
    assert watching.is_set()
    assert noted == [(0xC91, 3), (0xD51, 70)]
    assert [value for value, *_ in stub.returned] == [15, 2500]


async def test_memory_that_is_not_there_is_told(tmp_path: Path) -> None:
    stub = Stub([])
    async with stub.listening(tmp_path / "gdb"), gdb.attached(tmp_path / "gdb") as debugger:
        assert await debugger.read_memory(STACK, 8) == BACK.to_bytes(8, "little")
        with pytest.raises(GuestError, match="refused"):
            await debugger.read_memory(0x20000, 4)


def test_a_processor_without_bandwidth_allocation_says_so() -> None:
    assert rdt.Rdt(mba_closids=0).answer(0x10, 0) == (0, 0b10, 0, 0)
    assert rdt.Rdt(mba_closids=0).answer(0x10, 3) == (0, 0, 0, 0)
    assert rdt.Rdt(l2_ways=8).answer(0x10, 2) == (7, 0, 0, 7)
    assert rdt.Rdt().answer(0xF, 0) == (0, 63, 0, 2)
    assert rdt.Rdt().answer(1, 0) is None
