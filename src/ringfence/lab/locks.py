"""One builder at a time: several processes may find the same thing missing from the cache."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from ringfence.errors import HostError

T = TypeVar("T")


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


def found_or_built(
    lock: Path,
    find: Callable[[], T | None],
    build: Callable[[], T],
    say: Callable[[str], None],
    *,
    doing: str,
    cannot: str,
) -> T:
    """What is in the cache, built first when it is not. Blocks.

    :param lock: held while it is built; what is built lies in its directory, which is made.
    :param doing: as of `locked`. :param cannot: completes the message of an error: `build the guest image`.
    :raise HostError: the system refused something; and as `find` and `build` do.
    """
    found = find()
    if found is not None:
        return found
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with locked(lock, say, doing):
            return find() or build()
    except OSError as error:
        raise HostError(
            f"cannot {cannot}: {error.strerror}",
            path=str(error.filename or lock.parent),
            errno=error.errno or 0,
            hint="see to the room on the disk and who owns the directory, or set XDG_CACHE_HOME to another one",
        ) from error
