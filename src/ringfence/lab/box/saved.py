"""Boxes that were booted once: their disks and states in the cache, from which later ones go on."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ringfence.errors import HostError
from ringfence.lab.box import rdt
from ringfence.lab.box.machine import Hardware, Machine, Start, beside, started
from ringfence.lab.locks import locked
from ringfence.qemu.paths import cache_dir

_FORMAT = "2"
_KEPT = 3
_PREPARE_TIMEOUT_S = 600.0
_ROOT = "root.qcow2"
_STATE = "state"


class Recipe(NamedTuple):
    """How a box is brought to where its state is saved.

    :param label: for people, and the unit by which old ones are forgotten.
    :param prepare: a shell script that runs in it before.
    :param processor: RDT that its processor shall have, with the addresses of `rdt.SYMBOLS` in its kernel.
    """

    label: str
    hardware: Hardware
    prepare: str
    processor: rdt.Rdt | None = None
    symbols: dict[str, int] | None = None


def ensure_saved(recipe: Recipe, output: Callable[[bytes], None], say: Callable[[str], None]) -> tuple[Path, Path]:
    """Find the saved disk and state, or boot once and save them; gives both. Blocks.

    :raise GuestError: the box does not come up, or `prepare` fails.
    :raise HostError: QEMU cannot be run, or no room.
    """
    base = cache_dir() / "lab" / "box" / "saved"
    base.mkdir(parents=True, exist_ok=True)
    final = base / f"{recipe.label}-{_key(recipe)}"
    if not final.exists():
        with locked(base / f"lock-{recipe.label}", say, f"boots a box of {recipe.label}"):
            if not final.exists():
                _save(recipe, final, output, say)
                _forget(base, recipe.label)
    with contextlib.suppress(OSError):
        (final / _STATE).touch()
    return final / _ROOT, final / _STATE


def _key(recipe: Recipe) -> str:
    """Changes with all that a saved state hangs on."""
    hardware = recipe.hardware
    program = Path(shutil.which(hardware.qemu) or hardware.qemu)
    parts: list[object] = [_FORMAT, *recipe]
    parts += [path.stat().st_mtime_ns for path in (program.resolve(), *hardware.disks)]
    return hashlib.sha256("\n".join(map(repr, parts)).encode()).hexdigest()[:10]


def _save(recipe: Recipe, final: Path, output: Callable[[bytes], None], say: Callable[[str], None]) -> None:
    work = Path(tempfile.mkdtemp(prefix="build-", dir=final.parent))
    try:
        disk = recipe.hardware.image.disk
        _qemu_img("create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(disk), str(work / _ROOT))
        say(f"booting the box {recipe.label}, to save its state")
        asyncio.run(_boot(recipe, work, output, say))
        work.rename(final)
    finally:
        shutil.rmtree(work, ignore_errors=True)


async def _boot(recipe: Recipe, work: Path, output: Callable[[bytes], None], say: Callable[[str], None]) -> None:
    start = Start(work / _ROOT, work, work, keep=True, halted=recipe.processor is not None)
    async with started(recipe.hardware, start, output) as machine:
        up = machine.ready()
        if recipe.processor is not None:
            up = beside(up, _answer(machine, recipe.processor, recipe.symbols or {}, say))
        say(f"its kernel is {await up}")
        await machine.prepare(recipe.prepare, _PREPARE_TIMEOUT_S)
        await machine.save(work / _STATE)


async def _answer(
    machine: Machine, processor: rdt.Rdt, symbols: dict[str, int], say: Callable[[str], None]
) -> None:
    boot = await rdt.answer_until_userspace(machine.gdb, symbols, processor)
    say(f"its kernel asked for {boot.stops} leaves of CPUID; {boot.answers} of them were answered with RDT")


def _forget(base: Path, label: str) -> None:
    """Keep the states used last."""
    found = sorted(base.glob(f"{label}-*/{_STATE}"), key=lambda path: -path.stat().st_mtime)
    for old in found[_KEPT:]:
        shutil.rmtree(old.parent, ignore_errors=True)


def _qemu_img(*arguments: str) -> None:
    try:
        subprocess.run(("qemu-img", *arguments), capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise HostError("qemu-img is not installed", path="qemu-img", hint="apt install qemu-utils") from error
    except subprocess.CalledProcessError as error:
        raise HostError(f"qemu-img failed: {error.stderr.strip()}", path="qemu-img") from error
