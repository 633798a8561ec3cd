"""PURE: text out of a picture of QEMU's text console: fixed cells of 8x16 pixels, each one of a font's glyphs.

The glyphs in glyphs.txt were recorded: tests/golden/record_glyphs.py types every printable character into the
monitor console of a QEMU, and notes what it looks like.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources

WIDTH, HEIGHT = 8, 16
UNKNOWN = "\ufffd"

_SET = bytes([0]) + bytes([1]) * 255
_FLIPPED = bytes([1, 0]) + bytes(254)


def cells(width: int, height: int, pixels: bytes | bytearray) -> list[list[bytes]]:
    """Each cell's 128 pixels as 0 and 1, by row and column; what is left over right and below is passed over."""
    bits = bytes(pixels).translate(_SET)
    rows = []
    for top in range(0, height - HEIGHT + 1, HEIGHT):
        lines = [bits[(top + y) * width : (top + y + 1) * width] for y in range(HEIGHT)]
        rows.append(
            [
                b"".join([line[left : left + WIDTH] for line in lines])
                for left in range(0, width - WIDTH + 1, WIDTH)
            ]
        )
    return rows


def read(width: int, height: int, pixels: bytes | bytearray) -> list[str]:
    """The rows of a console, each as long as the console is wide; what is no character of ASCII is `UNKNOWN`.

    A cell that is drawn inverted is the character it inverts; so the cursor, a full block, is a space.
    """
    table = _table()
    return ["".join([table.get(cell, UNKNOWN) for cell in row]) for row in cells(width, height, pixels)]


def as_line(char: str, cell: bytes) -> str:
    """A line of glyphs.txt: the character's code, and its 16 rows of 8 pixels, in hexadecimal."""
    rows = (cell[start : start + WIDTH] for start in range(0, len(cell), WIDTH))
    bits = "".join(f"{int(''.join(map(str, row)), 2):02x}" for row in rows)
    return f"{ord(char):02x} {bits}\n"


@cache
def _table() -> Mapping[bytes, str]:
    table: dict[bytes, str] = {}
    for line in resources.files(__package__).joinpath("glyphs.txt").read_text().splitlines():
        code, bits = line.split()
        cell = bytes(map(int, "".join(f"{int(bits[at : at + 2], 16):08b}" for at in range(0, len(bits), 2))))
        table[cell] = table[cell.translate(_FLIPPED)] = chr(int(code, 16))
    return table
