"""The Network Block Device protocol, the server's side of one connection, without any I/O.

Fixed newstyle negotiation and simple replies: what every client since 2011 speaks, QEMU's and the kernel's among
them (https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md).
"""

from __future__ import annotations

import struct
from collections.abc import Generator
from enum import IntEnum
from typing import NamedTuple

MAX_REQUEST_BYTES = 32 * 2**20
"""The protocol's own recommendation for clients; what is larger is refused before any of it is stored."""

_MAX_OPTION_BYTES = 8192
_INIT = 0x4E42444D41474943  # "NBDMAGIC"
_OPTION = 0x49484156454F5054  # "IHAVEOPT"
_OPTION_REPLY = 0x0003E889045565A9
_REQUEST, _REPLY = 0x25609513, 0x67446698
_EXPORT_NAME, _ABORT, _LIST, _INFO, _GO = 1, 2, 3, 6, 7
_ACK, _SERVER, _REP_INFO = 1, 2, 3
_UNSUPPORTED, _INVALID, _UNKNOWN = 2**31 + 1, 2**31 + 3, 2**31 + 6
_FLAGS = 1 | 4 | 8 | 32 | 64 | 256  # has flags; flush, FUA, trim, write zeroes, several connections

FUA = 1
EIO, EINVAL, ENOSPC = 5, 22, 28


class Command(IntEnum):
    """What a request wants; others are refused with EINVAL."""

    READ = 0
    WRITE = 1
    DISCONNECT = 2
    FLUSH = 3
    TRIM = 4
    WRITE_ZEROES = 6


class Request(NamedTuple):
    """:param data: of a WRITE, else empty. :param cookie: names it in the reply."""

    command: int
    flags: int
    cookie: int
    offset: int
    length: int
    data: bytes = b""


class Closed(NamedTuple):
    """The connection is to be closed: the client said so, or what it sent is not NBD."""

    reason: str


class Connection:
    """:param name: of the one export; a client may also ask for none by name. :param size_bytes: of the export."""

    def __init__(self, name: str, size_bytes: int) -> None:
        self._name, self._size_bytes = name.encode(), size_bytes
        self._buffer = bytearray()
        self._steps = self._converse()
        self._wants = next(self._steps)
        self._out: list[bytes] = [struct.pack(">QQH", _INIT, _OPTION, 3)]
        self._found: list[Request | Closed] = []

    def feed(self, data: bytes) -> list[Request | Closed]:
        """Take what came; gives the requests that are whole now. Nothing counts after a `Closed`."""
        self._buffer += data
        while len(self._buffer) >= self._wants and not (self._found and isinstance(self._found[-1], Closed)):
            size = self._wants
            piece = bytes(memoryview(self._buffer)[:size])
            del self._buffer[:size]
            try:
                self._wants = self._steps.send(piece)
            except StopIteration:
                break
        found, self._found = self._found, []
        return found

    def to_send(self) -> bytes:
        """What negotiation has to say, once."""
        out, self._out = b"".join(self._out), []
        return out

    @staticmethod
    def reply(cookie: int, error: int = 0) -> bytes:
        """The head of the answer to a request; a READ's data follows if there was no error."""
        return struct.pack(">IIQ", _REPLY, error, cookie)

    # --- a generator that yields how many bytes it wants and is sent them

    def _converse(self) -> Generator[int, bytes, None]:
        (flags,) = struct.unpack(">I", (yield 4))
        if flags & ~3 or not flags & 1:
            self._close(f"client flags {flags:#x}")
            return
        negotiated = yield from self._negotiate(no_zeroes=bool(flags & 2))
        while negotiated:
            magic, request_flags, command, cookie, offset, length = struct.unpack(">IHHQQI", (yield 28))
            if magic != _REQUEST:
                self._close("not a request")
                return
            data = b""
            if command == Command.WRITE:
                if length > MAX_REQUEST_BYTES:
                    self._close(f"a write of {length} bytes")
                    return
                data = (yield length) if length else b""
            elif command == Command.DISCONNECT:
                self._close("")
                return
            self._found.append(Request(command, request_flags, cookie, offset, length, data))

    def _negotiate(self, *, no_zeroes: bool) -> Generator[int, bytes, bool]:
        while True:
            magic, option, length = struct.unpack(">QII", (yield 16))
            if magic != _OPTION or length > _MAX_OPTION_BYTES:
                self._close("not an option")
                return False
            data = (yield length) if length else b""
            if option == _EXPORT_NAME:
                if data not in (b"", self._name):
                    self._close(f"no export {data[:60]!r}")
                    return False
                zeroes = b"" if no_zeroes else bytes(124)
                self._out.append(struct.pack(">QH", self._size_bytes, _FLAGS) + zeroes)
                return True
            if option in (_GO, _INFO):
                if self._go(option, data) and option == _GO:
                    return True
            elif option == _LIST:
                self._option_reply(option, _SERVER, struct.pack(">I", len(self._name)) + self._name)
                self._option_reply(option, _ACK)
            elif option == _ABORT:
                self._option_reply(option, _ACK)
                self._close("")
                return False
            else:
                self._option_reply(option, _UNSUPPORTED)

    def _go(self, option: int, data: bytes) -> bool:
        length = int.from_bytes(data[:4], "big")
        if len(data) < 6 + length:
            self._option_reply(option, _INVALID)
            return False
        if data[4 : 4 + length] not in (b"", self._name):
            self._option_reply(option, _UNKNOWN)
            return False
        self._option_reply(option, _REP_INFO, struct.pack(">HQH", 0, self._size_bytes, _FLAGS))
        self._option_reply(option, _REP_INFO, struct.pack(">HIII", 3, 512, 4096, MAX_REQUEST_BYTES))
        self._option_reply(option, _ACK)
        return True

    def _option_reply(self, option: int, kind: int, data: bytes = b"") -> None:
        self._out.append(struct.pack(">QIII", _OPTION_REPLY, option, kind, len(data)) + data)

    def _close(self, reason: str) -> None:
        self._found.append(Closed(reason))
