"""Other QEMUs beside the installed one: those of the distribution's other suites, unpacked into the cache.

Nothing is installed. Each program runs with its own suite's C library, through its dynamic loader, so a newer QEMU
runs on an older host and the other way round.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

from ringfence.errors import HostError
from ringfence.lab.locks import found_or_built
from ringfence.lab.packages import Archive, Package, check_space, check_suite, unpack
from ringfence.qemu.paths import cache_dir
from ringfence.units import MIB

PROGRAM = "qemu-system-x86_64"
PACKAGE = "qemu-system-x86"

_FORMAT = "1"
_NEEDED_BYTES = 700 * MIB
_LIBRARIES = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu")
_FIRMWARE = ("usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu")
_MODULES = "usr/lib/x86_64-linux-gnu/qemu"
_LOADER = "ld-linux-x86-64.so.2"
_UNUSED = ("usr/share/doc", "usr/share/locale", "usr/share/man", "usr/share/icons")


def ensure_qemu(suite: str, say: Callable[[str], None]) -> Path:
    """Find the QEMU of `suite` in the cache, or fetch it, 40 to 50 MB. Blocks; safe to interrupt and to run twice.

    What was fetched stays in use when the suite gets a newer one, until `cache_dir() / "lab" / "qemu"` is removed.

    :param suite: of the host's own distribution, such as `trixie`.
    :param say: takes one line before each long step.
    :return: an executable, called as QEMU is; its `--version` tells which one it is.
    :raise UsageError: no suite can be called so.
    :raise HostError: no apt, no network, no such suite on the mirror, or no room. The cache is as before.
    """
    check_suite(suite)
    base = cache_dir() / "lab" / "qemu"

    def build() -> Path:
        check_space(base, _NEEDED_BYTES)
        return _build(base, suite, say)

    return found_or_built(
        base / "lock",
        lambda: _find(base, suite),
        build,
        say,
        doing="fetches a QEMU",
        cannot=f"unpack the QEMU of {suite}",
    )


def _find(base: Path, suite: str) -> Path | None:
    """The newest one of this suite. A directory with a suite and a key for a name is complete."""
    found = list(base.glob(f"{suite}-{_FORMAT}-*/{PROGRAM}"))
    return max(found, key=lambda path: path.stat().st_mtime) if found else None


def _build(base: Path, suite: str, say: Callable[[str], None]) -> Path:
    for left in base.glob("build-*"):  # we hold the lock, so whoever made it was interrupted
        shutil.rmtree(left, ignore_errors=True)
    work = base / f"build-{os.getpid()}"
    try:
        packages = _fetch(work, suite, say)
        final = base / f"{suite}-{_FORMAT}-{_key(packages)}"
        done = work / "done"
        wrapper = done / PROGRAM
        wrapper.write_text(_wrapper(done / "root", final / "root"))
        wrapper.chmod(0o755)
        shutil.rmtree(final, ignore_errors=True)
        done.rename(final)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return final / PROGRAM


def _fetch(work: Path, suite: str, say: Callable[[str], None]) -> tuple[Package, ...]:
    """Fetch and unpack into `work/done/root`; gives what was unpacked."""
    for name in ("apt", "done"):
        (work / name).mkdir(parents=True)
    archive = Archive(work / "apt", suite)
    say(f"fetching the lists of packages of {suite}")
    archive.refresh()
    packages = archive.closure((PACKAGE,))
    size_bytes = archive.size_bytes(packages)
    version = next((package.version for package in packages if package.name == PACKAGE), "")
    say(f"fetching QEMU {version}: {len(packages)} packages, {size_bytes // 10**6} MB")
    root = work / "done" / "root"
    unpack(archive.download(packages), root)
    for name in _UNUSED:
        shutil.rmtree(root / name, ignore_errors=True)
    return packages


def _key(packages: tuple[Package, ...]) -> str:
    return hashlib.sha256("\n".join(sorted(map(str, packages))).encode()).hexdigest()[:10]


def _wrapper(root: Path, final: Path) -> str:
    """A script that runs the QEMU below `root` once that is called `final`.

    :raise HostError: the packages hold no loader, or no QEMU.
    """
    loader = next((path for path in _LIBRARIES if (root / path / _LOADER).exists()), None)
    program = f"usr/bin/{PROGRAM}"
    if loader is None or not (root / program).exists():
        raise HostError(
            f"the packages of {PACKAGE} hold no {PROGRAM} for x86-64", path=str(root), hint="report this"
        )
    libraries = ":".join(str(final / path) for path in _LIBRARIES)
    firmware = [word for path in _FIRMWARE for word in ("-L", str(final / path))]
    words = [str(final / loader / _LOADER), "--library-path", libraries, str(final / program), *firmware]
    modules = shlex.quote(str(final / _MODULES))
    return f'#!/bin/sh\nQEMU_MODULE_DIR={modules} exec {shlex.join(words)} "$@"\n'
