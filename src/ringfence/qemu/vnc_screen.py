"""QEMU's consoles through its VNC server: keys by keysym, text by its glyphs."""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import TYPE_CHECKING

from ringfence.core.model import Address
from ringfence.errors import UsageError
from ringfence.qemu import glyphs
from ringfence.qemu.keysyms import BACKSPACE, ENTER, console_keys, keysyms
from ringfence.qemu.rfb import RfbClient

if TYPE_CHECKING:
    from typing import Self

_FIRST_PORT = 5900
_LOOK_AGAIN_S = 0.5
_AT = re.compile(r"(?P<host>\[[^\[\]/]+\]|[^:/\[\]]*):(?P<port>:?)(?P<number>\d+)")


def parse_vnc(text: str) -> Address:
    """Where a VNC server is, as its clients write it: `HOST:DISPLAY`, `HOST::PORT`, `unix:PATH`, or a path.

    :raise UsageError: it is none of these.
    """
    if text.startswith("unix:") or "/" in text:
        return Address(path=text.removeprefix("unix:"))
    found = _AT.fullmatch(text)
    port = int(found["number"]) + (0 if found["port"] else _FIRST_PORT) if found else 0
    if found is None or not 0 < port < 65536:
        raise UsageError(f"{text!r} is no VNC server", hint="write HOST:DISPLAY, HOST::PORT, or unix:PATH")
    return Address(host=found["host"].strip("[]") or "127.0.0.1", port=port)


class VncScreen:
    """A `screen.Screen`. Make one with `open`."""

    def __init__(self, address: Address, client: RfbClient) -> None:
        self._address = address
        self._client = client

    @classmethod
    async def open(cls, address: Address, *, password: str | None = None, timeout_s: float = 5.0) -> Self:
        """Connect beside those who look at the screen already. Errors as in `RfbClient.open`."""
        return cls(address, await RfbClient.open(address, password=password, timeout_s=timeout_s))

    @property
    def name(self) -> str:
        """See `Screen.name`."""
        return f"VNC at {self._address}"

    async def rows(self) -> list[str]:
        """See `Screen.rows`."""
        frame = self._client.frame
        return glyphs.read(frame.width, frame.height, frame.pixels)

    async def type(self, text: str) -> None:
        """See `Screen.type`."""
        for char in text:
            self._client.press(*keysyms(char))

    async def enter(self) -> None:
        """See `Screen.enter`."""
        self._client.press(ENTER)

    async def erase(self, count: int) -> None:
        """See `Screen.erase`."""
        for _ in range(count):
            self._client.press(BACKSPACE)

    async def choose(self, console: int) -> None:
        """See `Screen.choose`."""
        self._client.press(*console_keys(console))

    async def changed(self) -> None:
        """See `Screen.changed`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_AGAIN_S):
                await self._client.changed()

    async def ended(self) -> None:
        """See `Screen.ended`."""
        await self._client.ended()

    async def close(self) -> None:
        """See `Screen.close`."""
        await self._client.close()
