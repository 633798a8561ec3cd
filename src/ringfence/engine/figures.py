"""What a running VM has now, beside what it was started with: steps that only read.

Sources: QEMU qapi/machine.json (query-balloon, query-memory-size-summary, query-memory-devices,
query-cpus-fast, query-hotpluggable-cpus), qapi/block-core.json (query-block), qapi/qom.json (ThrottleLimits).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ringfence.core.answers import entries, fields, number
from ringfence.core.requests import Qmp, Steps
from ringfence.errors import MonitorRefusedError
from ringfence.knobs.disk import names as disk_names
from ringfence.knobs.disk.limits import FIELDS, Limits, read, read_object


class Group(NamedTuple):
    """A throttle filter above a disk's image: its limits hold beside the disk's own.

    :param limits: by leaf of the disk knob (`iops.read`), those that are set.
    """

    name: str
    limits: Mapping[str, int]


class DiskFigures(NamedTuple):
    """:param limits: by leaf of the disk knob, those that are set."""

    name: str
    file: str
    format: str
    limits: Mapping[str, int]
    groups: tuple[Group, ...]


class Figures(NamedTuple):
    """:param vcpus_max: None where the machine cannot plug CPUs.
    :param memory_bytes: less what the balloon holds.
    """

    vcpus: int
    vcpus_max: int | None
    memory_bytes: int
    disks: tuple[DiskFigures, ...]


def observe() -> Steps[Figures]:
    """Read a VM's present size, and its disks with the limits in force. Raises MonitorError."""
    cpus, size = yield [Qmp("query-cpus-fast"), Qmp("query-memory-size-summary")]
    slots = yield from _optional("query-hotpluggable-cpus")
    balloon = yield from _optional("query-balloon")
    devices = yield from _optional("query-memory-devices")
    size = fields(size)
    memory_bytes = number(size["base-memory"]) + number(size.get("plugged-memory", 0))
    if balloon is not None:
        # The balloon's figure leaves virtio-mem out.
        plugged = [number(d["data"]["size"]) for d in entries(devices or []) if d["type"] == "virtio-mem"]
        memory_bytes = number(fields(balloon)["actual"]) + sum(plugged)
    disks: list[DiskFigures] = []
    for disk in (yield from disk_names.observe()):
        if disk.inserted and ".flash" not in disk.qdev:
            disks.append((yield from _disk(disk)))
    most = sum(number(slot["vcpus-count"]) for slot in entries(slots)) if slots else None
    return Figures(len(entries(cpus)), most, memory_bytes, tuple(disks))


def _optional(command: str) -> Steps[Any]:
    """The answer of a query that not every machine or VM takes, None when it is refused."""
    try:
        return (yield Qmp(command))
    except MonitorRefusedError:
        return None


def _disk(disk: disk_names.Disk) -> Steps[DiskFigures]:
    file, image_format, names = _image(disk.inserted)
    groups: list[Group] = []
    for name in names:
        try:
            found = yield Qmp("qom-get", {"path": f"/objects/{name}", "property": "limits"})
        except MonitorRefusedError:
            continue  # removed since
        groups.append(Group(name, _by_leaf(read_object(found))))
    return DiskFigures(disk.name, file, image_format, _by_leaf(read(disk.inserted)), tuple(groups))


def _by_leaf(limits: Limits) -> dict[str, int]:
    """Those that are set."""
    return {leaf: limits[field] for leaf, field in FIELDS.items() if limits[field]}


def _image(inserted: Mapping[str, Any]) -> tuple[str, str, list[str]]:
    """File and format of an image, and the throttle groups of the filters above it.

    Only the made-up file name of a filter tells of them: `json:{"throttle-group": "tg0", "file": {...}}`.
    """
    file, image_format = str(inserted.get("file", "")), str(inserted.get("drv", ""))
    if not file.startswith("json:"):
        return file, image_format, []
    try:
        nodes = list(_nodes(json.loads(file.removeprefix("json:"))))
    except (ValueError, RecursionError):
        return file, image_format, []
    groups = [str(node["throttle-group"]) for node in nodes if "throttle-group" in node]
    below = [node for node in nodes if node.get("driver") not in ("throttle", "copy-on-read")]
    if below:
        image_format = str(below[0].get("driver", ""))
        file = next((str(node["filename"]) for node in below if "filename" in node), image_format)
    return file, image_format, groups


def _nodes(node: Any) -> Iterator[Mapping[str, Any]]:
    while isinstance(node, dict):
        yield node
        node = node.get("file")
