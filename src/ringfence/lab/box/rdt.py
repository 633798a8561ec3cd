"""Resource Director Technology for a box: the leaves of CPUID and the MSRs that no QEMU has, by its debugger.

The kernel in the box is as Debian made it. With CONFIG_PARAVIRT_XXL it asks for each CPUID leaf through one
function, and for MSRs through two; there a breakpoint lets us answer in the processor's place. TCG ignores writes
to MSRs that it does not know, so the kernel's resctrl runs whole, and what it programs there is noted.

Intel SDM vol. 3B, chapter 18.18 and 18.19; kernel Documentation/arch/x86/resctrl.rst.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ringfence.lab.box.gdb import Debugger, Stop, attached

CPU = "Icelake-Server,level=0x16,-hypervisor"
"""A model without an erratum that has the kernel leave RDT alone; without `hypervisor` it asks for less."""

SMP = "4,sockets=2,cores=2,threads=1"
"""Two sockets, so two domains of L3."""

SYMBOLS = ("native_cpuid", "native_read_msr", "native_write_msr", "run_init_process")

QM_EVTSEL, QM_CTR, PQR_ASSOC, L3_MASK, MBA_DELAY = 0xC8D, 0xC8E, 0xC8F, 0xC90, 0xD50
_MASKS = range(L3_MASK, L3_MASK + 0x100)

_FEATURE_BITS = 1 << 12 | 1 << 15  # CPUID 7.0 EBX: RDT monitoring, RDT allocation
_OCCUPANCY, _TOTAL, _LOCAL = 1, 2, 3
_NOPS = {b"\xf3\x0f\x1e\xfa": 4, b"\x0f\x1f\x44\x00": 5}  # endbr64; what ftrace leaves at a function's entry

Registers = tuple[int, int, int, int]
"""EAX, EBX, ECX and EDX."""


class Rdt(NamedTuple):
    """What the processor shall have.

    :param l3_ways: bits of a cache mask; the last two are shared with devices.
    :param mba_closids: 0 for a processor without bandwidth allocation.
    """

    l3_ways: int = 11
    l3_closids: int = 16
    l2_ways: int = 0
    l2_closids: int = 8
    cdp: bool = True
    mba_closids: int = 8
    rmids: int = 64

    def answer(self, leaf: int, subleaf: int) -> Registers | None:
        """What CPUID gives for a leaf of RDT, None for any other leaf."""
        if leaf == 0x10:
            return self._allocation(subleaf)
        if leaf == 0xF:
            return self._monitoring(subleaf)
        return None

    def _allocation(self, subleaf: int) -> Registers:
        if subleaf == 0:
            return (0, bool(self.l3_ways) << 1 | bool(self.l2_ways) << 2 | bool(self.mba_closids) << 3, 0, 0)
        if subleaf == 1 and self.l3_ways:
            return (self.l3_ways - 1, 0b11 << self.l3_ways - 2, self.cdp << 2, self.l3_closids - 1)
        if subleaf == 2 and self.l2_ways:
            return (self.l2_ways - 1, 0, 0, self.l2_closids - 1)
        if subleaf == 3 and self.mba_closids:
            return (90 - 1, 0, 1 << 2, self.mba_closids - 1)  # at most 90 % delay, linear
        return (0, 0, 0, 0)

    def _monitoring(self, subleaf: int) -> Registers:
        if subleaf == 0:
            return (0, self.rmids - 1, 0, 1 << 1)
        if subleaf == 1:
            return (0, 64 * 1024, self.rmids - 1, 0b111)
        return (0, 0, 0, 0)


class Boot(NamedTuple):
    """What was answered while the kernel started: stops in all, and answers of ours."""

    stops: int
    answers: int


async def answer_until_userspace(gdb: Path, symbols: dict[str, int], rdt: Rdt) -> Boot:
    """Attach to a machine whose CPUs wait, answer its CPUID, and let go when the kernel starts its first process.

    :param gdb: the socket of QEMU's `-gdb`.
    :param symbols: the addresses of `SYMBOLS`.
    :raise GuestError: QEMU or the kernel behaves as none was seen to.
    """
    cpuid, end = symbols["native_cpuid"], symbols["run_init_process"]
    stops = answers = 0
    features: Registers | None = None
    async with attached(gdb) as debugger:
        for address in (cpuid, end):
            await debugger.set_breakpoint(address)
        entry = b""
        while (stop := await debugger.resume()).registers["rip"] != end:
            stops += 1
            entry = entry or await debugger.read_memory(cpuid, 4)
            leaf, subleaf = await _asked(debugger, stop)
            found = rdt.answer(leaf, subleaf)
            if (leaf, subleaf) == (7, 0):
                if features is None:
                    features = await _features(debugger, stop, cpuid)
                    answers += 1
                    continue
                found = features
            if found is None:
                await _go_on(debugger, stop, entry)
                continue
            answers += 1
            await _give(debugger, stop, found)
            await debugger.skip(stop)
        await debugger.detach()
    return Boot(stops, answers)


async def record_msrs(
    gdb: Path,
    symbols: dict[str, int],
    note: Callable[[int, int], None],
    watching: asyncio.Event,
    *,
    now: Callable[[], float] = time.monotonic,
) -> None:
    """Attach to a running machine, note what it writes to the MSRs of RDT, answer its monitoring, until it ends.

    :param note: takes the MSR and the value, in the order of the writes, before the kernel goes on.
    :param watching: set once no write can be missed.
    """
    read, write = symbols["native_read_msr"], symbols["native_write_msr"]
    counters = Counters(now)
    async with attached(gdb) as debugger:
        entries = {}
        for address in (read, write):
            await debugger.set_breakpoint(address)
            entries[address] = await debugger.read_memory(address, 4)
        watching.set()
        try:
            while True:
                stop = await debugger.resume()
                registers = stop.registers
                msr, address = registers["rdi"] & 0xFFFFFFFF, registers["rip"]
                if address == read and msr == QM_CTR:
                    await debugger.skip(stop, counters.read(stop.thread))
                    continue
                if address == write:
                    low, high = registers["rsi"] & 0xFFFFFFFF, registers["rdx"] & 0xFFFFFFFF
                    if msr == QM_EVTSEL:
                        counters.select(stop.thread, low, high)
                    elif msr in _MASKS:
                        note(msr, high << 32 | low)
                await _go_on(debugger, stop, entries[address])
        except (EOFError, OSError):
            return  # QEMU has ended


class Counters:
    """The monitoring counters of a processor: occupancy by RMID, bytes that grow by the clock."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._began = now()
        self._selected: dict[str, tuple[int, int]] = {}

    def select(self, thread: str, event: int, rmid: int) -> None:
        """What a CPU wrote to QM_EVTSEL."""
        self._selected[thread] = event & 0xFF, rmid

    def read(self, thread: str) -> int:
        """What the CPU reads from QM_CTR, in the processor's units."""
        event, rmid = self._selected.get(thread, (0, 0))
        if event == _OCCUPANCY:
            return 10 + rmid
        per_s = {_TOTAL: 1000, _LOCAL: 400}.get(event, 0)
        return int((self._now() - self._began) * per_s)


async def _asked(debugger: Debugger, stop: Stop) -> tuple[int, int]:
    """The leaf and subleaf: native_cpuid(u32 *eax, u32 *ebx, u32 *ecx, u32 *edx) takes them in *eax and *ecx."""
    (leaf,) = struct.unpack("<I", await debugger.read_memory(stop.registers["rdi"], 4))
    (subleaf,) = struct.unpack("<I", await debugger.read_memory(stop.registers["rdx"], 4))
    return leaf, subleaf


async def _give(debugger: Debugger, stop: Stop, values: Registers) -> None:
    for pointer, value in zip(("rdi", "rsi", "rdx", "rcx"), values, strict=True):
        await debugger.write_memory(stop.registers[pointer], struct.pack("<I", value))


async def _features(debugger: Debugger, stop: Stop, cpuid: int) -> Registers:
    """Let the real leaf 7 be had once, and add RDT to it; all CPUs have the same."""
    await debugger.finish(stop, cpuid)
    pointers = [stop.registers[name] for name in ("rdi", "rsi", "rdx", "rcx")]
    eax, ebx, ecx, edx = [struct.unpack("<I", await debugger.read_memory(at, 4))[0] for at in pointers]
    await debugger.write_memory(pointers[1], struct.pack("<I", ebx | _FEATURE_BITS))
    return (eax, ebx | _FEATURE_BITS, ecx, edx)


async def _go_on(debugger: Debugger, stop: Stop, entry: bytes) -> None:
    """Pass the breakpoint: behind an instruction that does nothing, or by running it."""
    here = stop.registers["rip"]
    if entry in _NOPS:
        await debugger.write_register("rip", here + _NOPS[entry])
    else:
        await debugger.step(stop, here)
