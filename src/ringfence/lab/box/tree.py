"""Makes of unpacked packages what their maintainer scripts would have made: a root file system that boots."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
from pathlib import Path

from ringfence.errors import HostError
from ringfence.lab.cpio import CpioWriter
from ringfence.lab.rootfs import Tree

GUEST = Path(__file__).with_name("guest")

BOOT_MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "ext4")
CHECKSUM_MODULES = ("crc32c_generic",)
"""What ext4 asks for by another name than a dependency, where it is a module."""

_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_UNUSED = ("doc", "man", "locale", "info", "lintian", "icons", "fonts", "bug", "X11")
_UNUSED_MODULES = (
    *("sound", "drivers/gpu", "drivers/media", "drivers/infiniband", "drivers/staging", "drivers/iio"),
    *("drivers/net/wireless", "drivers/net/ethernet", "drivers/bluetooth", "drivers/isdn", "drivers/usb"),
    *("drivers/hwmon", "drivers/scsi", "drivers/mtd", "drivers/input"),
)
# A box has virtio devices only; of the SCSI drivers those stay that need no hardware.
_KEPT_MODULES = ("scsi_debug", "sd_mod", "scsi_mod", "scsi_common", "sg", "virtio_scsi")

_PASSWD = """\
messagebus:x:100:102::/nonexistent:/usr/sbin/nologin
systemd-network:x:998:998::/:/usr/sbin/nologin
systemd-resolve:x:997:997::/:/usr/sbin/nologin
user:x:1000:1000::/home/user:/bin/bash
"""
_GROUP = """\
messagebus:x:102:
systemd-journal:x:999:
systemd-network:x:998:
systemd-resolve:x:997:
input:x:996:
render:x:995:
sgx:x:994:
kvm:x:993:
user:x:1000:
"""
_PAM = {
    "common-auth": "auth sufficient pam_permit.so\n",
    "common-account": "account sufficient pam_permit.so\n",
    "common-password": "password sufficient pam_permit.so\n",
    "common-session": "session required pam_permit.so\nsession optional pam_systemd.so\n",
    "common-session-noninteractive": "session required pam_permit.so\n",
}
_FILES = {
    "etc/machine-id": "72696e6766656e636520626f78000000\n",
    "etc/hostname": "box\n",
    "etc/hosts": "127.0.0.1 localhost box\n::1 localhost\n",
    "etc/fstab": "",
    "etc/resolv.conf": "",
    "etc/systemd/journald.conf.d/box.conf": "[Journal]\nStorage=volatile\n",
    "etc/subuid": "user:100000:65536\n",
    "etc/subgid": "user:100000:65536\n",
}
# Units that would only slow the start down, or wait for hardware that is not there.
_MASKED = (
    *("serial-getty@ttyS0.service", "getty@tty1.service", "systemd-hwdb-update.service", "ldconfig.service"),
    *("systemd-journal-catalog-update.service", "systemd-udev-settle.service", "systemd-growfs-root.service"),
    *("systemd-pcrphase.service", "systemd-boot-random-seed.service", "modprobe@drm.service"),
)


def make_bootable(root: Path) -> None:
    """Turn `root`, where packages were unpacked without their scripts, into what systemd or our init can start.

    :raise HostError: depmod is missing or failed.
    """
    merge_usr(root)
    for name in _UNUSED:
        shutil.rmtree(root / "usr/share" / name, ignore_errors=True)
    _accounts(root)
    for name, content in _FILES.items():
        _write(root / name, content)
    for name, content in _PAM.items():
        _write(root / "etc/pam.d" / name, content)
    _alternatives(root)
    _services(root)
    for name in ("share", "cache", "work", "opt"):
        (root / name).mkdir(exist_ok=True)
    (root / "usr/lib/ringfence-box").mkdir(parents=True)
    for name in ("init", "agent"):
        _write(root / "usr/lib/ringfence-box" / name, (GUEST / name).read_text(), 0o755)
    _trim_modules(root)
    for name in ("etc/.updated", "var/.updated"):  # newer than /usr: systemd has nothing to bring up to date
        (root / name).touch()


def merge_usr(root: Path) -> None:
    """Have `/bin`, `/lib` and the like be links into `/usr`, as in Debian since 12; their content moves there."""
    for name in _MERGED:
        old, new = root / name, root / "usr" / name
        if old.is_symlink():
            continue
        if old.is_dir():
            _move_into(old, new)
        if new.is_dir():
            old.symlink_to(f"usr/{name}")


def _move_into(old: Path, new: Path) -> None:
    new.mkdir(parents=True, exist_ok=True)
    for entry in list(old.iterdir()):
        target = new / entry.name
        if entry.is_dir() and not entry.is_symlink() and target.is_dir():
            _move_into(entry, target)
        elif not os.path.lexists(target):
            entry.rename(target)
        else:
            entry.unlink()
    old.rmdir()


def write_initramfs(root: Path, out: Path) -> Path:
    """Write what loads the modules for the disk and goes on to it; gives the kernel's image.

    :raise HostError: the packages lack the kernel, a module or busybox.
    """
    tree = Tree(root)
    archive = CpioWriter()
    for name in ("dev", "proc", "root"):
        archive.directory(name)
    archive.character_device("dev/console", 5, 1)
    archive.file("init", (GUEST / "initramfs.sh").read_bytes(), 0o755)
    archive.file("bin/busybox", tree.read("usr/bin/busybox"), 0o755)
    modules = tree.modules(BOOT_MODULES, CHECKSUM_MODULES)
    archive.file("lib/modules/order", "".join(f"{name}\n" for name in modules).encode())
    for name, content in modules.items():
        archive.file(f"lib/modules/{name}.ko", content)
    out.write_bytes(gzip.compress(archive.finish(), compresslevel=6, mtime=0))
    return tree.kernel()


def _accounts(root: Path) -> None:
    masters = root / "usr/share/base-passwd"
    _write(root / "etc/passwd", (masters / "passwd.master").read_text().replace(":*:", ":x:") + _PASSWD)
    _write(root / "etc/group", (masters / "group.master").read_text().replace(":*:", ":x:") + _GROUP)
    names = [line.partition(":")[0] for line in (root / "etc/passwd").read_text().splitlines()]
    _write(root / "etc/shadow", "".join(f"{name}:*:1::::::\n" for name in names), 0o600)
    (root / "home/user").mkdir(parents=True, exist_ok=True)


def _alternatives(root: Path) -> None:
    """Links that packages make when they are configured."""
    for name, target in (("awk", "mawk"), ("sh", "dash")):
        link = root / "usr/bin" / name
        if not os.path.lexists(link) and (root / "usr/bin" / target).exists():
            link.symlink_to(target)
    _write(root / "usr/local/bin/ringfence", '#!/bin/sh\nexec python3 -m ringfence "$@"\n', 0o755)


def _services(root: Path) -> None:
    units = root / "etc/systemd/system"
    wants = units / "multi-user.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    _write(units / "ringfence-box.service", (GUEST / "ringfence-box.service").read_text())
    (wants / "ringfence-box.service").symlink_to("../ringfence-box.service")
    (units / "default.target").symlink_to("/usr/lib/systemd/system/multi-user.target")
    for name in _MASKED:
        (units / name).symlink_to("/dev/null")


def _trim_modules(root: Path) -> None:
    """Drop modules for hardware that no box has, 250 MB, and list for modprobe what is left."""
    base = next((root / "usr/lib/modules").iterdir())
    for name in _UNUSED_MODULES:
        for path in (base / "kernel" / name).rglob("*.ko*"):
            if path.name.partition(".")[0] not in _KEPT_MODULES:
                path.unlink()
    depmod = shutil.which("depmod", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if depmod is None:
        raise HostError("depmod is not installed", path="depmod", hint="apt install kmod")
    done = subprocess.run((depmod, "-b", str(root), base.name), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise HostError(f"depmod failed: {done.stderr.strip()}", path=depmod, hint="report this")


def _write(path: Path, content: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(mode)
