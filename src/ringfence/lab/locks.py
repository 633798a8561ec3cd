"""One builder at a time: several processes may find the same thing missing from the cache."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path, say: Callable[[str], None], doing: str) -> Iterator[None]:
    """Hold the lock on `path`, which is made; the kernel lets go of it when we die. Blocks.

    :param say: told once when another process holds it, which `doing` completes: `makes the image`.
    """
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that {doing}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
