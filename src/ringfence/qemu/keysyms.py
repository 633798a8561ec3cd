"""PURE: which keys make a character, as a VNC client names them (X11 keysyms)."""

from __future__ import annotations

ENTER, BACKSPACE = 0xFF0D, 0xFF08
_SHIFT, _CONTROL, _ALT = 0xFFE1, 0xFFE3, 0xFFE9
_SHIFTED = frozenset('~!@#$%^&*()_+{}|:"<>?')


def console_keys(number: int) -> tuple[int, ...]:
    """Ctrl-Alt-N, which shows console N of QEMU, from 1."""
    return (_CONTROL, _ALT, ord("0") + number)


def keysyms(char: str) -> tuple[int, ...]:
    """The keys to hold for a printable ASCII character, on a US keyboard: QEMU takes no capital without Shift."""
    return (_SHIFT, ord(char)) if char in _SHIFTED or char.isupper() else (ord(char),)
