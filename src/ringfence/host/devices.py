"""Block devices by path, and the devices that they are made of.

Sources: stat(2), the kernel's Documentation/ABI/stable/sysfs-block.
"""

from __future__ import annotations

import os
import stat


def device_of(root: str, path: str) -> str | None:
    """`MAJOR:MINOR` of the block device that `path` is, or lies on; None when it is not there, or on none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    number = found.st_rdev if stat.S_ISBLK(found.st_mode) else found.st_dev
    name = f"{os.major(number)}:{os.minor(number)}"
    return name if os.path.exists(f"{root}/sys/dev/block/{name}") else None
