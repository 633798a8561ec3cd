"""The protocol by its bytes, in any pieces, from clients that are well-behaved and others."""

from __future__ import annotations

import struct

import pytest

from ringfence.flash.serve.nbd import MAX_REQUEST_BYTES, Closed, Command, Connection, Request

HELLO = struct.pack(">I", 3)


def option(number: int, data: bytes = b"") -> bytes:
    return struct.pack(">QII", 0x49484156454F5054, number, len(data)) + data


def go(name: bytes = b"") -> bytes:
    return option(7, struct.pack(">I", len(name)) + name + b"\0\0")


def request(command: int, offset: int = 0, length: int = 0, data: bytes = b"", cookie: int = 7) -> bytes:
    return struct.pack(">IHHQQI", 0x25609513, 0, command, cookie, offset, length) + data


def ready() -> Connection:
    connection = Connection("a", 1 << 20)
    assert connection.to_send() == b"NBDMAGICIHAVEOPT\0\3"
    assert connection.feed(HELLO + go()) == []
    assert struct.pack(">HQH", 0, 1 << 20, 365) in connection.to_send()
    return connection


def test_requests_in_any_pieces() -> None:
    sent = request(Command.WRITE, 512, 4, b"data") + request(Command.READ, 0, 4096) + request(Command.FLUSH)
    expected = [
        Request(Command.WRITE, 0, 7, 512, 4, b"data"),
        Request(Command.READ, 0, 7, 0, 4096),
        Request(Command.FLUSH, 0, 7, 0, 0),
    ]
    assert ready().feed(sent) == expected
    connection = ready()
    assert [found for i in range(len(sent)) for found in connection.feed(sent[i : i + 1])] == expected


def test_the_end_is_the_end() -> None:
    assert ready().feed(request(Command.DISCONNECT) + request(Command.FLUSH)) == [Closed("")]


@pytest.mark.parametrize(
    "sent",
    [b"\0" * 28, request(Command.WRITE, 0, MAX_REQUEST_BYTES + 1)],
    ids=["no request", "a write without measure"],
)
def test_what_is_no_request_closes(sent: bytes) -> None:
    (found,) = ready().feed(sent)
    assert isinstance(found, Closed)
    assert found.reason


def test_options() -> None:
    connection = Connection("a", 1 << 20)
    connection.to_send()
    connection.feed(HELLO + option(8) + option(3) + go(b"other") + go(b"a"))
    replies = connection.to_send()
    kinds = []
    while replies:
        _, number, kind, length = struct.unpack(">QIII", replies[:20])
        kinds.append((number, kind))
        replies = replies[20 + length :]
    assert kinds == [(8, 2**31 + 1), (3, 2), (3, 1), (7, 2**31 + 6), (7, 3), (7, 3), (7, 1)]


@pytest.mark.parametrize("sent", [b"\0\0\0\0", HELLO + b"x" * 16, HELLO + option(1, b"other"), HELLO + option(2)])
def test_negotiation_that_fails_closes(sent: bytes) -> None:
    (found,) = Connection("a", 1 << 20).feed(sent)
    assert isinstance(found, Closed)


def test_the_old_way_in() -> None:
    connection = Connection("a", 1 << 20)
    connection.to_send()
    connection.feed(struct.pack(">I", 1) + option(1, b"a"))
    assert len(connection.to_send()) == 10 + 124
    assert connection.feed(request(Command.FLUSH)) == [Request(Command.FLUSH, 0, 7, 0, 0)]
