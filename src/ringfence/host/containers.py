"""Containers as tenants: found by their cgroups, named as their engine names them."""

from __future__ import annotations

from ringfence.core.model import Container
from ringfence.errors import UsageError
from ringfence.host import files
from ringfence.host.hierarchies import mounted

_PS_HINT = "`ringfence ps` lists what runs here"


def find(selector: str, root: str = "") -> Container:
    """The tenant of a `container:NAME` or `cgroup:/PATH`.

    :raise UsageError: there is none.
    """
    kind, _, name = selector.partition(":")
    if kind == "cgroup":
        return at(name, root)
    raise UsageError(f"there is no container {name!r}", hint=_PS_HINT)


def at(path: str, root: str = "") -> Container:
    """Any group as a tenant.

    :param path: below the mounts, such as `/web`, or with the mount before it.
    :raise UsageError: no hierarchy has it, or it is the root of one.
    """
    hierarchies = mounted(root)
    below = path
    for hierarchy in hierarchies:
        mount = hierarchy.mount[len(root) :]
        if path.startswith(f"{mount}/"):
            below = path[len(mount) :]
    below = "/" + below.strip("/")
    folders = [h.mount + below for h in hierarchies]
    if below == "/" or not (found := [f for f in folders if files.text(f"{f}/cgroup.procs") or files.names(f)]):
        raise UsageError(
            f"there is no cgroup {path!r}", hint="give its path below /sys/fs/cgroup, such as cgroup:/web"
        )
    pids = (files.numbers(files.text(f"{folder}/cgroup.procs")) for folder in found)
    return Container(below, "", "cgroup", next((ids[0] for ids in pids if ids), 0), below)
