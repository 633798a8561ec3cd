"""A resctrl that can be mounted: `FakeResctrl` behind FUSE, for programs that know nothing of fakes.

python -m ringfence.testing.resctrl_fuse MOUNTPOINT [icelake|cdp|mbps|epyc]

Each write(2) arrives whole and is answered with the kernel's errno. Needs /dev/fuse, libfuse3 and mfusepy.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import threading
from typing import Any

from ringfence.testing.fake_resctrl import FakeResctrl
from ringfence.testing.rdt_processors import EPYC, ICELAKE, ICELAKE_CDP, ICELAKE_MBPS

PROCESSORS = {"icelake": ICELAKE, "cdp": ICELAKE_CDP, "mbps": ICELAKE_MBPS, "epyc": EPYC}
_WRITABLE = ("schemata", "mode", "tasks", "cpus", "cpus_list")


def serve(mountpoint: str, resctrl: FakeResctrl) -> None:
    """Mount, and serve until it is unmounted."""
    import mfusepy

    lock = threading.Lock()

    class Files(mfusepy.Operations):  # type: ignore[misc]
        use_ns = True

        def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
            with lock:
                if resctrl.is_folder(path):
                    return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
                size = len(resctrl.read(path))
            mode = 0o644 if path.rsplit("/", 1)[-1] in _WRITABLE else 0o444
            return {"st_mode": stat.S_IFREG | mode, "st_nlink": 1, "st_size": size}

        def readdir(self, path: str, fh: int) -> list[str]:
            with lock:
                return [".", "..", *resctrl.names(path)]

        def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
            with lock:
                return resctrl.read(path).encode()[offset : offset + size]

        def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
            with lock:
                resctrl.write(path, data.decode(), writer=mfusepy.fuse_get_context()[2])
            return len(data)

        def truncate(self, path: str, length: int, fh: int | None = None) -> int:
            return 0

        def open(self, path: str, flags: int) -> int:
            return 0

        def mkdir(self, path: str, mode: int) -> int:
            with lock:
                resctrl.mkdir(path)
            return 0

        def rmdir(self, path: str) -> int:
            with lock:
                resctrl.rmdir(path)
            return 0

        def create(self, path: str, mode: int, fi: Any = None) -> int:
            raise OSError(errno.EACCES, "as on the real one")

    mfusepy.FUSE(Files(), mountpoint, foreground=True, direct_io=True, fsname="resctrl", subtype="resctrl")


def main() -> None:
    """See the module."""
    kinds = PROCESSORS[sys.argv[2] if len(sys.argv) > 2 else "icelake"]
    domains = 4 if kinds is EPYC else 2
    serve(
        sys.argv[1],
        FakeResctrl(kinds, domains=domains, exists=lambda tid: os.path.isdir(f"/proc/{tid}") or not tid),
    )


if __name__ == "__main__":
    main()
