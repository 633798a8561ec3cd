"""The disk of a box: made once for each suite from the distribution's packages, then found again in the cache."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ringfence.errors import HostError
from ringfence.lab import rootfs
from ringfence.lab.box import tree
from ringfence.lab.locks import found_or_built
from ringfence.lab.packages import Archive, Package, check_space, check_suite, unpack
from ringfence.qemu.paths import cache_dir
from ringfence.units import GIB, MIB

KERNEL = "linux-image-amd64"
"""The full kernel: the one for clouds has no 9p, by which a box gets files."""

PACKAGES = (
    *("base-files", "base-passwd", "bash", "dash", "coreutils", "tar", "gzip", "grep", "sed", "findutils", "mawk"),
    *(
        "diffutils",
        "debianutils",
        "hostname",
        "libc-bin",
        "ncurses-base",
        "login",
        "passwd",
        "mount",
        "util-linux",
    ),
    *("systemd", "systemd-sysv", "systemd-container", "libpam-systemd", "dbus", "udev", "kmod", "procps"),
    *("e2fsprogs", "iproute2", "iputils-ping", "ethtool", "iperf3", "fio", "stress-ng", "python3"),
    *("runc", "crun", "podman", "busybox-static", "intel-cmt-cat", "qemu-system-x86"),
)
SPARE_BYTES = 3 * GIB

_FORMAT = "1"
_NEEDED_BYTES = 4000 * MIB
_MANIFEST = "manifest.json"


class BoxImage(NamedTuple):
    """What a box boots from.

    :param disk: its root file system, not to be written to.
    :param python: the version of its Python, such as `3.11`.
    :param key: names the suite, the recipe and the versions of the packages; images with one key are the same.
    """

    kernel: Path
    initrd: Path
    disk: Path
    python: str
    key: str


def ensure_box_image(suite: str, say: Callable[[str], None]) -> BoxImage:
    """Find the image of `suite` in the cache, or make it, which fetches 220 to 300 MB. Blocks; safe to interrupt.

    An image stays in use when the suite gets newer packages, until the recipe changes or `cache_dir() / "lab" /
    "box"` is removed.

    :param suite: of the host's own distribution, such as `bookworm`.
    :param say: takes one line before each long step.
    :raise UsageError: no suite can be called so.
    :raise HostError: no apt, no network, no room, or a program that is needed is missing. The cache is as before.
    """
    check_suite(suite)
    base = cache_dir() / "lab" / "box"

    def build() -> BoxImage:
        check_space(base, _NEEDED_BYTES)
        return _build(base, suite, say)

    return found_or_built(
        base / f"lock-{suite}",
        lambda: _find(base, suite),
        build,
        say,
        doing=f"makes the box of {suite}",
        cannot="build the box",
    )


def recipe() -> str:
    """A short hash of all in an image that is ours."""
    parts = [_FORMAT, KERNEL, *PACKAGES, Path(tree.__file__).read_text()]
    parts += [path.read_text() for path in sorted(tree.GUEST.iterdir())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:10]


def _find(base: Path, suite: str) -> BoxImage | None:
    """The newest complete image of this recipe. A directory with a key for a name is complete."""
    found = list(base.glob(f"{suite}-{recipe()}-*/{_MANIFEST}"))
    if not found:
        return None
    manifest = max(found, key=lambda path: path.stat().st_mtime)
    folder = manifest.parent
    python = str(json.loads(manifest.read_text())["python"])
    return BoxImage(folder / "vmlinuz", folder / "initrd.gz", folder / "root.ext4", python, folder.name)


def _build(base: Path, suite: str, say: Callable[[str], None]) -> BoxImage:
    for left in base.glob(f"build-{suite}-*"):  # we hold the lock, so whoever made it was interrupted
        shutil.rmtree(left, ignore_errors=True)
    work = base / f"build-{suite}-{os.getpid()}"
    work.mkdir()
    try:
        packages = _fetch(work, suite, say)
        say(f"making the disk of {suite}")
        root, done = work / "root", work / "done"
        done.mkdir()
        tree.make_bootable(root)
        shutil.copyfile(tree.write_initramfs(root, done / "initrd.gz"), done / "vmlinuz")
        rootfs.write_ext4(root, done / "root.ext4", spare_bytes=SPARE_BYTES)
        python = next((root / "usr/lib").glob("python3.*")).name.removeprefix("python")
        manifest = {"python": python, "packages": sorted(map(str, packages))}
        (done / _MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        versions = hashlib.sha256("\n".join(manifest["packages"]).encode()).hexdigest()[:10]
        final = base / f"{suite}-{recipe()}-{versions}"
        shutil.rmtree(final, ignore_errors=True)
        done.rename(final)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    image = _find(base, suite)
    if image is None:
        raise HostError(f"the image vanished from {base} while it was made", path=str(base), hint="try again")
    for old in base.glob(f"{suite}-*"):
        if old.name != image.key:
            shutil.rmtree(old, ignore_errors=True)
    return image


def _fetch(work: Path, suite: str, say: Callable[[str], None]) -> tuple[Package, ...]:
    """Fetch and unpack into `work/root`; gives what was unpacked."""
    (work / "apt").mkdir()
    archive = Archive(work / "apt", suite)
    say(f"fetching the lists of packages of {suite}")
    archive.refresh()
    kernel = [package for package in archive.closure((KERNEL,)) if package.name.startswith("linux-image-")]
    packages = tuple(dict.fromkeys((*kernel, *archive.closure(PACKAGES))))
    say(f"fetching {len(packages)} packages, {archive.size_bytes(packages) // 10**6} MB")
    debs = archive.download(packages)
    say("unpacking them")
    unpack(debs, work / "root")
    return packages
