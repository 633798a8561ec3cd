"""Runs a command in a box, from a state that was saved once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from ringfence.errors import GuestError, UsageError
from ringfence.lab.box import rdt
from ringfence.lab.box.image import BoxImage, ensure_box_image
from ringfence.lab.box.machine import Hardware, Machine, Start, beside, started
from ringfence.lab.box.saved import Recipe, ensure_saved
from ringfence.qemu import accel, launch
from ringfence.qemu.paths import cache_dir

SYSTEMD = "systemd"
SIMPLE = "simple"
INITS = {SYSTEMD: "", SIMPLE: "/usr/lib/ringfence-box/init"}

MSR_LOG = "msr.log"
"""In the share of a box with RDT: each write to its MSRs, as `0xc91 0x3`, there before the kernel goes on."""

_SYMBOLS_WITHIN_S = 60.0


class BoxSpec(NamedTuple):
    """What the box shall be.

    :param suite: of the host's distribution, such as `bookworm` (Linux 6.1, systemd 252) or `trixie` (6.12, 257).
    :param init: `systemd`, or `simple` for a machine without it.
    :param disks: images, read-only; the first is mounted on /opt.
    :param prepare: a shell script that runs once, before the state is saved.
    :param accel: `auto`, or a value for QEMU's `-accel`.
    :param processor: RDT that its processor shall have, for the kernel's resctrl; under TCG only.
    """

    suite: str = "bookworm"
    init: str = SYSTEMD
    disks: Sequence[Path] = ()
    prepare: str = "true"
    accel: str = accel.AUTO
    processor: rdt.Rdt | None = None


async def run(
    spec: BoxSpec,
    script: str,
    *,
    share: Path,
    output: Callable[[bytes], None],
    say: Callable[[str], None],
    timeout_s: float = 1800.0,
) -> int:
    """Run a shell script in a box of its own; gives the exit status. What it writes to disk is gone afterwards.

    The first time the box is made and booted, which takes minutes; afterwards it goes on from there in seconds.

    :param share: a directory of the host, the box's /share, writable. /cache is kept between runs.
    :param output: takes what the script writes.
    :param say: takes one line before each long step.
    :raise UsageError: no suite or no init of that name.
    :raise HostError: the box cannot be made or QEMU cannot be run.
    :raise GuestError: the box does not come up, ends early, or the script takes longer than `timeout_s`.
    """
    if spec.init not in INITS:
        raise UsageError(f"no init is called {spec.init!r}", hint=f"one of {', '.join(INITS)}")
    image = await asyncio.to_thread(ensure_box_image, spec.suite, say)
    recipe = await _recipe(spec, image, say)
    root, state = await asyncio.to_thread(ensure_saved, recipe, output, say)
    cache = cache_dir() / "lab" / "box" / "cache" / image.key
    cache.mkdir(parents=True, exist_ok=True)
    async with started(recipe.hardware, Start(root, share, cache, state=state), output) as machine:
        if recipe.symbols is None:
            return await machine.run(script, timeout_s)
        return await _run_watched(machine, recipe.symbols, script, share / MSR_LOG, timeout_s)


async def _recipe(spec: BoxSpec, image: BoxImage, say: Callable[[str], None]) -> Recipe:
    qemu = launch.installed_qemu()
    chosen = accel.TCG if spec.processor else (await asyncio.to_thread(accel.choose, qemu, spec.accel)).name
    threads = f"{accel.TCG},thread=multi" if chosen == accel.TCG else chosen
    hardware = Hardware(qemu, threads, image, INITS[spec.init], tuple(spec.disks))
    label = f"{spec.suite}-{spec.init}"
    if spec.processor is None:
        return Recipe(label, hardware, spec.prepare)
    hardware = hardware._replace(cpu=rdt.CPU, smp=rdt.SMP, gdb=True)
    symbols = await _symbols(spec, image, say)
    return Recipe(f"{label}-rdt", hardware, spec.prepare, spec.processor, symbols)


async def _symbols(spec: BoxSpec, image: BoxImage, say: Callable[[str], None]) -> dict[str, int]:
    """Where the kernel's functions are: without KASLR always in the same place, so one box without RDT tells.

    :raise GuestError: its kernel has not all of them.
    """
    known = cache_dir() / "lab" / "box" / "cache" / f"{image.key}.symbols"
    if not known.exists():
        said = bytearray()
        script = f"grep -wE '{'|'.join(rdt.SYMBOLS)}' /proc/kallsyms"
        plain = BoxSpec(spec.suite, SIMPLE, spec.disks, spec.prepare)
        with TemporaryDirectory(prefix="ringfence-") as share:
            await run(plain, script, share=Path(share), output=said.extend, say=say, timeout_s=_SYMBOLS_WITHIN_S)
        rows = [line.split() for line in said.decode(errors="replace").splitlines()]
        found = {row[2]: int(row[0], 16) for row in rows if len(row) == 3 and row[2] in rdt.SYMBOLS}
        missing = [name for name in rdt.SYMBOLS if name not in found]
        if missing:
            raise GuestError(
                f"the kernel of {spec.suite} has no {', '.join(missing)}, by which RDT is brought in",
                hint="use another suite",
            )
        known.write_text(json.dumps(found))
    loaded = json.loads(known.read_text())
    return {str(name): int(address) for name, address in loaded.items()}


async def _run_watched(machine: Machine, symbols: dict[str, int], script: str, log: Path, timeout_s: float) -> int:
    """As `Machine.run`, with what the kernel programs written to `log`."""
    await machine.running()
    watching = asyncio.Event()
    with log.open("w", buffering=1) as file:

        def note(msr: int, value: int) -> None:
            file.write(f"{msr:#x} {value:#x}\n")

        async def run_then() -> int:
            await watching.wait()
            return await machine.run(script, timeout_s)

        return await beside(run_then(), rdt.record_msrs(machine.gdb, symbols, note, watching))
