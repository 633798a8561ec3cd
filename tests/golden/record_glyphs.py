"""Writes src/ringfence/qemu/glyphs.txt: types each printable character into a monitor console, and looks at it.

python tests/golden/record_glyphs.py
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ringfence.core.model import Address
from ringfence.qemu import glyphs
from ringfence.qemu.keysyms import ENTER, console_keys, keysyms
from ringfence.qemu.rfb import RfbClient

TARGET = Path(glyphs.__file__).with_name("glyphs.txt")
PROMPT_COLUMNS = len("(qemu) ")
CHARACTERS = "".join(map(chr, range(0x20, 0x7F)))
MACHINE = "-S -machine q35 -accel tcg -vga std -monitor vc"


async def record(screen: RfbClient, text: str) -> dict[str, bytes]:
    """The cells of `text` typed at the prompt, which is left on a new line."""
    for char in text:
        screen.press(*keysyms(char))
    await asyncio.sleep(1)
    frame = screen.frame
    rows = glyphs.cells(frame.width, frame.height, frame.pixels)
    last = [row for row in rows if any(any(cell) for cell in row)][-1]
    screen.press(ENTER)
    await asyncio.sleep(1)
    return dict(zip(text, last[PROMPT_COLUMNS:], strict=False))


async def record_all(path: str) -> dict[str, bytes]:
    """The cell of each character, in the monitor of the QEMU whose VNC socket this is."""
    screen = await RfbClient.open(Address(path))
    screen.press(*console_keys(2))
    await asyncio.sleep(1)
    found = {" ": bytes(glyphs.WIDTH * glyphs.HEIGHT)}
    # The first character typed is not a space, as the prompt ends in one, and a line holds 73.
    for start in range(1, len(CHARACTERS), 40):
        found |= await record(screen, CHARACTERS[start : start + 40])
    await screen.close()
    return found


def main() -> None:
    """Start a QEMU, record, and write the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/vnc"
        with subprocess.Popen(["qemu-system-x86_64", *MACHINE.split(), "-vnc", f"unix:{path}"]) as qemu:
            while not Path(path).exists():
                time.sleep(0.1)
            try:
                found = asyncio.run(record_all(path))
            finally:
                qemu.kill()
    if len(set(found.values())) != len(CHARACTERS):
        sys.exit("not every character was seen: try again")
    TARGET.write_text("".join(glyphs.as_line(char, found[char]) for char in CHARACTERS))


if __name__ == "__main__":
    main()
