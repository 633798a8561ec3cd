"""A VNC connection: the remote framebuffer protocol, as much of it as reading a screen and pressing keys takes.

Source: RFC 6143. Raw encoding, and DesktopSize, as a QEMU console changes its size.
"""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING

from ringfence.errors import MonitorError, MonitorGoneError, MonitorProtocolError, UsageError
from ringfence.qemu import sockets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ringfence.core.model import Address

_VERSION = b"RFB 003.008\n"
_NO_AUTH, _VNC_AUTH = 1, 2
_AUTH_NAMES = {5: "RA2", 6: "RA2ne", 16: "Tight", 18: "TLS", 19: "VeNCrypt", 20: "SASL"}
_UPDATE, _COLOUR_MAP, _BELL, _CUT_TEXT = range(4)
_RAW, _DESKTOP_SIZE = 0, -223
_MAX_SIDE = 16384
# 8 bits per pixel, true colour, three bits of red and green and two of blue: black is 0, and all else is not.
_PIXEL_FORMAT = struct.pack(">BBBBHHHBBB3x", 8, 8, 0, 1, 7, 7, 3, 0, 3, 6)


class Frame:
    """A picture of one byte a pixel, row by row; 0 is black.

    :ivar pixels: `width * height` bytes.
    """

    def __init__(self, width: int, height: int) -> None:
        self.resize(width, height)

    def resize(self, width: int, height: int) -> None:
        """Be of that size, and black."""
        self.width, self.height = width, height
        self.pixels = bytearray(width * height)

    def draw(self, x: int, y: int, width: int, data: bytes) -> None:
        """Draw rows of `width` pixels, the first at x, y; what is outside is left out."""
        shown = min(width, self.width - x)
        for number in range(len(data) // width if shown > 0 else 0):
            if y + number >= self.height:
                break
            start = (y + number) * self.width + x
            self.pixels[start : start + shown] = data[number * width : number * width + shown]


class RfbClient:
    """A connection that was let in, and whose frame is kept up to date. Make one with `open`.

    :ivar frame: the screen as it was told last.
    """

    def __init__(self, address: Address, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.frame = Frame(0, 0)
        self._address = address
        self._reader = reader
        self._writer = writer
        self._changed = asyncio.Event()
        self._receiving: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, address: Address, *, password: str | None = None, timeout_s: float = 2.0) -> RfbClient:
        """Connect, be let in, and wait for the first picture; all of it within `timeout_s`.

        :raise UsageError: a password is needed, and there is none or it is wrong.
        :raise MonitorGoneError: nobody listens there, or it hung up.
        :raise MonitorProtocolError: it is no VNC server, or wants a kind of login that is not spoken here.
        :raise MonitorError: the socket may not be used by this user, or it does not answer.

        After an error nothing is left open.
        """
        client: RfbClient | None = None
        try:
            async with asyncio.timeout(timeout_s):
                connection = await sockets.connect(address)
                client = cls(address, *await asyncio.open_connection(sock=connection))
                await client._start(password)
        except TimeoutError:
            if client is None:
                raise sockets.late_connect(address, timeout_s) from None
            await client.close()
            raise MonitorError(
                f"{address}: no picture within {timeout_s:g} s", hint="Is it a VNC server, and is QEMU running?"
            ) from None
        except OSError as error:
            if client is not None:
                await client.close()
            raise sockets.monitor_error(address, error) from None
        except asyncio.IncompleteReadError:
            if client is not None:
                await client.close()
            raise MonitorGoneError(f"{address}: the VNC server hung up", hint=sockets.GONE_HINT) from None
        except BaseException:
            if client is not None:
                await client.close()
            raise
        return client

    def press(self, *keysyms: int) -> None:
        """Press keys one after the other, and release them in reverse.

        :raise MonitorGoneError: the connection has ended.
        """
        self._check()
        events = [(keysym, 1) for keysym in keysyms] + [(keysym, 0) for keysym in reversed(keysyms)]
        self._writer.write(b"".join(struct.pack(">BBxxI", 4, down, keysym) for keysym, down in events))

    async def changed(self) -> None:
        """Wait until the frame changes from what it was when this was last called.

        :raise MonitorGoneError: the connection has ended.
        """
        await self._changed.wait()
        self._changed.clear()
        self._check()

    async def ended(self) -> None:
        """Return when the connection has ended."""
        if self._receiving is not None:
            await asyncio.wait([self._receiving])

    async def close(self) -> None:
        """Disconnect. Idempotent, never raises."""
        if self._receiving is not None:
            self._receiving.cancel()
            await asyncio.wait([self._receiving])
        self._writer.transport.abort()
        await asyncio.sleep(0)  # the socket is closed in the next round of the loop

    async def _start(self, password: str | None) -> None:
        await self._log_in(password)
        self._writer.write(b"\x01")  # shared: who looks at the screen already stays
        width, height = await self._unpack(">HH")
        await self._read(16)
        await self._read((await self._unpack(">I"))[0])
        self.frame.resize(width, height)
        self._writer.write(struct.pack(">Bxxx", 0) + _PIXEL_FORMAT)
        self._writer.write(struct.pack(">BxHii", 2, 2, _RAW, _DESKTOP_SIZE))
        self._ask(incremental=False)
        while await self._receive() != _UPDATE:
            pass
        self._receiving = asyncio.ensure_future(self._receive_all())

    async def _log_in(self, password: str | None) -> None:
        version = await self._read(4)
        if version != _VERSION[:4]:
            raise MonitorProtocolError(f"{self._address}: this is not a VNC server")
        await self._read(8)
        self._writer.write(_VERSION)
        (count,) = await self._read(1)
        if not count:
            raise MonitorProtocolError(f"{self._address}: the VNC server refused: {await self._reason()}")
        kinds = await self._read(count)
        if _VNC_AUTH in kinds and (password is not None or _NO_AUTH not in kinds):
            if password is None:
                raise UsageError(f"{self._address} wants a password", hint="--password-file FILE")
            self._writer.write(bytes([_VNC_AUTH]))
            from ringfence.qemu.des import vnc_response

            self._writer.write(vnc_response(password, await self._read(16)))
        elif _NO_AUTH in kinds:
            self._writer.write(bytes([_NO_AUTH]))
        else:
            names = ", ".join(_AUTH_NAMES.get(kind, str(kind)) for kind in kinds)
            raise MonitorProtocolError(
                f"{self._address}: the VNC server wants {names}, which is not spoken here",
                hint="without login or with a password only: use QEMU's QMP socket, or a -vnc unix:PATH beside",
            )
        if (await self._unpack(">I"))[0]:
            raise UsageError(
                f"{self._address}: not let in: {await self._reason()}", hint="see the password in --password-file"
            )

    async def _reason(self) -> str:
        return (await self._read((await self._unpack(">I"))[0])).decode(errors="replace")

    def _ask(self, *, incremental: bool) -> None:
        """Ask for the next update: one answer comes for it, when something has changed."""
        self._writer.write(struct.pack(">BBHHHH", 3, incremental, 0, 0, self.frame.width, self.frame.height))

    async def _receive_all(self) -> None:
        try:
            while True:
                self._ask(incremental=True)
                while await self._receive() != _UPDATE:
                    pass
                self._changed.set()
        except (OSError, asyncio.IncompleteReadError, MonitorProtocolError):
            self._changed.set()

    async def _receive(self) -> int:
        """Take in one message; gives its type."""
        (kind,) = await self._read(1)
        if kind == _UPDATE:
            rectangles = [await self._receive_rectangle() for _ in range((await self._unpack(">xH"))[0])]
            for rectangle in rectangles:  # all at once: who looks sees no half of an update
                self._draw(*rectangle)
        elif kind == _COLOUR_MAP:
            await self._read(6 * (await self._unpack(">xHH"))[1])
        elif kind == _CUT_TEXT:
            await self._read((await self._unpack(">xxxI"))[0])
        elif kind != _BELL:
            raise MonitorProtocolError(f"{self._address}: unknown message {kind} from the VNC server")
        return kind

    async def _receive_rectangle(self) -> tuple[int, int, int, int, bytes | None]:
        """Its place, size, and pixels; None for these when it is the screen's new size."""
        x, y, width, height, encoding = await self._unpack(">HHHHi")
        if max(width, height) > _MAX_SIDE or encoding not in (_RAW, _DESKTOP_SIZE):
            raise MonitorProtocolError(f"{self._address}: a picture that was not asked for")
        return x, y, width, height, None if encoding == _DESKTOP_SIZE else await self._read(width * height)

    def _draw(self, x: int, y: int, width: int, height: int, pixels: bytes | None) -> None:
        if pixels is None:
            self.frame.resize(width, height)
        elif pixels:
            self.frame.draw(x, y, width, pixels)

    async def _unpack(self, form: str) -> Sequence[int]:
        return struct.unpack(form, await self._read(struct.calcsize(form)))

    async def _read(self, count: int) -> bytes:
        return await self._reader.readexactly(count)

    def _check(self) -> None:
        if self._receiving is None or self._receiving.done():
            raise MonitorGoneError(f"{self._address}: the VNC connection has ended", hint=sockets.GONE_HINT)
