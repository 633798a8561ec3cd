"""What a running VM has now, beside what it was started with: steps that only read.

Sources: QEMU qapi/machine.json (query-balloon, query-memory-size-summary, query-memory-devices,
query-cpus-fast, query-hotpluggable-cpus), qapi/block-core.json (query-block), qapi/qom.json (ThrottleLimits).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ringfence.core.answers import entries, fields, number
from ringfence.core.requests import Qmp, Steps
from ringfence.errors import MonitorRefusedError
from ringfence.knobs.disk import above
from ringfence.knobs.disk import names as disk_names
from ringfence.knobs.disk.limits import FIELDS, Limits, read


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
    always = [Qmp("query-cpus-fast"), Qmp("query-memory-size-summary")]
    optional = ("query-hotpluggable-cpus", "query-balloon", "query-memory-devices")
    try:  # all at once: through libvirtd, each burst is a process
        cpus, size, slots, balloon, devices = yield [*always, *map(Qmp, optional)]
    except MonitorRefusedError:
        cpus, size = yield always
        slots = yield from _optional(optional[0])
        balloon = yield from _optional(optional[1])
        devices = yield from _optional(optional[2])
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
    image = above.image(disk.inserted)
    groups = yield from above.observe(image.groups)
    found = tuple(Group(group.id, _by_leaf(group.limits)) for group in groups)
    return DiskFigures(disk.name, image.file, image.format, _by_leaf(read(disk.inserted)), found)


def _by_leaf(limits: Limits) -> dict[str, int]:
    """Those that are set."""
    return {leaf: limits[field] for leaf, field in FIELDS.items() if limits[field]}
