"""An archive that the kernel unpacks as its first root file system: cpio in the `newc` format, initramfs docs.

Device nodes are only headers there, so that writing one needs no root.
"""

from __future__ import annotations

import stat

_TRAILER = "TRAILER!!!"


class CpioWriter:
    """Collects entries; parents are made as they are needed. The same entries give the same bytes.

    All belong to root, with the time 0.
    """

    def __init__(self) -> None:
        self._out = bytearray()
        self._inode = 0
        self._directories: set[str] = set()

    def directory(self, path: str, mode: int = 0o755) -> None:
        """Add a directory, unless it is there already. `path` is relative to the root, without a leading slash."""
        if path in self._directories:
            return
        self._parents(path)
        self._directories.add(path)
        self._entry(path, stat.S_IFDIR | mode)

    def file(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Add a regular file."""
        self._parents(path)
        self._entry(path, stat.S_IFREG | mode, content)

    def symlink(self, path: str, target: str) -> None:
        """Add a symbolic link that says `target`."""
        self._parents(path)
        self._entry(path, stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, path: str, major: int, minor: int, mode: int = 0o600) -> None:
        """Add a character device node."""
        self._parents(path)
        self._entry(path, stat.S_IFCHR | mode, device=(major, minor))

    def finish(self) -> bytes:
        """The whole archive. The writer is used up."""
        self._inode = -1
        self._entry(_TRAILER, 0)
        self._out += bytes(-len(self._out) % 512)
        return bytes(self._out)

    def _parents(self, path: str) -> None:
        parent = path.rpartition("/")[0]
        if parent:
            self.directory(parent)

    def _entry(self, path: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        self._inode += 1
        name = path.encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        fields = (self._inode, mode, 0, 0, links, 0, len(content), 0, 0, *device, len(name), 0)
        self._out += b"070701" + b"".join(b"%08X" % field for field in fields) + name
        self._out += bytes(-len(self._out) % 4)
        self._out += content
        self._out += bytes(-len(self._out) % 4)
