"""A disk of Python packages for a box, fetched by pip for the box's Python: no network is needed inside."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from ringfence.errors import HostError
from ringfence.lab import rootfs
from ringfence.lab.locks import locked
from ringfence.qemu.paths import cache_dir

_FORMAT = "1"
_KEPT = 4


def ensure_wheels(python: str, requirements: Sequence[str], say: Callable[[str], None]) -> Path:
    """Find or make the disk with `requirements` and all they need. Blocks; safe to interrupt.

    Its root is to be put on PYTHONPATH. What was fetched stays in use when newer versions appear, until the
    requirements change or the disk is removed from the cache.

    :param python: the box's version, such as `3.11`.
    :raise HostError: pip is not there, or cannot have them as wheels; no room.
    """
    base = cache_dir() / "lab" / "box" / "wheels"
    base.mkdir(parents=True, exist_ok=True)
    parts = "\n".join((_FORMAT, python, *sorted(requirements)))
    disk = base / f"{python}-{hashlib.sha256(parts.encode()).hexdigest()[:10]}.ext4"
    if not disk.exists():
        with locked(base / "lock", say, "fetches Python packages for a box"):
            if not disk.exists():
                say(f"fetching Python packages for the box's Python {python}")
                _make(python, requirements, disk)
    disk.with_suffix(".used").touch()
    for used in sorted(base.glob("*.used"), key=lambda path: -path.stat().st_mtime)[_KEPT:]:
        used.with_suffix(".ext4").unlink(missing_ok=True)
        used.unlink(missing_ok=True)
    return disk


def _make(python: str, requirements: Sequence[str], disk: Path) -> None:
    work = Path(tempfile.mkdtemp(prefix="build-", dir=disk.parent))
    try:
        packages = work / "packages"
        line = pip_line(python, requirements, packages)
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = [text for text in done.stderr.splitlines() if text.strip()] or ["it says nothing"]
            raise HostError(
                f"pip could not fetch Python packages for Python {python}: {said[-1]}",
                path=sys.executable,
                hint="check the network, and pip's own settings behind a proxy or a mirror",
            )
        rootfs.write_ext4(packages, work / "disk.ext4")
        os.replace(work / "disk.ext4", disk)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def pip_line(python: str, requirements: Sequence[str], into: Path) -> list[str]:
    """Wheels only, for a machine that is not this one: any Linux with a C library as old as Debian 12's."""
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in (34, 31, 28, 27, 26, 24, 17, 12, 5)]
    platforms += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64", "any"]
    return [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"),
        *("--target", str(into), "--only-binary=:all:", "--implementation", "cp", "--python-version", python),
        *(word for platform in platforms for word in ("--platform", platform)),
        *requirements,
    ]
