"""What a service manager is told, and asks: readiness, reloads, the watchdog. See sd_notify(3), sd-daemon(3).

The protocol is a datagram of `KEY=value` lines; the libraries for it are no longer kept, or need a compiler.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from contextlib import suppress

_LEVELS = {"error": 3, "warning": 4, "info": 6}


def notify(*words: str) -> None:
    """Tell the service manager, if there is one: `READY=1`, `STATUS=...`, `WATCHDOG=1`. Never raises."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.connect(address)
        sender.sendall("\n".join(words).encode())


def reloading() -> None:
    """Say that files are being read anew; `notify("READY=1")` ends it. `Type=notify-reload` wants the time."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def watchdog_s() -> float | None:
    """How often to say `WATCHDOG=1`: half the time that is allowed; None when nobody waits for it."""
    wanted_us, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not wanted_us.isdecimal() or (pid and pid != str(os.getpid())):
        return None
    return int(wanted_us) / 1e6 / 2


def log(level: str, text: str) -> None:
    """One line on standard error; the journal takes its level from the number in front, see sd-daemon(3)."""
    prefix = f"<{_LEVELS[level]}>" if os.environ.get("JOURNAL_STREAM") else ""
    sys.stderr.write(f"{prefix}{text}\n")
    sys.stderr.flush()
