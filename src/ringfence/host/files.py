"""Reading and writing the kernel's files: one system call each, and errors that name the file."""

from __future__ import annotations

import errno
import os

from ringfence.errors import HostError

_ABSENT = (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP, errno.ENOTDIR, errno.ESRCH)
_CHUNK_BYTES = 65536

_HINTS = {
    errno.EACCES: "root may; a user may where systemd has delegated the group to them",
    errno.EPERM: "root may; a user may where systemd has delegated the group to them",
    errno.EROFS: "the hierarchy is mounted read-only, as in a container: run it on the host itself",
    errno.ENOENT: "the group, or the controller in it, is not there (any more)",
    errno.ENODEV: "the group, or the device, is not there (any more)",
    errno.EBUSY: "the kernel would have to take back what is in use, or tasks stand in the way",
    errno.ENOSPC: "the group's cpuset.cpus and cpuset.mems have to be set first",
}


def refused(what: str, path: str, error: OSError) -> HostError:
    """What to raise for an error of the kernel's."""
    number = error.errno or 0
    return HostError(f"{what} {path}: {os.strerror(number)}", path=path, errno=number, hint=_HINTS.get(number, ""))


def read(path: str, *, optional: bool = False) -> str | None:
    """The whole text of a file.

    :param optional: None when it is not there.
    :raise HostError: it cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.read(fd, _CHUNK_BYTES)
            while len(data) % _CHUNK_BYTES == 0 and (more := os.read(fd, _CHUNK_BYTES)):
                data += more
        finally:
            os.close(fd)
    except OSError as error:
        if optional and error.errno in _ABSENT:
            return None
        raise refused("cannot read", path, error) from None
    return data.decode(errors="surrogateescape")


def text(path: str) -> str:
    """The whole text of a file; empty when it cannot be read."""
    try:
        return read(path) or ""
    except HostError:
        return ""


def write(path: str, content: str) -> None:
    """Write a file that is there in one call, as the kernel takes each call for a command of its own.

    :raise HostError: the kernel refuses it.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, content.encode(errors="surrogateescape"))
        finally:
            os.close(fd)
    except OSError as error:
        raise refused(f"the kernel refuses {content.strip()!r} for", path, error) from None


def rmdir(path: str) -> None:
    """Remove a folder; one that is gone already is as good.

    :raise HostError: the kernel refuses it.
    """
    try:
        os.rmdir(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise refused("cannot remove", path, error) from None


def folders(path: str) -> list[str]:
    """Names of the folders in a folder, sorted; none when it cannot be read."""
    try:
        with os.scandir(path) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []


def names(path: str) -> list[str]:
    """Names in a folder, sorted; none when it cannot be read."""
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def numbers(content: str) -> list[int]:
    """The numbers in a list of them, one a line."""
    return [int(word) for word in content.split() if word.isdigit()]
