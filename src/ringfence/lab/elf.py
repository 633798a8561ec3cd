"""What the image builder must know of ELF files: the libraries a program needs, the modules a kernel module needs.

Reads 64-bit little-endian files, elf(5); nothing is loaded or run.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from ringfence.errors import HostError

_SHT_DYNAMIC = 6
_DT_NEEDED = 1


class _Section(NamedTuple):
    name: str
    kind: int
    content: bytes
    link: int


def needed_libraries(data: bytes) -> tuple[str, ...]:
    """The sonames that a dynamic program or library asks the loader for; empty for a static one.

    :raise HostError: `data` is not a 64-bit little-endian ELF file.
    """
    sections = _sections(data)
    names: list[str] = []
    for section in sections:
        if section.kind == _SHT_DYNAMIC:
            strings = sections[section.link].content
            entries = struct.iter_unpack("<qQ", section.content)
            names += [_string(strings, value) for tag, value in entries if tag == _DT_NEEDED]
    return tuple(names)


def needed_modules(data: bytes) -> tuple[str, ...]:
    """The kernel modules that must be loaded before this one, `_` in their names as in lsmod.

    :raise HostError: `data` is not a kernel module.
    """
    for section in _sections(data):
        if section.name == ".modinfo":
            for field in section.content.split(b"\0"):
                if field.startswith(b"depends="):
                    names = field.removeprefix(b"depends=").decode().split(",")
                    return tuple(name.replace("-", "_") for name in names if name)
            return ()
    raise HostError("not a kernel module: it has no .modinfo section")


def _sections(data: bytes) -> list[_Section]:
    if data[:6] != b"\x7fELF\x02\x01":
        raise HostError("not a 64-bit little-endian ELF file")
    try:
        (table,) = struct.unpack_from("<Q", data, 0x28)
        size, count, names_index = struct.unpack_from("<HHH", data, 0x3A)
        headers = [struct.unpack_from("<IIQQQQIIQQ", data, table + index * size) for index in range(count)]
        name_offset, name_size = headers[names_index][4:6]
    except (struct.error, IndexError) as error:
        raise HostError("a truncated ELF file") from error
    names = data[name_offset : name_offset + name_size]
    return [
        _Section(_string(names, header[0]), header[1], data[header[4] : header[4] + header[5]], header[6])
        for header in headers
    ]


def _string(table: bytes, offset: int) -> str:
    return table[offset : table.index(b"\0", offset)].decode()
