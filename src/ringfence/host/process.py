"""What the kernel tells of one process, from /proc/PID."""

from __future__ import annotations

import os


def rss_bytes(pid: int, proc: str = "/proc") -> int | None:
    """Resident set size in bytes (proc(5), statm field 2); None when the process is gone or hidden."""
    try:
        with open(f"{proc}/{pid}/statm", encoding="ascii") as file:
            resident_pages = int(file.read().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return resident_pages * os.sysconf("SC_PAGE_SIZE")
