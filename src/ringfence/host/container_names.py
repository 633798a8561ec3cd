"""What engines call their containers, read from what they leave on the host: files, and command lines.

* podman: its monitor's command line, `conmon -c ID ... -n NAME`, whatever its storage.
* Docker: `config.v2.json` beside the files that the container has mounted; its bundle tells where these are.
* Kubernetes: annotations in the bundle, of containerd (`io.kubernetes.cri.container-name`) or CRI-O.
* runc and crun by themselves: a file for each container, with its group.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from ringfence.core.model import Container
from ringfence.host import files

_ESCAPE = re.compile(r"\\x([0-9a-f]{2})")
_BUNDLES = (
    "/run/containerd/io.containerd.runtime.v2.task/{namespace}/{id}/config.json",
    "/run/containers/storage/overlay-containers/{id}/userdata/config.json",
    "/var/run/containers/storage/overlay-containers/{id}/userdata/config.json",
)
_NAMESPACES = ("moby", "k8s.io", "default")
_POD = ("io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name")
_IN_POD = ("io.kubernetes.cri.container-name", "io.kubernetes.container.name")


def unescaped(unit: str) -> str:
    """A machine's name, out of its unit's: `web\\x2d1` is `web-1`; see systemd-escape(1)."""
    return _ESCAPE.sub(lambda code: chr(int(code[1], 16)), unit)


def of_runtimes(root: str) -> Iterator[Container]:
    """Containers that runc or crun was told to make by hand; engines have their own folders for theirs."""
    for name in files.folders(f"{root}/run/runc"):
        state = _json(f"{root}/run/runc/{name}/state.json")
        paths = state.get("cgroup_paths")
        if isinstance(paths, dict) and paths:
            mounted = str(paths.get("") or paths.get("cpu") or next(iter(paths.values())))
            yield Container(name, name, "runc", int(state.get("init_process_pid") or 0), _below(mounted))
    for name in files.folders(f"{root}/run/crun"):
        state = _json(f"{root}/run/crun/{name}/status")
        if state.get("cgroup-path"):
            yield Container(name, name, "crun", int(state.get("pid") or 0), str(state["cgroup-path"]))


def _below(folder: str) -> str:
    """The path below a mount: `/sys/fs/cgroup/cpu/web`, or v2's `/sys/fs/cgroup/web`, is `/web`."""
    rest = folder.removeprefix("/sys/fs/cgroup")
    first, _, inner = rest.removeprefix("/").partition("/")
    v1 = {"cpu", "cpuacct", "cpu,cpuacct", "memory", "blkio", "cpuset", "pids", "devices", "freezer", "systemd"}
    return f"/{inner}" if first in v1 else rest


class Names:
    """The names of containers on one host, looked up when they are asked for."""

    def __init__(self, root: str) -> None:
        self._root = root

    def name(self, container: Container) -> Container:
        """The container with its engine's name for it; with the first 12 digits of its id where none is found."""
        if container.engine == "podman":
            found = self._podman.get(container.id, "")
        elif container.engine in ("docker", "kubernetes", "containerd"):
            found = self._by_bundle(container)
        else:
            return container
        return container._replace(name=found or container.id[:12])

    @cached_property
    def _podman(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for pid in filter(str.isdigit, files.names(f"{self._root}/proc")):
            if files.text(f"{self._root}/proc/{pid}/comm").strip() == "conmon":
                words = files.text(f"{self._root}/proc/{pid}/cmdline").split("\0")
                options = dict(itertools.pairwise(words))
                found[options.get("-c", "")] = options.get("-n", "")
        return found

    def _by_bundle(self, container: Container) -> str:
        bundle = self._bundle(container.id)
        annotations = bundle.get("annotations")
        if isinstance(annotations, dict):
            pod, inner = (_first(annotations, keys) for keys in (_POD, _IN_POD))
            if pod or inner:
                return "/".join(filter(None, (pod, inner)))
            if annotations.get("nerdctl/name"):
                return str(annotations["nerdctl/name"])
        folders = {"/var/lib/docker"} | set(_data_roots(bundle, container.id))
        for folder in sorted(folders):
            config = _json(f"{self._root}{folder}/containers/{container.id}/config.v2.json")
            if config.get("Name"):
                return str(config["Name"]).removeprefix("/")
        return ""

    def _bundle(self, id_: str) -> dict[str, Any]:
        for pattern in _BUNDLES:
            for namespace in _NAMESPACES if "{namespace}" in pattern else ("",):
                found = _json(self._root + pattern.format(namespace=namespace, id=id_))
                if found:
                    return found
        return {}


def _first(annotations: dict[str, Any], keys: tuple[str, ...]) -> str:
    return next((str(annotations[key]) for key in keys if annotations.get(key)), "")


def _data_roots(bundle: dict[str, Any], id_: str) -> Iterator[str]:
    """Where Docker keeps its data: /etc/hostname is mounted from there into the container."""
    for mount in bundle.get("mounts") or ():
        source = str(mount.get("source", "")) if isinstance(mount, dict) else ""
        if f"/containers/{id_}/" in source:
            yield source.partition(f"/containers/{id_}/")[0]


def _json(path: str) -> dict[str, Any]:
    try:
        found = json.loads(files.text(path) or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
