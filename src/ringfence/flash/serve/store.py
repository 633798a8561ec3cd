"""The directory of a served SSD: data of each virtual SSD in a sparse file, and the model's state.

| file | what |
|--|--|
| `device.json` | which device and which virtual SSDs this is: written once |
| `NAME.data` | what the guest wrote; safe after a flush, also from a power failure |
| `pool-N.json` | where pages are and how worn blocks are, in one die; replaced as a whole, some seconds behind |
| `NAME.sock` | the export, while it is served |
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ringfence.errors import HostError, UsageError
from ringfence.flash.online_pool import PoolState


class Store:
    """:param directory: made if it is not there; only one server uses it at a time.
    :param identity: what is served, as JSON; the directory keeps it.
    :param sizes_bytes: of each virtual SSD, by name.

    :raise UsageError: the directory holds another device, or is being served.
    :raise HostError: it cannot be written.
    """

    def __init__(self, directory: Path, identity: Mapping[str, Any], sizes_bytes: Mapping[str, int]) -> None:
        self.directory = directory
        self._files: dict[str, int] = {}
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._claim(identity)
            except BaseException:
                os.close(self._lock)
                raise
            for name, size_bytes in sizes_bytes.items():
                fd = os.open(directory / f"{name}.data", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                self._files[name] = fd
                os.ftruncate(fd, size_bytes)
        except OSError as error:
            raise _failed(directory, error) from error

    def _claim(self, identity: Mapping[str, Any]) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"{self.directory} is being served already", hint="end that server, or use another directory"
            ) from None
        path = self.directory / "device.json"
        with suppress(FileNotFoundError):
            if json.loads(path.read_text()) == json.loads(json.dumps(identity)):
                return
            raise UsageError(
                f"{self.directory} holds another device or other virtual SSDs",
                hint=f"{path} says which; use another directory, or remove this one with all its data",
            )
        _replace(path, json.dumps(identity, indent=1) + "\n")

    def file(self, name: str) -> int:
        """The descriptor of a virtual SSD's data."""
        return self._files[name]

    def load(self, pools: int) -> list[PoolState | None]:
        """The saved state of each pool; None where there is none, or it cannot be read."""
        found: list[PoolState | None] = []
        for number in range(pools):
            try:
                state = json.loads((self.directory / f"pool-{number}.json").read_text())
            except (OSError, ValueError):
                state = None
            found.append(state if isinstance(state, dict) else None)
        return found

    def save(self, number: int, state: PoolState) -> None:
        """Replace the state of one pool. A crash leaves the old one or the new one.

        :raise HostError: it cannot be written; the old one is left.
        """
        try:
            _replace(self.directory / f"pool-{number}.json", json.dumps(state, separators=(",", ":")))
        except OSError as error:
            raise _failed(self.directory, error) from error

    def socket(self, name: str) -> Path:
        """Where a virtual SSD is exported."""
        return self.directory / f"{name}.sock"

    def close(self) -> None:
        """Bring all data to the disk, and let others have the directory."""
        for fd in self._files.values():
            os.fdatasync(fd)
            os.close(fd)
        self._files = {}
        os.close(self._lock)


def _replace(path: Path, text: str) -> None:
    beside = path.with_suffix(".new")
    beside.write_text(text)
    beside.replace(path)


def _failed(directory: Path, error: OSError) -> HostError:
    return HostError(
        f"cannot use {directory}: {error.strerror}",
        path=str(error.filename or directory),
        errno=error.errno or 0,
        hint="see to the room on the disk and who owns the directory",
    )
