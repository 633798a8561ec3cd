"""PURE: the disks and network devices that a command line describes.

Sources: QEMU qemu-options.hx (-drive, -blockdev, -device, -netdev, -nic, -net), blockdev.c (how drives without
an id are named).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ringfence.core.model import DriveOption, Nic
from ringfence.qemu.options import Fields, Option, count, keyval
from ringfence.qemu.process import Process

_SHORT_DRIVES = {
    "hda": "if=ide,index=0",
    "hdb": "if=ide,index=1",
    "hdc": "if=ide,index=2",
    "hdd": "if=ide,index=3",
    "cdrom": "if=ide,index=2,media=cdrom",
    "sd": "if=sd,index=0",
}
_NO_DISKS = frozenset(("pflash", "floppy", "mtd"))
_VIRTIO_MACHINES = ("virt", "s390", "microvm")


def drives(options: Sequence[Option], machine: str) -> Iterator[DriveOption]:
    """Disks in the order of the command line, without firmware, floppies, empty drives and what no device shows.

    A disk's name is its drive's id, else its device's id, else the name QEMU makes up.
    """
    devices = [keyval(option.text, "driver") for option in options if option.name == "device"]
    fronts = {device["drive"]: device.get("id", "") for device in devices if "drive" in device}
    nodes = _nodes(options)
    used: dict[str, set[int]] = {}
    for option in options:
        if option.name == "blockdev":
            node = keyval(option.text, "driver").get("node-name", "")
            if node and node in fronts:
                file, image_format = _image(node, nodes)
                yield DriveOption(fronts[node] or node, file, image_format)
        elif option.name == "drive" or option.name in _SHORT_DRIVES:
            fields = _drive_fields(option)
            name = fields.get("id", "")
            bus = fields.get("if") or ("virtio" if machine.startswith(_VIRTIO_MACHINES) else "ide")
            made_up = _made_up_name(bus, fields, machine, used.setdefault(bus, set()))
            driver = fields.get("format") or fields.get("driver", "")
            file = fields.get("file") or fields.get("file.filename") or driver
            if file and bus not in _NO_DISKS and (bus != "none" or name in fronts):
                yield DriveOption(name or made_up, file, driver)


def _drive_fields(option: Option) -> Fields:
    if option.name == "drive":
        return keyval(option.text)
    return {**keyval(_SHORT_DRIVES[option.name]), "file": option.text}


def _made_up_name(bus: str, fields: Fields, machine: str, used: set[int]) -> str:
    """QEMU's name for a drive without an id: `virtio0`, `ide0-hd1`, `ide2-cd0`."""
    given = count(fields.get("index", "")) if bus != "none" else None
    index = next(i for i in range(len(used) + 1) if i not in used) if given is None else given
    used.add(index)
    if bus not in ("ide", "scsi"):
        return f"{bus}{index}"
    units_per_bus = 7 if bus == "scsi" else 1 if "q35" in machine else 2
    kind = "cd" if fields.get("media") == "cdrom" else "hd"
    return f"{bus}{index // units_per_bus}-{kind}{index % units_per_bus}"


def _nodes(options: Sequence[Option]) -> dict[str, Fields]:
    found = (keyval(option.text, "driver") for option in options if option.name == "blockdev")
    return {fields["node-name"]: fields for fields in found if "node-name" in fields}


def _image(node: str, nodes: dict[str, Fields]) -> tuple[str, str]:
    """File and format of a block node, looked for below its filters."""
    image_format = ""
    seen: set[str] = set()
    while node in nodes and node not in seen:
        seen.add(node)
        fields, prefix = nodes[node], ""
        while True:
            driver = fields.get(f"{prefix}driver", "")
            if not image_format and driver not in ("throttle", "copy-on-read"):
                image_format = driver
            file = fields.get(f"{prefix}filename") or fields.get(f"{prefix}path", "")
            if file:
                return file, image_format
            if f"{prefix}file.driver" not in fields:
                break
            prefix += "file."
        node = fields.get(f"{prefix}file", "")
    return "", image_format


def nics(options: Sequence[Option], process: Process) -> Iterator[Nic]:
    """Network devices in the order of the command line, each with what it is connected to."""
    backends = {
        fields.get("id", ""): fields
        for fields in (keyval(option.text, "type") for option in options if option.name == "netdev")
    }
    legacy = [keyval(option.text, "type") for option in options if option.name == "net"]
    hub = next((fields for fields in legacy if fields.get("type") not in ("nic", "none")), {})
    for option in options:
        if option.name == "device":
            device = keyval(option.text, "driver")
            if "netdev" in device:
                yield _nic(device, device.get("driver", ""), backends.get(device["netdev"], {}), process)
        elif option.name in ("nic", "net"):
            fields = keyval(option.text, "type")
            if option.name == "nic" and fields.get("type") != "none":
                yield _nic(fields, fields.get("model", ""), fields, process)
            elif option.name == "net" and fields.get("type") == "nic":
                yield _nic(fields, fields.get("model", ""), hub, process)


def _nic(device: Fields, model: str, backend: Fields, process: Process) -> Nic:
    return Nic(
        id=device.get("id") or device.get("netdev", ""),
        model=model,
        backend=backend.get("type", ""),
        ifname=_ifname(backend, process),
        mac=device.get("mac") or device.get("macaddr", ""),
        netdev=device.get("netdev", ""),
    )


def _ifname(backend: Fields, process: Process) -> str:
    if backend.get("type") != "tap":
        return ""
    fd = count(backend.get("fd") or backend.get("fds", "").split(":")[0])
    return backend.get("ifname") or (process.tap_name(fd) if fd is not None else "")
