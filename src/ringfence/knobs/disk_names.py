"""Which disk does the user mean? Every name a person may know a disk by, resolved to one QOM path.

Names, for one disk: its place in the guest (`vda`), QEMU's drive name (`virtio2`, `ide0-hd0`), its device id,
its node name, and its QOM path. The path is what `block_set_io_throttle` takes for every kind of disk.

The place in the guest is worked out the way Linux comes to it: virtio disks are named in the order in which
their PCI functions are scanned, a bus before the bridges on it; hot-plugged ones come after. For SCSI, IDE and
NVMe disks the guest probes concurrently, so a name is given only when there is a single disk of that kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_lowercase
from typing import Any, NamedTuple

from ringfence.core.answers import entries, fields, number, text
from ringfence.core.requests import Qmp, Steps

_BUSES = 256  # which a PCI domain can have
_VIRTIO_BACKEND = "/virtio-backend"
_PERIPHERAL = "/machine/peripheral/"


class Disk(NamedTuple):
    """One block device of a VM.

    :param qdev: QOM path (or id) as `query-block` gives it.
    :param block_backend: QEMU's name of the drive, empty for those made by -blockdev.
    :param inserted: QEMU's description of the medium, limits included; empty for an empty drive.
    """

    name: str
    aliases: tuple[str, ...]
    qdev: str
    block_backend: str
    inserted: Mapping[str, Any]

    @property
    def short_path(self) -> str:
        """The QOM path as commands take it: one below /machine/peripheral may be given without that."""
        return self.qdev.removeprefix(_PERIPHERAL)


def observe() -> Steps[tuple[Disk, ...]]:
    """Read every disk of the VM with all its names, in QEMU's order."""
    blocks = [block for block in entries((yield Qmp("query-block"))) if text(block.get("qdev", ""))]
    places = yield from _places([block["qdev"] for block in blocks])
    return tuple(_disk(block, places.get(block["qdev"], "")) for block in blocks)


def _disk(block: Mapping[str, Any], place: str) -> Disk:
    qdev = block["qdev"]
    inserted = fields(block.get("inserted", {}))
    backend = text(block.get("device", ""))
    frontend = qdev.removesuffix(_VIRTIO_BACKEND)
    device_id = frontend.removeprefix(_PERIPHERAL)
    node = text(inserted.get("node-name", ""))
    names = [
        place,
        backend,
        device_id if "/" not in device_id else "",
        "" if node.startswith("#") else node,
        qdev,
        frontend,
    ]
    known = tuple(dict.fromkeys(name for name in names if name))
    return Disk(known[0], known[1:], qdev, backend, inserted)


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
        elif qom_type in ("scsi-hd", "scsi-block", "ide-hd"):
            kinds["sd"].append(qdev)
        elif qom_type == "nvme":
            kinds["nvme"].append(qdev)
    pci = [qdev for qdev, qom_type in zip(qdevs, types, strict=True) if qom_type.startswith("virtio-blk-pci")]
    places: dict[str, str] = {}
    if len(pci) == len(kinds["vd"]):
        order = yield from _pci_order([_frontend_path(qdev) for qdev in pci])
        virtio = sorted(pci, key=lambda qdev: order[_frontend_path(qdev)])
        places.update({qdev: f"vd{_letters(index)}" for index, qdev in enumerate(virtio)})
    if len(kinds["sd"]) == 1:
        places[kinds["sd"][0]] = "sda"
    if len(kinds["nvme"]) == 1:
        places[kinds["nvme"][0]] = "nvme0n1"
    return places


def _letters(index: int) -> str:
    """0 -> a, 25 -> z, 26 -> aa, as the kernel counts disks."""
    letters = ""
    while index >= 0:
        letters = ascii_lowercase[index % 26] + letters
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
