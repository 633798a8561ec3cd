"""Image files as disks of a VM: their format is said, not guessed; the page cache is bypassed where it can be."""

from __future__ import annotations

import os
from typing import NamedTuple

from ringfence.errors import HostError, UsageError

URIS = ("nbd://", "nbd+unix://")
"""Disks that somebody serves: their server says how large they are, and its data has no format but raw."""

FORMATS = ("raw", "qcow2")
_QCOW2_MAGIC = b"QFI\xfb"


class Disk(NamedTuple):
    """A virtio disk.

    :param direct: bypass the host's page cache; without it the kernel's limits on the process miss its writes.
    """

    file: str
    format: str = "raw"
    direct: bool = False
    readonly: bool = False


def parse_disk(text: str) -> Disk:
    """Read `FILE`, `FILE,format=raw|qcow2`, or the URI of an NBD export, such as of `ringfence flash serve`.

    Without a format `.qcow2` says it, anything else is raw.

    A raw disk whose first bytes are those of a qcow2 image is refused unless `format` is given: the guest can
    write such bytes itself, and would be given any file of the host as the image's backing file.

    :raise UsageError: an unknown format, or that case.
    :raise HostError: the file cannot be opened.
    """
    if text.startswith(URIS):
        return Disk(text)
    file, _, option = text.partition(",format=")
    if option and option not in FORMATS:
        raise UsageError(f"unknown disk format {option!r}", hint=f"one of {', '.join(FORMATS)}")
    direct = takes_direct_io(file)
    if option:
        return Disk(file, option, direct)
    if file.endswith(".qcow2"):
        return Disk(file, "qcow2", direct)
    with open(file, "rb") as image:
        if image.read(len(_QCOW2_MAGIC)) == _QCOW2_MAGIC:
            raise UsageError(
                f"{file} begins like a qcow2 image, and its name does not say so",
                hint=f"write {file},format=qcow2 if it is one, {file},format=raw if its guest wrote that",
            )
    return Disk(file, "raw", direct)


def takes_direct_io(file: str) -> bool:
    """Whether the file system under `file` can bypass the page cache: tmpfs on older kernels cannot.

    :raise HostError: the file cannot be opened.
    """
    import errno

    try:
        os.close(os.open(file, os.O_RDONLY | os.O_DIRECT))
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        raise HostError(
            f"cannot open the disk {file}: {error.strerror}",
            path=file,
            errno=error.errno or 0,
            hint="see that it exists and that this user may read and write it",
        ) from error
    return True
