"""Reads /proc for processes that are QEMU. It is read raw: this runs before every command."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from ringfence.qemu.process import Process

_HEAD_BYTES = 4096
_SIGNS = (b"qemu", b"kvm", b"\0-qmp\0", b"\0-accel\0", b"\0-machine\0", b"\0-monitor\0")
_LOADER_VALUES = {"library-path", "inhibit-rpath", "audit", "preload", "argv0", "glibc-hwcaps-prepend"}
_DELETED = " (deleted)"


def qemu_processes(proc: str) -> Iterator[tuple[int, list[str], str]]:
    """Every QEMU process: pid, command line from QEMU's own program on, path of the program.

    Processes that go away meanwhile, or that may not be read, are passed over.
    """
    for name in os.listdir(proc):
        if name.isdigit() and (found := qemu_process(proc, name)):
            yield found


def qemu_process(proc: str, pid: str) -> tuple[int, list[str], str] | None:
    """One process as `qemu_processes` gives it; None when it is not QEMU, gone or hidden."""
    data = _command_line(f"{proc}/{pid}/cmdline")
    if not data:
        return None
    words = os.fsdecode(data.removesuffix(b"\0")).split("\0")
    program = _base(words[0])
    executable = _link(f"{proc}/{pid}/exe").removesuffix(_DELETED)
    if _is_loader(program) or _is_loader(_base(executable)):
        start = _loaded_program(words)
        words = words[start:]
        executable = words[0] if words else ""
        return (int(pid), words, executable) if _is_qemu(_base(executable)) else None
    # The link cannot be read for another user's process; then its own word has to do.
    if _is_qemu(_base(executable)) if executable else _is_qemu(program):
        return int(pid), words, executable or words[0]
    return None


def _command_line(path: str) -> bytes:
    """The words of a process that might be QEMU, each ended by NUL; empty for any other."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        data = os.read(handle, _HEAD_BYTES)
        if not any(sign in data for sign in _SIGNS):
            return b""
        while len(data) % _HEAD_BYTES == 0 and (more := os.read(handle, 32 * _HEAD_BYTES)):
            data += more
    except OSError:
        return b""
    finally:
        os.close(handle)
    return data


def _is_qemu(program: str) -> bool:
    """Whether it is the name of a system emulator; NixOS, for one, moves it to `.qemu-system-x86_64-wrapped`."""
    return program.removeprefix(".").startswith("qemu-system-") or program in ("qemu-kvm", "kvm")


def _is_loader(program: str) -> bool:
    """Whether it is the name of a dynamic loader: `ld-linux-x86-64.so.2`, `ld-2.31.so`, `ld-musl-x86_64.so.1`."""
    return program.startswith("ld") and ".so" in program


def _loaded_program(words: list[str]) -> int:
    """Where the program stands in the command line of a dynamic loader."""
    index = 1
    while index < len(words) and words[index].startswith("--"):
        index += 2 if words[index].removeprefix("--") in _LOADER_VALUES else 1
    return index


def _base(path: str) -> str:
    return path[path.rfind("/") + 1 :]


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


_CONFIG_MAX_BYTES = 2**20


class LiveProcess(Process):
    """A process under /proc: each question is one or two small reads, made when it is asked."""

    def __init__(self, proc: str, pid: int, argv: list[str]) -> None:
        self._proc = proc
        self._folder = f"{proc}/{pid}"
        self._daemonized = "-daemonize" in argv or "--daemonize" in argv

    def cwd(self) -> str:
        """As in the base. A daemon has gone to `/` since: where it came from, its environment may remember."""
        if self._daemonized:
            for entry in _text(f"{self._folder}/environ").split("\0"):
                if entry.startswith("PWD=/"):
                    return entry.removeprefix("PWD=")
        return _link(f"{self._folder}/cwd")

    def socket_path(self, fd: int) -> str:
        """As in the base, by the socket's inode."""
        inode = _link(f"{self._folder}/fd/{fd}").removeprefix("socket:[").removesuffix("]")
        for line in _text(f"{self._proc}/net/unix").splitlines() if inode else ():
            fields = line.split(None, 7)
            if len(fields) == 8 and fields[6] == inode:
                return fields[7]
        return ""

    def tap_name(self, fd: int) -> str:
        """As in the base, from the `iff` line of fdinfo (Linux 3.14 and newer)."""
        for line in _text(f"{self._folder}/fdinfo/{fd}").splitlines():
            if line.startswith("iff:"):
                return line.removeprefix("iff:").strip()
        return ""

    def config(self, path: str) -> str:
        """As in the base. The path is another user's word: only a plain file, of that user or of root, is read."""
        try:
            owner = os.stat(self._folder).st_uid
            name = path if path.startswith("/") else f"{self.cwd()}/{path}"
            # A pipe would keep us waiting, and opening a device may do anything.
            fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            return ""
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_uid not in (owner, 0):
                return ""
            return os.read(fd, _CONFIG_MAX_BYTES).decode(errors="surrogateescape")
        finally:
            os.close(fd)

    def cgroup(self) -> str:
        """As in the base."""
        return _text(f"{self._folder}/cgroup")
