"""Containers as tenants: found by the cgroups of the processes that run, named as their engines name them.

No engine is asked: its socket may need rights that reading a group does not, and who is found so is found whatever
started it. What an engine leaves behind without a process in it is no tenant.
"""

from __future__ import annotations

import os
import re

from ringfence.core.model import Container
from ringfence.errors import UsageError
from ringfence.host import container_names, files
from ringfence.host.hierarchies import mounted

_ID = r"[0-9a-f]{64}"
_PATTERNS = (
    # podman: with systemd a scope, in which crun makes one group more; else a folder. Conmon's own are not meant.
    ("podman", re.compile(rf"(?P<group>.*/libpod-(?P<id>{_ID})(\.scope(/container)?)?)(?:/|$)")),
    ("docker", re.compile(rf"(?P<group>.*/docker-(?P<id>{_ID})\.scope)(?:/|$)")),
    # containerd, CRI-O and Docker as Kubernetes' runtimes, with either of their cgroup drivers.
    (
        "kubernetes",
        re.compile(rf"(?P<group>.*kubepods.*/(?:cri-containerd-|crio-|docker-)?(?P<id>{_ID})(?:\.scope)?)(?:/|$)"),
    ),
    ("docker", re.compile(rf"(?P<group>.*/docker/(?P<id>{_ID}))(?:/|$)")),
    ("containerd", re.compile(rf"(?P<group>.*/(?:nerdctl-|cri-containerd-)?(?P<id>{_ID})(?:\.scope)?)(?:/|$)")),
    ("nspawn", re.compile(r"(?P<group>.*/systemd-nspawn@(?P<id>[^/]+)\.service)(?:/|$)")),
    ("nspawn", re.compile(r"(?P<group>.*/machine-(?!qemu|lxc)(?P<id>[^/]+)\.scope)(?:/|$)")),
    # LXC, and Incus and LXD, which are built on it.
    ("lxc", re.compile(r"(?P<group>.*/lxc\.payload[./](?P<id>[^/]+))(?:/|$)")),
    ("lxc", re.compile(r"(?P<group>.*/lxc/(?P<id>[^/]+))(?:/|$)")),
)
_NOT_ONE = re.compile(r"/(libpod|crio)-conmon-|/lxc\.monitor")
_PS_HINT = "`ringfence ps` lists what runs here"


def find_containers(root: str = "") -> list[Container]:
    """Every container with a process that this user may see, by name. Never raises for what it cannot read."""
    found: dict[tuple[str, str], Container] = {}
    for pid in sorted(map(int, filter(str.isdigit, files.names(f"{root}/proc")))):
        container = _of_process(root, pid)
        if container is not None:
            found.setdefault((container.engine, container.id), container)
    for container in container_names.of_runtimes(root):
        if not any(container.pid == other.pid for other in found.values()):
            found.setdefault((container.engine, container.id), container)
    names = container_names.Names(root)
    return sorted(map(names.name, found.values()))


def find(selector: str, root: str = "") -> Container:
    """The tenant of a `container:NAME` (a name, or the beginning of an id) or `cgroup:/PATH`.

    :raise UsageError: there is none, or several are called so.
    """
    kind, _, name = selector.partition(":")
    if kind == "cgroup":
        return at(name, root)
    containers = find_containers(root)
    found = [c for c in containers if name in (c.name, c.id)] or [
        c for c in containers if len(name) >= 4 and c.id.startswith(name)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        each = "; ".join(f"{c.id[:12]} ({c.engine})" for c in found)
        raise UsageError(f"{len(found)} containers are called {name!r}: {each}", hint="name one by its id")
    import difflib

    near = difflib.get_close_matches(name, [c.name for c in containers], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? {_PS_HINT}" if near else f"{_PS_HINT}; cgroup:/PATH names any group"
    raise UsageError(f"there is no container {name!r}", hint=hint)


def at(path: str, root: str = "") -> Container:
    """Any group as a tenant.

    :param path: below the mounts, such as `/web`, or with the mount before it.
    :raise UsageError: no hierarchy has it, or it is the root of one.
    """
    hierarchies = mounted(root)
    below = path
    for hierarchy in sorted(hierarchies, key=lambda hierarchy: len(hierarchy.mount)):
        mount = hierarchy.mount[len(root) :]
        if path == mount or path.startswith(f"{mount}/"):
            below = path[len(mount) :]
    below = "/" + below.strip("/")
    found = [h.mount + below for h in hierarchies if os.path.exists(f"{h.mount}{below}/cgroup.procs")]
    if ".." in below.split("/"):
        raise UsageError(f"{path!r} is not the path of a cgroup", hint="without '..', such as cgroup:/web")
    if below == "/":
        raise UsageError(
            "the root of all cgroups is no tenant: it is the host itself",
            hint="give a path below /sys/fs/cgroup, such as cgroup:/web",
        )
    if not found:
        hint = "give its path below /sys/fs/cgroup, such as cgroup:/web"
        raise UsageError(f"there is no cgroup {path!r}", hint=hint)
    pids = (files.numbers(files.text(f"{folder}/cgroup.procs")) for folder in found)
    return Container(below, "", "cgroup", next((ids[0] for ids in pids if ids), 0), below)


def _of_process(root: str, pid: int) -> Container | None:
    for line in files.text(f"{root}/proc/{pid}/cgroup").splitlines():
        path = line.split(":", 2)[2].removesuffix(" (deleted)")
        if len(path) < 5 or _NOT_ONE.search(path):
            continue
        for engine, pattern in _PATTERNS:
            if match := pattern.match(path):
                name = container_names.unescaped(match["id"]) if engine == "nspawn" else match["id"]
                return Container(name, match["id"], engine, pid, match["group"])
    return None
