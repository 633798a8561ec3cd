"""Which cgroup hierarchies are mounted, and where a process is in each.

Sources: proc(5) (/proc/PID/mountinfo, /proc/PID/cgroup), cgroups(7), cgroup_namespaces(7).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from ringfence.host import files

_ESCAPED = re.compile(r"\\([0-7]{3})")
_NOT_CONTROLLERS = frozenset({"rw", "ro", "none", "xattr", "clone_children", "noprefix"})


class Hierarchy(NamedTuple):
    """One cgroup mount.

    :param root: the path in the hierarchy that is seen at the mount point: not `/` where only a part is mounted.
    """

    version: int
    controllers: tuple[str, ...]
    mount: str
    root: str
    read_only: bool

    def below(self, path: str) -> str | None:
        """A path of /proc/PID/cgroup as it is below the mount; None when it is not to be seen there."""
        if self.root == "/":
            return path
        if path == self.root:
            return "/"
        return path[len(self.root) :] if path.startswith(f"{self.root}/") else None


def mounted(root: str) -> tuple[Hierarchy, ...]:
    """Every cgroup hierarchy that this process sees, each once, by its first mount.

    :param root: of the machine; `` is this one.
    """
    found = _parsed(root, files.text(f"{root}/proc/self/mountinfo"))
    return tuple(
        hierarchy._replace(controllers=tuple(files.text(f"{hierarchy.mount}/cgroup.controllers").split()))
        if hierarchy.version == 2
        else hierarchy
        for hierarchy in found
    )


@lru_cache(maxsize=8)
def _parsed(root: str, text: str) -> tuple[Hierarchy, ...]:
    """The mounts of a text, which is the same for every tenant; controllers of v2 are not told there."""
    found: dict[str, Hierarchy] = {}
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if len(fields) < 6 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        version = 2 if kind[0] == "cgroup2" else 1
        options = () if version == 2 else _controllers(kind[2])
        mount, top = (_ESCAPED.sub(lambda code: chr(int(code[1], 8)), text) for text in (fields[4], fields[3]))
        read_only = "ro" in fields[5].split(",") or "ro" in kind[2].split(",")
        found.setdefault(f"{version} {options if version == 1 else ''}", Hierarchy(
            version, options, root + mount, top, read_only
        ))  # fmt: skip
    return tuple(found.values())


def _controllers(options: str) -> tuple[str, ...]:
    """Of a v1 mount's options; a named hierarchy is `name=systemd`."""
    return tuple(option for option in options.split(",") if option not in _NOT_CONTROLLERS)


def paths_of(root: str, pid: int, hierarchies: tuple[Hierarchy, ...]) -> dict[Hierarchy, str]:
    """Where a process (or a thread, by its id) is in each hierarchy, as paths below the mounts.

    Empty when it is gone. A hierarchy in which it stands outside of what is mounted is left out.
    """
    by_controller: dict[str, str] = {}
    for line in files.text(f"{root}/proc/{pid}/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        by_controller.update(dict.fromkeys(names.split(",") if names else ["v2"], path))
    found: dict[Hierarchy, str] = {}
    for hierarchy in hierarchies:
        name = "v2" if hierarchy.version == 2 else next(iter(hierarchy.controllers), "")
        place = by_controller.get(name)
        below = hierarchy.below(place.removesuffix(" (deleted)")) if place is not None else None
        if below is not None:
            found[hierarchy] = below
    return found
