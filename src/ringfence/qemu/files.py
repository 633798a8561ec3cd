"""Where the sockets and files of a VM that ringfence starts are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from ringfence.core.model import Address
from ringfence.errors import UsageError
from ringfence.qemu.paths import check_socket_path, private_dir, runtime_dir

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class Files(NamedTuple):
    """Where a VM's sockets and files are, all in one private directory."""

    directory: Path

    @property
    def qmp(self) -> Address:
        """The monitor left free for people and other programs."""
        return Address(path=str(self.directory / "qmp.sock"))

    @property
    def qmp_tools(self) -> Address:
        """The monitor meant for ringfence."""
        return Address(path=str(self.directory / "qmp-tools.sock"))

    @property
    def agent(self) -> Address:
        """The guest agent's channel."""
        return Address(path=str(self.directory / "agent.sock"))

    @property
    def pidfile(self) -> Path:
        """Locked by QEMU for as long as it runs."""
        return self.directory / "pid"

    @property
    def serial(self) -> Path:
        """What the guest writes to its first serial port."""
        return self.directory / "serial.log"


def home(kind: str) -> Path:
    """The directory of all VMs of one kind (`lab`, `vm`), made when missing. Errors as in `runtime_dir`."""
    return private_dir(runtime_dir() / kind)


def files_of(kind: str, name: str) -> Files:
    """The files of the VM `name`; its own directory need not exist.

    :raise UsageError: the name cannot be one.
    :raise HostError: the path is too long for sockets, or the home is not ours.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} cannot be a VM's name", hint="letters, digits, and `-_.` behind the first")
    files = Files(home(kind) / name)
    check_socket_path(Path(files.qmp_tools.path))  # the longest
    return files
