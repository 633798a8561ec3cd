"""PURE: throttle filters above a disk's image, and where they hold a disk lower than its own limits do.

In `query-block` only the made-up file name of a filter tells of it: `json:{"throttle-group": "tg0", "file": ...}`.

Sources: QEMU qapi/block-core.json (BlockdevOptionsThrottle), qapi/qom.json (ThrottleLimits).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ringfence import units
from ringfence.core.requests import Qmp, Steps
from ringfence.errors import MonitorRefusedError
from ringfence.knobs.disk.graph import POOL_PREFIX
from ringfence.knobs.disk.limits import RATES, Limits, read_object


class Image(NamedTuple):
    """What lies under a disk's filters.

    :param groups: the throttle groups of the filters, from the device down.
    """

    file: str
    format: str
    groups: tuple[str, ...]


class Group(NamedTuple):
    """A throttle-group object with a filter above the image. :param limits: under the fields of a disk."""

    id: str
    limits: Limits


def image(inserted: Mapping[str, Any]) -> Image:
    """File and format of an image, and the groups above it, from `query-block`'s `inserted`."""
    file, image_format = str(inserted.get("file", "")), str(inserted.get("drv", ""))
    if not file.startswith("json:"):
        return Image(file, image_format, ())
    try:
        nodes = list(_nodes(json.loads(file.removeprefix("json:"))))
    except (ValueError, RecursionError):
        return Image(file, image_format, ())
    groups = tuple(str(node["throttle-group"]) for node in nodes if "throttle-group" in node)
    below = [node for node in nodes if node.get("driver") not in ("throttle", "copy-on-read")]
    if below:
        image_format = str(below[0].get("driver", ""))
        file = next((str(node["filename"]) for node in below if "filename" in node), image_format)
    return Image(file, image_format, groups)


def _nodes(node: Any) -> Iterator[Mapping[str, Any]]:
    while isinstance(node, dict):
        yield node
        node = node.get("file")


def observe(names: Sequence[str]) -> Steps[tuple[Group, ...]]:
    """Read the groups of these names; one that is no object any more is left out."""
    groups: list[Group] = []
    for name in dict.fromkeys(names):
        try:
            found = yield Qmp("qom-get", {"path": f"/objects/{name}", "property": "limits"})
        except MonitorRefusedError:
            continue
        groups.append(Group(name, read_object(found)))
    return tuple(groups)


def notes(leaf: str, unit: str, own: Limits, groups: Sequence[Group]) -> tuple[str, ...]:
    """Which groups hold a disk lower than `own` does, as to one of its rates.

    :param leaf: `iops`, `bps.read` or another rate; of a total, what holds only one direction lower is told, too.
    """
    if leaf not in RATES:
        return ()
    kind, _, direction = leaf.partition(".")
    kind, _, direction = leaf.partition(".")
    ways = (direction,) if direction else ("", "read", "write")
    found: list[str] = []
    for group in groups:
        in_all = _rate(group.limits, kind, "")
        for way in ways:
            rate, mine = _rate(group.limits, kind, way), _rate(own, kind, way)
            if not rate or (mine and mine <= rate) or (way != direction and rate == in_all):
                continue
            of = f" of {way}s" if way != direction else ""
            amount = units.format_value(unit, rate)
            found.append(f"held lower by {_called(group.id)}: {amount}{of} for all disks in it")
    return tuple(found)


def _rate(limits: Limits, kind: str, way: str) -> int:
    """The most that all limits of a kind let through, of one direction or in all; 0 is without end."""
    total = limits[RATES[kind]]
    read, write = limits[RATES[f"{kind}.read"]], limits[RATES[f"{kind}.write"]]
    if way:
        return min(filter(None, (total, read if way == "read" else write)), default=0)
    return min(filter(None, (total, read + write if read and write else 0)), default=0)


def _called(group: str) -> str:
    ours = group.startswith(POOL_PREFIX)
    return f"pool {group.removeprefix(POOL_PREFIX)!r}" if ours else f"throttle group {group!r}, not ringfence's"
