"""Which accelerator to run guests with: KVM where it really runs guest code, else TCG.

That /dev/kvm exists and can be opened says little: in a nested or paravirtual host it may hang every guest. So a
few instructions are run under it, once, and the result is remembered.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NamedTuple

from ringfence.qemu.launch import missing_qemu
from ringfence.qemu.paths import cache_dir

AUTO = "auto"
KVM = "kvm"
TCG = "tcg"

PROBE_TIMEOUT_S = 5.0
"""TCG needs 0.1 s for the probe."""

_PASSED = 85
_PORT = "0xf4"
_DISK_BYTES = 1024 * 1024  # the firmware reads none that is smaller than a cylinder of 504 KiB
_CODE = bytes.fromhex(
    "fafc31c08ed88ec08ed0bc007ce4920c02e69231c0bf0010b90018f3abc70600100720c70600200730c70600308700c7"
    "060830870066b8001000000f22d80f20e06683c8200f22e066b9800000c00f32660d010100000f300f0116087d0f20c0"
    "660d010000800f22c0ea6e7c0800b8100000008ed88ec08ed0bf00500000be00502000c707cdab3412813ecdab341275"
    "4cc7042508300000870020000f013ec70655000000813fcdab34127530b9810000c031c0ba080010000f30b9820000c0"
    "b8d97c000031d20f30b9d77c000041bb02000000480f070f05b02ae6f4f4ebfd0000000000000000ffff0000009aaf00"
    "ffff00000092cf00ffff000000f2cf00ffff000000faaf002700e07c"
)
BOOT_SECTOR = _CODE.ljust(510, b"\0") + b"\x55\xaa"
"""`probe.s`, assembled."""


_HANGS = "the guest hangs"


class Kvm(NamedTuple):
    """Whether KVM runs guests here.

    :param reason: one clause, for people.
    """

    works: bool
    reason: str


class Accel(NamedTuple):
    """A choice, and why.

    :param name: for QEMU's `-accel`.
    :param reason: one clause, for people.
    """

    name: str
    reason: str


def choose(qemu: str, wanted: str = AUTO) -> Accel:
    """The accelerator for this QEMU on this host; errors and time as in `probe_kvm`.

    :param wanted: `auto`, or what to use without asking (`tcg,thread=single`).
    """
    if wanted != AUTO:
        return Accel(wanted, "as asked")
    kvm = probe_kvm(qemu)
    return Accel(KVM if kvm.works else TCG, kvm.reason)


def probe_kvm(qemu: str, *, device: Path = Path("/dev/kvm")) -> Kvm:
    """Find out, or remember, whether KVM runs guests here. Blocks.

    The first time this may take `PROBE_TIMEOUT_S`; the result stays until QEMU, the kernel or the device changes.

    :param device: what must be there, readable and writable, before KVM is tried at all.
    :raise HostError: the program cannot be run.
    """
    if not device.exists():
        return Kvm(False, f"there is no {device}")
    if not os.access(device, os.R_OK | os.W_OK):
        return Kvm(False, f"this user may not open {device}")
    key = _identity(qemu, device)
    verdicts = _remembered()
    if key not in verdicts:
        why = probe(qemu, KVM)
        if why == _HANGS:
            # The host may just have been busy: that is asked again the next time.
            return Kvm(False, f"KVM does not run guests here: {why}")
        verdicts[key] = why
        _remember(verdicts)
    why = verdicts[key]
    return Kvm(False, f"KVM does not run guests here: {why}") if why else Kvm(True, "KVM runs guests here")


def probe(qemu: str, accel: str, *, timeout_s: float = PROBE_TIMEOUT_S) -> str:
    """Run guest code under `accel`; gives what went wrong, empty when nothing did. Blocks.

    :raise HostError: the program cannot be run.
    """
    import subprocess
    import tempfile

    with tempfile.TemporaryDirectory(prefix="ringfence-") as directory:
        disk = Path(directory) / "disk"
        disk.write_bytes(BOOT_SECTOR.ljust(_DISK_BYTES, b"\0"))
        line = (
            *(qemu, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-machine", "q35", "-accel", accel, "-cpu", "max", "-m", "32"),
            *("-drive", f"if=none,id=disk,format=raw,file={disk}", "-device", "ide-hd,drive=disk,bootindex=0"),
            *("-device", f"isa-debug-exit,iobase={_PORT},iosize=1"),
        )
        try:
            done = subprocess.run(
                line, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired:
            return _HANGS
        except OSError as error:
            raise missing_qemu(qemu, error) from error
    if done.returncode == _PASSED:
        return ""
    lines = done.stderr.strip().splitlines()
    return lines[0].removeprefix(f"{Path(qemu).name}: ") if lines else f"QEMU ended with {done.returncode}"


def _identity(qemu: str, device: Path) -> str:
    """Changes with all that the result hangs on: the program, the kernel and its start, the device, the user."""
    program = Path(shutil.which(qemu) or qemu)
    parts: list[object] = [program, os.uname().release, os.getuid(), device.stat().st_rdev, device.stat().st_ino]
    for path in (program, Path("/proc/sys/kernel/random/boot_id")):
        try:
            parts.append(path.stat().st_mtime_ns if path == program else path.read_text().strip())
        except OSError:
            parts.append("")
    return "|".join(map(str, parts))


def _remembered() -> dict[str, str]:
    """Results so far: identity to what went wrong. Anything unreadable counts as nothing."""
    import json

    try:
        found = json.loads((cache_dir() / "accel.json").read_text())
    except (OSError, ValueError):
        return {}
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def _remember(verdicts: dict[str, str]) -> None:
    """Best effort: without a cache the probe runs again next time."""
    import contextlib
    import json

    path = cache_dir() / "accel.json"
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(verdicts, indent=1) + "\n")
        draft.replace(path)
