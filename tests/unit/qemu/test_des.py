"""DES, by published vectors."""

from __future__ import annotations

import pytest

from ringfence.qemu.des import encrypt, vnc_response


@pytest.mark.parametrize(
    ("key", "plain", "cipher"),
    [
        ("133457799bbcdff1", "0123456789abcdef", "85e813540f0ab405"),
        ("0101010101010101", "8000000000000000", "95f8a5e5dd31d900"),  # NIST SP 800-17, table A.1
        ("8001010101010101", "0000000000000000", "95a8d72813daa94d"),  # table A.2
        ("1046913489980131", "0000000000000000", "88d55e54f54c97b4"),  # table A.3
        ("7ca110454a1a6e57", "01a1d6d039776742", "690f5b0d9a26939b"),  # table A.4
        ("0000000000000000", "0000000000000000", "8ca64de9c1b123a7"),
    ],
)
def test_encrypt(key: str, plain: str, cipher: str) -> None:
    assert encrypt(bytes.fromhex(key), bytes.fromhex(plain)).hex() == cipher


def test_a_password_counts_up_to_its_eighth_character() -> None:
    challenge = bytes(range(16))
    response = vnc_response("12345678", challenge)
    assert len(response) == 16
    assert response[:8] == encrypt(bytes.fromhex("8c4ccc2cac6cec1c"), challenge[:8])
    assert vnc_response("123456789", challenge) == response
    assert vnc_response("1234567", challenge) != response
