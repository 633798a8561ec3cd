"""Runs a command in a box, from a state that was saved once."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ringfence.errors import HostError, UsageError
from ringfence.lab.box.image import ensure_box_image
from ringfence.lab.box.machine import Hardware, Start, started
from ringfence.lab.locks import locked
from ringfence.qemu import accel, launch
from ringfence.qemu.paths import cache_dir

SYSTEMD = "systemd"
SIMPLE = "simple"
INITS = {SYSTEMD: "", SIMPLE: "/usr/lib/ringfence-box/init"}

_FORMAT = "1"
_STATES_KEPT = 3
_PREPARE_TIMEOUT_S = 600.0


class BoxSpec(NamedTuple):
    """What the box shall be.

    :param suite: of the host's distribution, such as `bookworm` (Linux 6.1, systemd 252) or `trixie` (6.12, 257).
    :param init: `systemd`, or `simple` for a machine without it.
    :param disks: images, read-only; the first is mounted on /opt.
    :param prepare: a shell script that runs once, before the state is saved.
    :param accel: `auto`, or a value for QEMU's `-accel`.
    """

    suite: str = "bookworm"
    init: str = SYSTEMD
    disks: Sequence[Path] = ()
    prepare: str = "true"
    accel: str = accel.AUTO


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
    qemu = launch.installed_qemu()
    chosen = await asyncio.to_thread(accel.choose, qemu, spec.accel)
    image = await asyncio.to_thread(ensure_box_image, spec.suite, say)
    hardware = Hardware(qemu, _threads(chosen.name), image, INITS[spec.init], tuple(spec.disks))
    saved = await asyncio.to_thread(_ensure_saved, hardware, spec, output, say)
    cache = cache_dir() / "lab" / "box" / "cache" / image.key
    cache.mkdir(parents=True, exist_ok=True)
    start = Start(saved / _ROOT, share, cache, state=saved / _STATE)
    async with started(hardware, start, output) as machine:
        return await machine.run(script, timeout_s)


_ROOT = "root.qcow2"
_STATE = "state"


def _threads(accelerator: str) -> str:
    return "tcg,thread=multi" if accelerator == accel.TCG else accelerator


def _ensure_saved(
    hardware: Hardware, spec: BoxSpec, output: Callable[[bytes], None], say: Callable[[str], None]
) -> Path:
    """Find the saved state, or boot once and save it. Blocks."""
    base = cache_dir() / "lab" / "box" / "saved"
    base.mkdir(parents=True, exist_ok=True)
    label = f"{spec.suite}-{spec.init}"
    final = base / f"{label}-{_key(hardware, spec.prepare)}"
    if not final.exists():
        with locked(base / f"lock-{label}", say, f"boots a box of {label}"):
            if not final.exists():
                _save(hardware, spec, final, output, say)
                _forget(base, label)
    with contextlib.suppress(OSError):
        (final / _STATE).touch()
    return final


def _key(hardware: Hardware, prepare: str) -> str:
    """Changes with all that a saved state hangs on."""
    program = Path(shutil.which(hardware.qemu) or hardware.qemu)
    parts: list[object] = [_FORMAT, hardware._replace(image=hardware.image._replace(disk=Path())), prepare]
    parts += [path.stat().st_mtime_ns for path in (program.resolve(), *hardware.disks)]
    return hashlib.sha256("\n".join(map(repr, parts)).encode()).hexdigest()[:10]


def _save(
    hardware: Hardware,
    spec: BoxSpec,
    final: Path,
    output: Callable[[bytes], None],
    say: Callable[[str], None],
) -> None:
    work = Path(tempfile.mkdtemp(prefix="build-", dir=final.parent))
    try:
        _qemu_img("create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(hardware.image.disk), str(work / _ROOT))
        share = work / "share"
        share.mkdir()
        say(f"booting the box of {spec.suite} with the {spec.init} init, to save its state")

        async def boot() -> None:
            start = Start(work / _ROOT, share, share, keep=True)
            async with started(hardware, start, output) as machine:
                say(f"its kernel is {await machine.ready()}")
                await machine.prepare(spec.prepare, _PREPARE_TIMEOUT_S)
                await machine.save(work / _STATE)

        asyncio.run(boot())
        share.rmdir()
        work.rename(final)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _forget(base: Path, label: str) -> None:
    """Keep the states used last."""
    found = sorted(base.glob(f"{label}-*"), key=lambda path: -(path / _STATE).stat().st_mtime)
    for old in found[_STATES_KEPT:]:
        shutil.rmtree(old, ignore_errors=True)


def _qemu_img(*arguments: str) -> None:
    try:
        subprocess.run(("qemu-img", *arguments), capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise HostError("qemu-img is not installed", path="qemu-img", hint="apt install qemu-utils") from error
    except subprocess.CalledProcessError as error:
        raise HostError(f"qemu-img failed: {error.stderr.strip()}", path="qemu-img") from error
