"""A minimal ELF writer and a cpio reader: what the image builder reads and writes, made without a compiler."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest

_HEADER_BYTES = 64
_STRTAB, _DYNAMIC = 3, 6


def _elf(sections: Sequence[tuple[str, int, bytes, int]]) -> bytes:
    """Sections as (name, type, content, link); index 0 is the null section, the names come last."""
    names = b"\0" + b"".join(name.encode() + b"\0" for name, *_ in sections) + b".shstrtab\0"
    body, headers = b"", [bytes(64)]
    for name, kind, content, link in [*sections, (".shstrtab", _STRTAB, names, 0)]:
        at = names.index(b"\0" + name.encode() + b"\0") + 1
        headers.append(
            struct.pack("<IIQQQQIIQQ", at, kind, 0, 0, _HEADER_BYTES + len(body), len(content), link, 0, 1, 0)
        )
        body += content
    start = b"\x7fELF\x02\x01\x01" + bytes(9)
    rest = struct.pack(
        "<HHIQQQIHHHHHH",
        3,
        62,
        1,
        0,
        0,
        _HEADER_BYTES + len(body),
        0,
        64,
        0,
        0,
        64,
        len(headers),
        len(headers) - 1,
    )
    return start + rest + body + b"".join(headers)


@pytest.fixture
def make_program() -> Callable[..., bytes]:
    """A program or library that needs the sonames given."""

    def make(*needed: str) -> bytes:
        strings, entries = b"\0", b""
        for name in needed:
            entries += struct.pack("<qQ", 1, len(strings))
            strings += name.encode() + b"\0"
        entries += struct.pack("<qQ", 0, 0)
        return _elf([(".dynstr", _STRTAB, strings, 0), (".dynamic", _DYNAMIC, entries, 1)])

    return make


@pytest.fixture
def make_module() -> Callable[..., bytes]:
    """A kernel module that depends on those given."""

    def make(*needed: str) -> bytes:
        info = b"license=GPL\0depends=" + ",".join(needed).encode() + b"\0name=some\0"
        return _elf([(".modinfo", 1, info, 0)])

    return make


class Entry(NamedTuple):
    name: str
    mode: int
    links: int
    content: bytes
    device: tuple[int, int]
    inode: int


def _read_newc(data: bytes) -> list[Entry]:
    entries, at = [], 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        inode, mode, uid, gid, links, mtime, size, _, _, major, minor, name_size, check = fields
        assert (uid, gid, mtime, check) == (0, 0, 0, 0)
        name = data[at + 110 : at + 110 + name_size]
        assert name.endswith(b"\0")
        at = (at + 110 + name_size + 3) // 4 * 4
        entries.append(Entry(name[:-1].decode(), mode, links, data[at : at + size], (major, minor), inode))
        at = (at + size + 3) // 4 * 4
        if entries[-1].name == "TRAILER!!!":
            assert not any(data[at:])
            assert len(data) % 512 == 0
            return entries[:-1]


@pytest.fixture
def read_newc() -> Callable[[bytes], list[Entry]]:
    """Reads a cpio archive in the newc format, and sees to what all its entries have in common."""
    return _read_newc
