"""Which interfaces of this host a process holds: the tap and macvtap devices behind a VM's NICs.

Each open file of a tap device tells its interface's name in /proc/PID/fdinfo. To be exact the descriptor is
borrowed (pidfd_getfd(2), which needs the rights of ptrace), and the device itself asked for its name and its
network namespace, which need not be the process's own. Nothing is changed.
Sources: proc(5), Linux drivers/net/tun.c and tap.c.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import struct
from contextlib import suppress
from typing import NamedTuple

from ringfence.core.net import MACVTAP, TAP

_SYS_PIDFD_GETFD = 438
_TUNGETIFF, _TUNGETDEVNETNS = 0x800454D2, 0x54E3
_MACVTAP_FILE = re.compile(r"/tap(\d+)$")


class Tap(NamedTuple):
    """A tap device that a process holds.

    :param netns: an open descriptor of its namespace, the caller's to close; -1 when the device does not tell.
    """

    name: str
    kind: str
    fds: tuple[int, ...]
    netns: int


def taps(pid: int, proc: str = "/proc") -> list[Tap]:
    """Every tap device of a process, in the order of its descriptors; a device with many queues once.

    :raise OSError: the process is gone, or this user may not see its files.
    """
    found: dict[tuple[str, str], Tap] = {}
    for fd in sorted(map(int, os.listdir(f"{proc}/{pid}/fd"))):
        with suppress(FileNotFoundError):
            kind = _kind(os.readlink(f"{proc}/{pid}/fd/{fd}"))
            if not kind:
                continue
            name, netns = _asked(pid, fd)
            name = name or _told(f"{proc}/{pid}/fdinfo/{fd}")
            known = found.get((kind, name))
            if known:
                found[kind, name] = known._replace(fds=(*known.fds, fd))
                if netns >= 0:
                    os.close(netns)
            elif name:
                found[kind, name] = Tap(name, kind, (fd,), netns)
    return list(found.values())


def _kind(target: str) -> str:
    """What a file is, from what its descriptor points to; empty when it is no tap device."""
    if target.endswith("/net/tun"):
        return TAP
    return MACVTAP if _MACVTAP_FILE.search(target) else ""


def _told(fdinfo: str) -> str:
    with suppress(OSError), open(fdinfo, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            if line.startswith("iff:"):
                return line.removeprefix("iff:").strip()
    return ""


def _asked(pid: int, fd: int) -> tuple[str, int]:
    """The device's own word on its name and namespace; nothing where the descriptor cannot be borrowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return "", -1
    try:
        own = libc.syscall(_SYS_PIDFD_GETFD, pidfd, fd, 0)
    finally:
        os.close(pidfd)
    if own < 0:
        return "", -1
    name, netns = "", -1
    try:
        with suppress(OSError):
            answer = fcntl.ioctl(own, _TUNGETIFF, struct.pack("16sH22x", b"", 0))
            name = os.fsdecode(answer[:16].split(b"\0", 1)[0])
            netns = fcntl.ioctl(own, _TUNGETDEVNETNS)
    finally:
        os.close(own)
    return name, netns
