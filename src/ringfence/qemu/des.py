"""PURE: DES, which VNC's password login is made of, and which neither Python nor a light package has.

It keeps nobody out who listens: the password crosses the wire in a form that a home computer breaks.

Source: FIPS 46-3; RFC 6143 7.2.2.
"""

from __future__ import annotations

from collections.abc import Sequence

_PC1 = """57 49 41 33 25 17 9 1 58 50 42 34 26 18 10 2 59 51 43 35 27 19 11 3 60 52 44 36
63 55 47 39 31 23 15 7 62 54 46 38 30 22 14 6 61 53 45 37 29 21 13 5 28 20 12 4"""
_PC2 = """14 17 11 24 1 5 3 28 15 6 21 10 23 19 12 4 26 8 16 7 27 20 13 2
41 52 31 37 47 55 30 40 51 45 33 48 44 49 39 56 34 53 46 42 50 36 29 32"""
_P = "16 7 20 21 29 12 28 17 1 15 23 26 5 18 31 10 2 8 24 14 32 27 3 9 19 13 30 6 22 11 4 25"
_SHIFTS = (1, 1, 2, 2, 2, 2, 2, 2, 1, 2, 2, 2, 2, 2, 2, 1)
# Each box: four rows of sixteen hexadecimal digits.
_BOXES = (
    "e4d12fb83a6c5907 0f74e2d1a6cb9538 41e8d62bfc973a50 fc8249175b3ea06d",
    "f18e6b34972dc05a 3d47f28ec01a69b5 0e7ba4d158c6932f d8a13f42b67c05e9",
    "a09e63f51dc7b428 d709346a285ecbf1 d6498f30b12c5ae7 1ad069874fe3b52c",
    "7de3069a1285bc4f d8b56f03472c1ae9 a690cb7df13e5284 3f06a1d8945bc72e",
    "2c417ab6853fd0e9 eb2c47d150fa3986 421bad78f9c5630e b8c71e2d6f09a453",
    "c1af92680d34e75b af427c9561de0b38 9ef528c3704a1db6 432c95fabe17608d",
    "4b2ef08d3c975a61 d0b7491ae35c2f86 14bdc37eaf680592 6bd814a7950fe23c",
    "d2846fb1a93e50c7 1fd8a374c56b0e92 7b419ce206adf358 21e74a8dfc90356b",
)


def _order(text: str) -> tuple[int, ...]:
    return tuple(int(number) - 1 for number in text.split())


_KEY_ORDER, _ROUND_KEY_ORDER, _BOX_ORDER = map(_order, (_PC1, _PC2, _P))
# The first permutation takes the even bits of each byte, from the last byte to the first, and then the odd ones.
_FIRST = tuple(row + 8 * byte for row in (1, 3, 5, 7, 0, 2, 4, 6) for byte in range(7, -1, -1))
_LAST = tuple(_FIRST.index(bit) for bit in range(64))
_EXPANDED = tuple((4 * group + bit - 1) % 32 for group in range(8) for bit in range(6))


def encrypt(key: bytes, block: bytes) -> bytes:
    """Eight bytes encrypted by a key of eight bytes, whose lowest bits do not matter."""
    bits = [_bits(block)[at] for at in _FIRST]
    left, right = bits[:32], bits[32:]
    for round_key in _round_keys(key):
        left, right = right, [a ^ b for a, b in zip(left, _mixed(right, round_key), strict=True)]
    both = right + left
    return _bytes([both[at] for at in _LAST])


def vnc_response(password: str, challenge: bytes) -> bytes:
    """What a VNC server expects for its challenge of 16 bytes: it knows eight characters of a password."""
    key = password.encode()[:8].ljust(8, b"\0")
    mirrored = bytes(int(f"{byte:08b}"[::-1], 2) for byte in key)
    return b"".join(encrypt(mirrored, challenge[at : at + 8]) for at in (0, 8))


def _round_keys(key: bytes) -> list[list[int]]:
    bits = [_bits(key)[at] for at in _KEY_ORDER]
    left, right = bits[:28], bits[28:]
    keys = []
    for shift in _SHIFTS:
        left, right = left[shift:] + left[:shift], right[shift:] + right[:shift]
        both = left + right
        keys.append([both[at] for at in _ROUND_KEY_ORDER])
    return keys


def _mixed(half: Sequence[int], round_key: Sequence[int]) -> list[int]:
    wide = [half[at] ^ key for at, key in zip(_EXPANDED, round_key, strict=True)]
    chosen: list[int] = []
    for number, box in enumerate(_BOXES):
        a, b, c, d, e, f = wide[6 * number : 6 * number + 6]
        digit = int(box.split()[2 * a + f][8 * b + 4 * c + 2 * d + e], 16)
        chosen += [digit >> shift & 1 for shift in (3, 2, 1, 0)]
    return [chosen[at] for at in _BOX_ORDER]


def _bits(data: bytes) -> list[int]:
    return [byte >> shift & 1 for byte in data for shift in range(7, -1, -1)]


def _bytes(bits: Sequence[int]) -> bytes:
    return int("".join(map(str, bits)), 2).to_bytes(len(bits) // 8, "big")
