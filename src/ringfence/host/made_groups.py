"""Groups that ringfence made: `ringfence-NAME-PID` and, below any group, `ringfence-vcpus` with what is in it.

A scope of systemd's ends by itself with the last process in it, and is never stopped, as that would end the VM.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from ringfence.core.host import OURS
from ringfence.errors import HostError
from ringfence.host import files
from ringfence.host.hierarchies import mounted
from ringfence.host.made import Made

_LISTS = {1: "tasks", 2: "cgroup.threads"}


def find(root: str) -> Iterator[Made]:
    """Every such group, the inner ones first."""
    for hierarchy in mounted(root):
        for folder in _ours(hierarchy.mount):
            yield Made(_kind(folder), folder, _holds(folder, hierarchy.version), "made_groups")


def _ours(folder: str, *, inside: bool = False) -> Iterator[str]:
    for name in files.folders(folder):
        path = f"{folder}/{name}"
        ours = inside or name.startswith(f"{OURS}-")
        yield from _ours(path, inside=ours)
        if ours:
            yield path


def _kind(folder: str) -> str:
    return "scope" if folder.endswith(".scope") else "cgroup"


def _holds(folder: str, version: int) -> str:
    """Processes in the group or below it; of threads alone, those."""
    pids = _pids(folder)
    if pids:
        return f"process {', '.join(map(str, sorted(pids)))}"
    tids = files.numbers(files.text(f"{folder}/{_LISTS[version]}"))
    return f"thread {', '.join(map(str, tids))}" if tids else ""


def _pids(folder: str) -> set[int]:
    found = set(files.numbers(files.text(f"{folder}/cgroup.procs")))
    for name in files.folders(folder):
        found |= _pids(f"{folder}/{name}")
    return found


async def remove(made: Made, root: str) -> None:
    """As `remove_now`."""
    remove_now(made, root)


def remove_now(made: Made, root: str) -> None:
    """Put what is in the group into the one above it, and remove the group.

    :raise HostError: the kernel refuses; what was moved by then stays where it came to.
    """
    if not os.path.isdir(made.name):
        return
    if made.kind == "scope":
        raise HostError(
            f"{made.name} ends with its VM, and not before: its limits can be lifted with `ringfence set`",
            path=made.name,
        )
    hierarchy = next(h for h in mounted(root) if made.name.startswith(f"{h.mount}/"))
    above = os.path.dirname(made.name)
    # All of a process at once where that can be: in a threaded group each thread by itself.
    _empty(made.name, above, "cgroup.procs")
    _empty(made.name, above, _LISTS[hierarchy.version])
    try:
        os.rmdir(made.name)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise files.refused("cannot remove", made.name, error) from None


def _empty(folder: str, above: str, name: str) -> None:
    for number in files.numbers(files.text(f"{folder}/{name}")):
        try:
            files.write(f"{above}/{name}", str(number))
        except HostError as error:
            if os.path.exists(f"/proc/{number}"):
                raise error


def sweep(folder: str) -> None:
    """Remove our groups in a folder whose VMs have ended; whatever cannot be is left."""
    for path in _ours_in(folder):
        if not files.text(f"{path}/cgroup.procs").strip():
            try:
                os.rmdir(path)
            except OSError:
                continue


def _ours_in(folder: str) -> Iterator[str]:
    """Our groups right below a folder, after what is in them."""
    for name in files.folders(folder):
        if name.startswith(f"{OURS}-"):
            yield from _ours(f"{folder}/{name}", inside=True)
            yield f"{folder}/{name}"
