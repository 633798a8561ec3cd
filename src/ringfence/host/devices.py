"""Block devices by path: the one that I/O to a file, a partition or a device goes to, and can be limited at.

Sources: stat(2), proc(5) (mountinfo), the kernel's Documentation/ABI/stable/sysfs-block.
"""

from __future__ import annotations

import os
import re
import stat
import time
from functools import lru_cache

from ringfence.core.host import BlockDevice
from ringfence.host import files

_ESCAPED = re.compile(r"\\([0-7]{3})")
_VIRTUAL = ("ram", "zram", "fd", "sr")


def device_of(root: str, path: str) -> BlockDevice | None:
    """The whole device that `path` is, is a partition of, or lies on; None when it is not there, or on none.

    Throttling is done at whole devices, device-mapper and loop devices among them, not at partitions.
    """
    try:
        found = os.stat(path)
    except OSError:
        return None
    number = found.st_rdev if stat.S_ISBLK(found.st_mode) else found.st_dev
    if os.major(number) == 0:  # btrfs, overlayfs and the like have numbers of their own
        number = _behind_mount(root, os.path.realpath(path))
    return _whole(root, f"{os.major(number)}:{os.minor(number)}")


def every_device(root: str) -> tuple[BlockDevice, ...]:
    """Every whole device that can hold data; of loop devices those that are in use. Known for a second."""
    return _every("", int(time.monotonic())) if not root else _every.__wrapped__(root, 0)


@lru_cache(maxsize=2)
def _every(root: str, _second: int) -> tuple[BlockDevice, ...]:
    found = []
    for name in files.names(f"{root}/sys/block"):
        number = files.text(f"{root}/sys/block/{name}/dev").strip()
        size = files.text(f"{root}/sys/block/{name}/size").strip()
        if number and size not in ("", "0") and not name.startswith(_VIRTUAL):
            found.append(BlockDevice(number, name, _scheduler(root, number)))
    return tuple(found)


def _whole(root: str, number: str) -> BlockDevice | None:
    folder = f"{root}/sys/dev/block/{number}"
    if not os.path.exists(folder):
        return None
    folder = os.path.realpath(folder)
    if os.path.exists(f"{folder}/partition"):
        folder = os.path.dirname(folder)
        number = files.text(f"{folder}/dev").strip()
    return BlockDevice(number, os.path.basename(folder).replace("!", "/"), _scheduler(root, number))


def _scheduler(root: str, number: str) -> str:
    """The chosen one of `none [mq-deadline] bfq`."""
    words = files.text(f"{root}/sys/dev/block/{number}/queue/scheduler").split()
    return next((word.strip("[]") for word in words if word.startswith("[")), "")


def _behind_mount(root: str, path: str) -> int:
    """The number of the device that is mounted where a path lies; 0 when that is none."""
    best, source = "", ""
    for line in files.text(f"{root}/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        point = root + _ESCAPED.sub(lambda code: chr(int(code[1], 8)), left.split()[4]).rstrip("/")
        if (path == point or path.startswith(f"{point}/")) and len(point) >= len(best):
            best, source = point, right.split()[1]
    try:
        found = os.stat(root + source)
    except OSError:
        return 0
    return found.st_rdev if stat.S_ISBLK(found.st_mode) else 0
