"""The guest image: made once from the distribution's packages, then found again in the cache."""

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
from ringfence.lab.locks import found_or_built
from ringfence.lab.packages import Archive, Package, check_space, unpack
from ringfence.qemu.paths import cache_dir
from ringfence.units import MIB

KERNELS = ("linux-image-cloud-amd64", "linux-image-virtual", "linux-image-amd64", "linux-image-generic")
"""In this order: the smaller ones, made for virtual machines, come first."""

TOOL_PACKAGES = ("busybox-static", "qemu-guest-agent", "fio", "stress-ng")

_FORMAT = "1"
_NEEDED_BYTES = 1200 * MIB
_MANIFEST = "manifest.json"


class Image(NamedTuple):
    """What a lab guest boots from.

    :param tools: an ext4 file system with fio and stress-ng, to be attached read-only.
    :param key: names the recipe and the versions of the packages; guests with one key are the same.
    """

    kernel: Path
    initrd: Path
    tools: Path
    key: str


def ensure_image(say: Callable[[str], None]) -> Image:
    """Find the image in the cache, or make it, which fetches 100 MB. Blocks; safe to interrupt and to run twice.

    An image that was made stays in use when the distribution publishes newer packages, until the recipe changes or
    `cache_dir() / "lab"` is removed.

    :param say: takes one line before each long step.
    :raise HostError: no apt, no network, no room, or a program that is needed is missing. The cache is as before.
    """
    base = cache_dir() / "lab"

    def build() -> Image:
        check_space(base, _NEEDED_BYTES)
        return _build(base, say)

    return found_or_built(
        base / "lock", lambda: _find(base), build, say, doing="makes the image", cannot="build the guest image"
    )


def recipe() -> str:
    """A short hash of all in an image that is ours: its format, the init script, the list of packages."""
    parts = (_FORMAT, rootfs.INIT.read_text(), *KERNELS, *TOOL_PACKAGES, *rootfs.TOOLS)
    modules = (*rootfs.REQUIRED_MODULES, *rootfs.OPTIONAL_MODULES)
    return hashlib.sha256("\n".join((*parts, *modules)).encode()).hexdigest()[:10]


def image_key(packages: tuple[Package, ...]) -> str:
    """The cache key: the recipe, and a hash of the packages' versions."""
    versions = "\n".join(sorted(map(str, packages)))
    return f"{recipe()}-{hashlib.sha256(versions.encode()).hexdigest()[:10]}"


def _find(base: Path) -> Image | None:
    """The newest complete image of this recipe. A directory with a key for a name is complete."""
    found = list(base.glob(f"{recipe()}-*/{_MANIFEST}"))
    if not found:
        return None
    newest = max(found, key=lambda path: path.stat().st_mtime).parent
    return Image(newest / "vmlinuz", newest / "initrd.gz", newest / "tools.ext4", newest.name)


def _build(base: Path, say: Callable[[str], None]) -> Image:
    for left in base.glob("build-*"):  # we hold the lock, so whoever made it was interrupted
        shutil.rmtree(left, ignore_errors=True)
    work = base / f"build-{os.getpid()}"
    work.mkdir()
    try:
        packages = _fetch(work, say)
        say("making the guest image")
        tree = rootfs.Tree(work / "root")
        done = work / "done"
        done.mkdir()
        shutil.copyfile(tree.kernel(), done / "vmlinuz")
        rootfs.write_initramfs(tree, done / "initrd.gz")
        rootfs.stage_tools(tree, work / "tools")
        rootfs.write_ext4(work / "tools", done / "tools.ext4")
        (done / _MANIFEST).write_text(json.dumps(sorted(map(str, packages)), indent=1) + "\n")
        final = base / image_key(packages)
        shutil.rmtree(final, ignore_errors=True)
        done.rename(final)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    image = _find(base)
    if image is None:
        raise HostError(f"the image vanished from {base} while it was made", path=str(base), hint="try again")
    return image


def _fetch(work: Path, say: Callable[[str], None]) -> tuple[Package, ...]:
    """Fetch and unpack into `work/root`; gives what was unpacked."""
    (work / "apt").mkdir()
    archive = Archive(work / "apt")
    say("fetching the lists of packages")
    archive.refresh()
    kernel, closure = archive.first_closure(KERNELS)
    # A kernel depends on what makes an initramfs and boots; the lab does that itself.
    ours = ("linux-image-", "linux-modules-")
    kernel_packages = [package for package in closure if package.name.startswith(ours)]
    packages = tuple(dict.fromkeys((*kernel_packages, *archive.closure(TOOL_PACKAGES))))
    size_bytes = archive.size_bytes(packages)
    say(f"fetching {len(packages)} packages, {size_bytes // 10**6} MB, with the kernel of {kernel}")
    debs = archive.download(packages)
    say("unpacking them")
    unpack(debs, work / "root")
    return packages
