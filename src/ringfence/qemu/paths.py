"""Where ringfence keeps what outlives a command: caches, and the sockets of VMs it started.

What is needed to change a limit gives plain strings: pathlib takes 3 ms to import.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from ringfence.errors import HostError

if TYPE_CHECKING:
    from pathlib import Path

SOCKET_PATH_LIMIT_BYTES = 107
"""`sun_path` holds 108 bytes with the closing zero, unix(7)."""


def cache_dir() -> Path:
    """`$XDG_CACHE_HOME/ringfence`, or `~/.cache/ringfence`; it need not exist. All of it may be deleted."""
    from pathlib import Path

    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "ringfence"


def runtime_dir() -> Path:
    """`runtime_folder` as a path."""
    from pathlib import Path

    return Path(runtime_folder())


def runtime_folder() -> str:
    """The user's private directory for sockets, made when missing: `ringfence` in the first that can be used of

    `$XDG_RUNTIME_DIR`, `/run/user/UID`; without them `ringfence-UID` in the directory for temporary files.

    :raise HostError: the last one belongs to somebody else, or others may write to it.
    """
    uid = os.getuid()
    for base in (os.environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{uid}"):
        if os.path.isabs(base) and os.access(base, os.W_OK | os.X_OK) and _is_safe(base, uid):
            return private_folder(f"{base}/ringfence")
    return private_folder(f"{os.environ.get('TMPDIR') or '/tmp'}/ringfence-{uid}")


def _is_safe(base: str, uid: int) -> bool:
    """Whether nobody else can swap what this user makes in that directory."""
    found = os.stat(base)
    return found.st_uid == uid or (found.st_uid == 0 and bool(found.st_mode & stat.S_ISVTX))


def private_dir(path: Path) -> Path:
    """`private_folder` of a path."""
    private_folder(str(path))
    return path


def private_folder(path: str) -> str:
    """Make `path` with mode 0700, or see that it is a directory of ours that nobody else can write to.

    :raise HostError: it is not, or it cannot be made.
    """
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        found = os.lstat(path)
    except OSError as error:
        raise HostError(
            f"cannot make the directory {path}: {error.strerror}",
            path=path,
            errno=error.errno or 0,
            hint="set XDG_RUNTIME_DIR to a directory of yours",
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise HostError(
            f"{path} is not a private directory of this user",
            path=path,
            hint="remove it, or set XDG_RUNTIME_DIR to a directory of yours",
        )
    return path


def check_socket_path(path: Path) -> None:
    """Refuse a path that is too long for a unix socket.

    :raise HostError: it is longer than `SOCKET_PATH_LIMIT_BYTES`.
    """
    if len(os.fsencode(path)) > SOCKET_PATH_LIMIT_BYTES:
        raise HostError(
            f"{path} is too long for a socket: {SOCKET_PATH_LIMIT_BYTES} bytes at most",
            path=str(path),
            hint="set XDG_RUNTIME_DIR to a shorter path, or choose a shorter name",
        )
