"""Keys for characters."""

from __future__ import annotations

import pytest

from ringfence.qemu.keysyms import console_keys, keysyms

SHIFT = 0xFFE1


@pytest.mark.parametrize("char", 'ABZ_:"|<>?+~!@#$%^&*(){}')
def test_with_shift(char: str) -> None:
    assert keysyms(char) == (SHIFT, ord(char))


@pytest.mark.parametrize("char", "abz0 9-=[];',./\\`")
def test_without_shift(char: str) -> None:
    assert keysyms(char) == (ord(char),)


def test_console_keys() -> None:
    assert console_keys(2) == (0xFFE3, 0xFFE9, ord("2"))
