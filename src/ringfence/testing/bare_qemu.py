"""A real QEMU without a guest: stopped before its first instruction, with disks that hold nothing.

    with BareQemu(tmp_path, "web1", disks=3) as qemu: ...

It is up in 0.05 s and takes 15 MB. Limits of disks, pools and groups are real in it; what needs a guest is not.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

_UP_WITHIN_S = 30.0


class BareQemu:
    """One process. :ivar name: as `ringfence ps` lists it; give it something of the test's own.

    :param folder: for its sockets; short, see `unix(7)`.
    :param disks: how many, `vda` and on. :param extra: more words of QEMU's command line.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        disks: int = 1,
        program: str = "qemu-system-x86_64",
        extra: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.socket = folder / f"{name}.qmp"
        blocks = [
            word
            for number in range(disks)
            for word in (
                *("-blockdev", f"driver=null-co,node-name=n{number},size=1048576"),
                *("-device", f"virtio-blk-pci,id=d{number},drive=n{number}"),
            )
        ]
        self._words = [
            *(program, "-S", "-nodefaults", "-no-user-config", "-display", "none", "-name", name),
            *("-machine", "q35", "-accel", "tcg", "-m", "64"),
            *("-qmp", f"unix:{self.socket},server=on,wait=off"),
            *blocks,
            *extra,
        ]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the process that runs now; 0 when none does."""
        return self._process.pid if self._process else 0

    def start(self) -> None:
        """Start it, and wait until it listens.

        :raise RuntimeError: it ended at once, or does not listen.
        """
        self.socket.unlink(missing_ok=True)
        self._process = subprocess.Popen(self._words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + _UP_WITHIN_S
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"QEMU does not come up: {' '.join(self._words)}")
            time.sleep(0.005)

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.socket))
                return bool(probe.recv(1))
            except OSError:
                return False

    def crash(self) -> None:
        """End it from another process than the one that started it; the latter is to `kill` it too."""
        os.kill(self.pid, signal.SIGKILL)
        while not self._is_zombie():
            time.sleep(0.001)

    def _is_zombie(self) -> bool:
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_bytes()
        except OSError:
            return True
        return stat.rpartition(b")")[2].split()[0] == b"Z"

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def __enter__(self) -> BareQemu:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
