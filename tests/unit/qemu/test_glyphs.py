"""Text out of pictures, made of the recorded glyphs themselves."""

from __future__ import annotations

from pathlib import Path

from ringfence.qemu import glyphs

FONT = {
    chr(int(code, 16)): bytes.fromhex(bits)
    for code, bits in (
        line.split() for line in Path(glyphs.__file__).with_name("glyphs.txt").read_text().splitlines()
    )
}
INK = 0x92


def picture(rows: list[str], *, right: int = 0, below: int = 0) -> tuple[int, int, bytearray]:
    """What QEMU draws for rows of one length; `right` and `below` are pixels that make no cell."""
    width = len(rows[0]) * 8 + right
    pixels = bytearray()
    for row in rows:
        for y in range(16):
            for char in row:
                pixels += bytes(INK if FONT[char][y] >> bit & 1 else 0 for bit in range(7, -1, -1))
            pixels += bytes(right)
    return width, len(rows) * 16 + below, pixels + bytes(width * below)


def test_every_printable_character_has_a_glyph_of_its_own() -> None:
    assert sorted(FONT) == [chr(code) for code in range(0x20, 0x7F)]
    assert len(set(FONT.values())) == 95


def test_every_character_is_read() -> None:
    text = "".join(sorted(FONT))
    rows = [text[:48], text[48:].ljust(48)]
    assert glyphs.read(*picture(rows)) == rows


def test_what_makes_no_cell_is_passed_over() -> None:
    assert glyphs.read(*picture(["(qemu) "], right=5, below=9)) == ["(qemu) "]


def test_inverted() -> None:
    width, height, pixels = picture(["a b"])
    flipped = bytes(0 if pixel else INK for pixel in pixels)
    assert glyphs.read(width, height, flipped) == ["a b"]


def test_the_cursor_is_a_space() -> None:
    assert glyphs.read(8, 16, bytes([INK]) * 128) == [" "]


def test_no_character() -> None:
    assert glyphs.read(8, 16, bytes([INK] + [0] * 127)) == [glyphs.UNKNOWN]


def test_as_line() -> None:
    (((cell,),)) = glyphs.cells(*picture(["A"]))
    assert glyphs.as_line("A", cell) == f"41 {FONT['A'].hex()}\n"
