"""Which disk does the user mean? Every name a person may know a disk by, resolved to one QOM path.

Names, for one disk: its place in the guest (`vda`), QEMU's drive name (`virtio2`, `ide0-hd0`), its device id,
its node names, and its QOM path. The path is what `block_set_io_throttle` takes for every kind of disk, NVMe
controllers and namespaces among them.

The place in the guest is worked out the way Linux comes to it: virtio disks are named in the order in which
their PCI functions are scanned, a bus before the bridges on it; hot-plugged ones come after. For SCSI, IDE and
NVMe disks the guest probes concurrently, so a name is given only when there is a single disk of that kind, and
to an NVMe disk only when no other NVMe controller may take its number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ringfence.core.answers import entries, fields, number, text
from ringfence.core.requests import Qmp, Steps

_BUSES = 256  # which a PCI domain can have
_VIRTIO_BACKEND = "/virtio-backend"
_PERIPHERAL = "/machine/peripheral/"

FILTERS = ("throttle", "copy-on-read")
"""Drivers of what may stand above an image; `query-block` shows the topmost."""

FILTER_PREFIX = "ringfence-filter-"
"""Begins the node name of every filter that ringfence put in: no name of the disk."""


class Disk(NamedTuple):
    """One block device of a VM.

    :param qdev: QOM path (or id) as `query-block` gives it.
    :param block_backend: QEMU's name of the drive, empty for those made by -blockdev.
    :param inserted: QEMU's description of the medium, limits included; empty for an empty drive.
    :param nodes: its block nodes from the device down; only the first where no filter stands above the image.
    """

    name: str
    aliases: tuple[str, ...]
    qdev: str
    block_backend: str
    inserted: Mapping[str, Any]
    nodes: tuple[str, ...] = ()

    @property
    def short_path(self) -> str:
        """The QOM path as commands take it: one below /machine/peripheral may be given without that."""
        return self.qdev.removeprefix(_PERIPHERAL)

    @property
    def frontend(self) -> str:
        """The QOM path of the device as it was added: it has the properties a user knows, such as `drive`."""
        path = self.qdev.removesuffix(_VIRTIO_BACKEND)
        return path if path.startswith("/") else f"{_PERIPHERAL}{path}"


def observe() -> Steps[tuple[Disk, ...]]:
    """Read every disk of the VM with all its names, in QEMU's order."""
    blocks = [block for block in entries((yield Qmp("query-block"))) if text(block.get("qdev", ""))]
    chains: Mapping[str, tuple[str, ...]] = {}
    if any(fields(block.get("inserted", {})).get("drv") in FILTERS for block in blocks):
        chains = node_chains(entries((yield Qmp("query-blockstats"))))
    places = yield from _places([block["qdev"] for block in blocks])
    return _told_apart([_disk(block, places.get(block["qdev"], ""), chains) for block in blocks])


def _told_apart(disks: Sequence[Disk]) -> tuple[Disk, ...]:
    """Each under the first of its names that is no other disk's: a drive may be called as another's place is."""
    if len(disks) < 2:
        return tuple(disks)
    called: dict[str, int] = {}
    for disk in disks:
        for name in (disk.name, *disk.aliases):
            called[name] = called.get(name, 0) + 1
    found = []
    for disk in disks:
        known = (disk.name, *disk.aliases)
        name = next((name for name in known if called[name] == 1), disk.qdev)
        found.append(disk._replace(name=name, aliases=tuple(other for other in known if other != name)))
    return tuple(found)


def node_chains(stats: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """The block nodes of each disk, from the device down, by QOM path, from `query-blockstats`."""
    chains: dict[str, tuple[str, ...]] = {}
    for entry in stats:
        node: Mapping[str, Any] | None = entry
        nodes: list[str] = []
        while node:
            nodes.append(text(node.get("node-name", "")))
            node = fields(node["parent"]) if "parent" in node else None  # QEMU's word for what stands below
        chains[text(entry.get("qdev", ""))] = tuple(nodes)
    return chains


def _disk(block: Mapping[str, Any], place: str, chains: Mapping[str, tuple[str, ...]]) -> Disk:
    qdev = block["qdev"]
    inserted = fields(block.get("inserted", {}))
    backend = text(block.get("device", ""))
    frontend = qdev.removesuffix(_VIRTIO_BACKEND)
    device_id = frontend.removeprefix(_PERIPHERAL)
    nodes = chains.get(qdev) or tuple(filter(None, [text(inserted.get("node-name", ""))]))
    names = [
        place,
        backend,
        "" if device_id.startswith("/") else device_id.split("/")[0],
        *(node for node in nodes if not node.startswith(("#", FILTER_PREFIX))),
        qdev,
        frontend,
    ]
    known = tuple(dict.fromkeys(name for name in names if name))
    return Disk(known[0], known[1:], qdev, backend, inserted, nodes)


def _frontend_path(qdev: str) -> str:
    path = qdev.removesuffix(_VIRTIO_BACKEND)
    return path if path.startswith("/") else f"{_PERIPHERAL}{path}"


def _qom_get(path: str, name: str) -> Qmp:
    return Qmp("qom-get", {"path": path, "property": name})


def _places(qdevs: Sequence[str]) -> Steps[dict[str, str]]:
    """Guest names by QOM path, for the disks whose name can be told from outside."""
    if len(qdevs) == 1 and qdevs[0].endswith(_VIRTIO_BACKEND):
        return {qdevs[0]: "vda"}
    types = yield [_qom_get(_frontend_path(qdev), "type") for qdev in qdevs]
    kinds: dict[str, list[str]] = {"vd": [], "sd": [], "nvme": []}
    for qdev, qom_type in zip(qdevs, types, strict=True):
        if qom_type.startswith("virtio-blk"):
            kinds["vd"].append(qdev)
        elif qom_type in ("scsi-hd", "scsi-block", "scsi-disk", "ide-hd", "ide-drive"):
            kinds["sd"].append(qdev)
        elif qom_type in ("nvme", "nvme-ns"):
            kinds["nvme"].append(qdev)
    pci = [qdev for qdev, qom_type in zip(qdevs, types, strict=True) if qom_type.startswith("virtio-blk-pci")]
    places: dict[str, str] = {}
    if len(pci) == len(kinds["vd"]):
        order = yield from _pci_order([_frontend_path(qdev) for qdev in pci])
        virtio = sorted(pci, key=lambda qdev: order[_frontend_path(qdev)])
        places.update({qdev: f"vd{_letters(index)}" for index, qdev in enumerate(virtio)})
    if len(kinds["sd"]) == 1:
        places[kinds["sd"][0]] = "sda"
    if len(kinds["nvme"]) == 1 and (yield from _nvme_controllers()) == 1:
        places[kinds["nvme"][0]] = "nvme0n1"
    return places


def _nvme_controllers() -> Steps[int]:
    """How many there are, those without a disk among them."""
    lists = yield [Qmp("qom-list", {"path": f"/machine/{where}"}) for where in ("peripheral", "peripheral-anon")]
    return sum(child["type"] == "child<nvme>" for children in lists for child in entries(children))


def _letters(index: int) -> str:
    """0 -> a, 25 -> z, 26 -> aa, as the kernel counts disks."""
    letters = ""
    while index >= 0:
        letters = chr(ord("a") + index % 26) + letters
        index = index // 26 - 1
    return letters


def _pci_order(paths: Sequence[str]) -> Steps[dict[str, tuple[object, ...]]]:
    """Sort keys that give the order in which Linux finds these PCI devices.

    A bus is scanned whole before the bridges on it: at each level, a function (0) sorts before a bridge (1).
    """
    where: dict[str, tuple[int, str]] = {}
    asked = list(dict.fromkeys(paths))
    while asked:
        answers = yield [_qom_get(path, name) for path in asked for name in ("addr", "parent_bus")]
        for path, devfn, bus in zip(asked, answers[::2], answers[1::2], strict=True):
            where[path] = (number(devfn), text(bus).rsplit("/", 1)[0])
        if len(where) > len(paths) + _BUSES:
            raise ValueError(f"the disks are behind more than {_BUSES} PCI bridges")
        bridges = {bridge for _, bridge in where.values() if bridge.startswith("/machine/peripheral")}
        asked = sorted(bridges - where.keys())
    hotplugged = yield [_qom_get(path, "hotplugged") for path in paths]
    return {path: (bool(late), *_scan_key(path, where)) for path, late in zip(paths, hotplugged, strict=True)}


def _scan_key(path: str, where: Mapping[str, tuple[int, str]]) -> tuple[tuple[int, int], ...]:
    devfn, bridge = where[path]
    key: list[tuple[int, int]] = [(0, devfn)]
    while bridge in where:
        if len(key) > len(where):
            raise ValueError(f"{bridge} is a PCI bridge behind itself")
        devfn, bridge = where[bridge]
        key.insert(0, (1, devfn))
    return tuple(key)


def controller(bus: str) -> str:
    """The QOM path of the device whose bus this is: `/machine/peripheral/sc0/virtio-backend/sc0.0` is of `sc0`."""
    return bus.rpartition("/")[0].removesuffix(_VIRTIO_BACKEND)
