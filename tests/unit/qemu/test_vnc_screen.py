"""Where a VNC server is."""

from __future__ import annotations

import pytest

from ringfence.core.model import Address
from ringfence.errors import UsageError
from ringfence.qemu.vnc_screen import parse_vnc


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:1", Address("", "127.0.0.1", 5901)),
        (":0", Address("", "127.0.0.1", 5900)),
        ("host.example::5999", Address("", "host.example", 5999)),
        ("[::1]:2", Address("", "::1", 5902)),
        ("unix:/run/a.vnc", Address("/run/a.vnc")),
        ("unix:a.vnc", Address("a.vnc")),
        ("./a.vnc", Address("./a.vnc")),
    ],
)
def test_parse_vnc(text: str, address: Address) -> None:
    assert parse_vnc(text) == address


@pytest.mark.parametrize("text", ["", "host", "host:", "host:x", "host::0", "host:60000", "a:b:1"])
def test_no_vnc_server(text: str) -> None:
    with pytest.raises(UsageError):
        parse_vnc(text)
