"""A host on paper whose resctrl is a `FakeResctrl`: answers what `knobs.resctrl` asks, for one tenant."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from ringfence.core import host_requests as ask
from ringfence.core.host import OTHER, Placement, Task
from ringfence.errors import HostError
from ringfence.testing.fake_resctrl import FakeResctrl

_ROOT = "/sys/fs/resctrl"


class ResctrlHost:
    """One tenant on a machine with resctrl; several of them may share a machine, and a set of folders.

    :param label: the tenant's; `tids` its threads, the process first.
    :param folders: other folders there are, such as those below /run.
    :ivar locked: whether the tenant holds resctrl's lock.
    """

    def __init__(self, resctrl: FakeResctrl, label: str, tids: Sequence[int], folders: set[str]) -> None:
        self.resctrl = resctrl
        self.label = label
        self.tids = list(tids)
        self.folders = folders
        self.locked = False
        self.on_write: Callable[[str, str], None] = lambda _path, _text: None

    def answer_now(self, request: Any) -> Any:
        """:raise HostError: as the kernel refuses it."""
        try:
            return self._answer(request)
        except OSError as error:
            raise HostError(
                f"refused: {os.strerror(error.errno or 0)}", path=request.path, errno=error.errno or 0
            ) from None

    def _answer(self, request: Any) -> Any:
        match request:
            case ask.Placement():
                return Placement((), (self.tids[0],), self.label, False)
            case ask.Tasks():
                return tuple(Task(tid, "t", OTHER) for tid in self.tids)
            case ask.Lock():
                self.locked = True
                return True
            case ask.Unlock():
                self.locked = False
                return None
        inside = request.path.startswith(_ROOT)
        path = request.path.removeprefix(_ROOT)
        match request:
            case ask.ReadFile(optional=optional):
                return self._read(path, optional=optional)
            case ask.WriteFile(text=text):
                assert self.locked, "a write without the lock"
                self.on_write(path, text)
                return self.resctrl.write(path, text)
            case ask.ListDir(folders=folders):
                return self._list(request.path, path, inside=inside, folders=folders)
            case ask.MakeDir():
                return self._make(request.path, path, inside=inside)
            case ask.RemoveDir():
                return self.resctrl.rmdir(path) if inside else self.folders.discard(request.path)

    def _read(self, path: str, *, optional: bool) -> str | None:
        try:
            return self.resctrl.read(path)
        except OSError:
            if optional:
                return None
            raise

    def _list(self, whole: str, path: str, *, inside: bool, folders: bool) -> tuple[str, ...]:
        if inside:
            names = self.resctrl.names(path)
            return tuple(sorted(n for n in names if not folders or self.resctrl.is_folder(f"{path}/{n}")))
        if whole not in self.folders:
            raise FileNotFoundError(2, whole)
        return tuple(
            sorted(name.removeprefix(f"{whole}/") for name in self.folders if name.startswith(f"{whole}/"))
        )

    def _make(self, whole: str, path: str, *, inside: bool) -> bool:
        if not inside:
            made = whole not in self.folders
            self.folders.add(whole)
            return made
        if self.resctrl.is_folder(path):
            return False
        self.resctrl.mkdir(path)
        return True
