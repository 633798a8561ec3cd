"""Groups of resctrl that ringfence made: `ringfence-NAME`, and monitoring groups of that name in others."""

from __future__ import annotations

from collections.abc import Iterator

from ringfence.core.host import OURS
from ringfence.host import files
from ringfence.host.made import Made

_ROOT, _KEPT = "/sys/fs/resctrl", "/run/ringfence-resctrl"
_PREFIX = f"{OURS}-"


def find(root: str) -> Iterator[Made]:
    """Every such group, monitoring groups first; what is in use has threads in it."""
    base = root + _ROOT
    names = [name for name in files.folders(base) if name not in ("info", "mon_data", "mon_groups")]
    for parent in (base, *(f"{base}/{name}" for name in names)):
        for name in files.folders(f"{parent}/mon_groups"):
            if name.startswith(_PREFIX):
                path = f"{parent}/mon_groups/{name}"
                yield Made("resctrl", path, _holds(path), "made_resctrl")
    for name in names:
        if name.startswith(_PREFIX):
            yield Made("resctrl", f"{base}/{name}", _holds(f"{base}/{name}"), "made_resctrl")


async def remove(made: Made, root: str) -> None:
    """Remove a group: its threads go to the default one, which gets back the ways that nobody has for himself.

    :raise HostError: the kernel refuses.
    """
    files.rmdir(made.name)
    base = root + _ROOT
    if any(files.text(f"{base}/{name}/mode").strip() == "exclusive" for name in files.folders(base)):
        return
    kept = files.folders(root + _KEPT)
    if kept:
        fields = [name.split(".") for name in kept]
        lines = "".join(f"{resource}:{domain}={mask}\n" for resource, domain, mask in fields)
        files.write(f"{base}/schemata", lines)
        for name in kept:
            files.rmdir(f"{root}{_KEPT}/{name}")
        files.rmdir(root + _KEPT)


def _holds(path: str) -> str:
    tids = files.numbers(files.text(f"{path}/tasks"))
    return f"thread {', '.join(map(str, tids))}" if tids else ""
