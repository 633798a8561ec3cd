"""PURE: a tenant's block I/O at the host's devices: `disk.<disk>.host.{iops,bps}`, `.weight`, `.latency`.

A VM's disk is called as everywhere (`vda`, its id, ...), a container's by the kernel's name of the device (`sda`).
The limit is one of the tenant at a device: several disks of a VM on one device have it together.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ringfence import units
from ringfence.core.host import BlockDevice, Placement
from ringfence.core.knob import EVERY_TENANT, Observation, Outcome, Part, Row, Wants
from ringfence.core.requests import BlockDevices, Change, DeviceOf, Steps
from ringfence.core.requests import Placement as AskPlacement
from ringfence.errors import UsageError
from ringfence.knobs.disk import names
from ringfence.knobs.host import bandwidth, block
from ringfence.knobs.host.block import LATENCY, RATES, WEIGHT, Held
from ringfence.knobs.host.carry import applied
from ringfence.knobs.host.home import Do, Home, home_of, why_not

_KINDS = {"iops": (units.IOPS, "requests"), "bps": (units.BYTES_PER_S, "bytes")}
_WAYS = {"": ("reads, and of writes, each", True), ".read": ("reads", False), ".write": ("writes", False)}
_LEAST = {"iops": 2, "bps": 1}
"""The kernel refuses a limit of one request a second."""

ROWS = (
    *(
        Row(
            f"disk.<disk>.host.{kind}{way}",
            unit,
            "io.max",
            f"{noun} per second of {words}",
            lifts=True,
            main=False,
        )
        for kind, (unit, noun) in _KINDS.items()
        for way, (words, _) in _WAYS.items()
    ),
    Row(
        "disk.<disk>.host.weight",
        units.COUNT,
        "io.weight",
        "share of the device while others want it too; 100 is usual",
        lifts=True,
        main=False,
        lifted="default",
    ),
    Row(
        "disk.<disk>.host.latency",
        units.MICROSECONDS,
        "io.latency",
        "latency to be kept, by slowing down tenants with a longer one",
        lifts=True,
        main=False,
        lifted="none",
    ),
)
_NO_WEIGHT = "the device's scheduler is not bfq, and the kernel has no io.weight here"
_ABSENT = {WEIGHT: _NO_WEIGHT, LATENCY: "this kernel has no io.latency (CONFIG_BLK_CGROUP_IOLATENCY)"}
_BUFFERED = (
    "version 1 does not limit writes that go through the host's page cache, as this disk's do: use cache=none"
)


class State(NamedTuple):
    """:param device: None when the disk lies on none, such as on a network; `reason` then says so."""

    home: Home | None
    device: BlockDevice | None
    held: Held
    reason: str
    notes: tuple[str, ...]


class HostDisk:
    """See the module."""

    prefix = "disk"
    tenants = EVERY_TENANT
    rows: tuple[Row, ...] = ROWS
    events: tuple[str, ...] = ()

    def observe(self) -> Steps[tuple[Part, ...]]:
        """Find the devices below the tenant's disks, and what its group holds for each; one Part a disk."""
        placement: Placement = yield AskPlacement()
        controller = "io" if placement.group("io") else "blkio"
        home, reason = home_of(placement, controller), why_not(placement, controller)
        disks = (yield from _disks(placement)) if placement.virtual else (yield from _devices())
        devices = list(dict.fromkeys(disk.device for disk in disks if disk.device is not None))
        held = (yield from block.read(home, devices)) if home is not None else {}
        return tuple(_part(disk, home, reason, held, disks) for disk in disks)

    def observation(self, part: Part, row: Row) -> Observation:
        """What the kernel holds."""
        state: State = part.state
        leaf = row.key.partition(".host.")[2]
        key = row.key.replace("<disk>", part.name)
        low, high = _bounds(leaf)
        notes = state.notes
        if leaf in _KINDS:
            pair = [state.held.values.get(f"{leaf}{way}") for way in (".read", ".write")]
            value = pair[0] if pair[0] == pair[1] else None
            if pair[0] != pair[1]:
                notes = (*notes, "reads and writes have other limits: see .read and .write")
            missing = f"{leaf}.read" not in state.held.values
        else:
            value, missing = state.held.values.get(leaf), leaf not in state.held.values
        reason = state.reason or (
            _ABSENT.get(leaf, "this kernel has no throttling of block I/O") if missing else ""
        )
        return Observation(row, key, value, value, low, high, reason, notes)

    def check(self, part: Part, wants: Wants, *, force: bool) -> None:
        """Raise UsageError out of range, or for a limit of both ways beside one of either."""
        by_leaf = {row.key.partition(">.")[2]: row for row in self.rows}
        for leaf, want in wants.items():
            found = self.observation(part, by_leaf[leaf])
            found.refuse_unavailable()
            low, high = found.minimum or 0, found.maximum
            if want is not None and (int(want) < low or (high is not None and int(want) > high)):
                span = f"from {low}" if high is None else f"from {low} to {high}"
                raise UsageError(f"{found.key}={want} is out of range", hint=span)
        for kind in _KINDS:
            if f"host.{kind}" in wants and {f"host.{kind}.read", f"host.{kind}.write"} & wants.keys():
                hint = f"{kind} is for reads and for writes each: give it, or .read and .write"
                raise UsageError(f"disk.{part.name}.host.{kind} is given in two ways", hint=hint)

    def changes(self, part: Part, wants: Wants) -> Sequence[Change]:
        """The group when it is to be made, then the device's lines that differ."""
        return bandwidth.requests(self._steps(part, wants))

    def apply(self, part: Part, wants: Wants, *, timeout_s: float, force: bool) -> Steps[Outcome]:
        """Write, and read back."""
        state: State = part.state
        return (yield from applied(self, part, wants, self._steps, notes=state.notes))

    def _steps(self, part: Part, wants: Wants) -> Sequence[Do]:
        state: State = part.state
        if state.home is None or state.device is None:
            return []
        then: dict[str, int | None] = {}
        for leaf, want in wants.items():
            name, value = leaf.removeprefix("host."), None if want is None else int(want)
            ways = [f"{name}.read", f"{name}.write"] if name in _KINDS else [name]
            then |= dict.fromkeys(ways, value)
        return block.steps(state.home, state.device, state.held, then)


class _Disk(NamedTuple):
    name: str
    aliases: tuple[str, ...]
    device: BlockDevice | None
    file: str
    direct: bool
    virtual: bool


def _bounds(leaf: str) -> tuple[int | None, int | None]:
    if leaf == WEIGHT:
        return 1, 10_000
    return (None, None) if leaf == LATENCY else (_LEAST[leaf.partition(".")[0]], None)


def _part(disk: _Disk, home: Home | None, reason: str, held: Mapping[str, Held], disks: Sequence[_Disk]) -> Part:
    notes: list[str] = []
    if disk.device is not None and disk.virtual:
        others = [other.name for other in disks if other is not disk and other.device == disk.device]
        shared = f", together with {', '.join(others)}" if others else ""
        notes.append(f"at the host's {disk.device.name}{shared}")
    if home is not None and home.version == 1 and not disk.direct:
        notes.append(_BUFFERED)
    if disk.device is None and not reason:
        reason = f"{disk.file or 'it'} lies on no block device of this host"
    found = held.get(disk.device.number, Held({})) if disk.device else Held(dict.fromkeys(RATES))
    return Part(disk.name, disk.aliases, State(home, disk.device, found, reason, tuple(notes)))


def _devices() -> Steps[list[_Disk]]:
    found: tuple[BlockDevice, ...] = yield BlockDevices()
    return [_Disk(device.name, (device.number,), device, "", True, False) for device in found]


def _disks(placement: Placement) -> Steps[list[_Disk]]:
    """A VM's disks; their files are looked for as its process sees them."""
    found: list[_Disk] = []
    for disk in (yield from names.observe()):
        if not disk.inserted or ".flash" in disk.qdev:
            continue
        file = _file(disk.inserted)
        device = (yield DeviceOf(_seen_by(placement, file))) if file and placement.pids else None
        cache = disk.inserted.get("cache")
        direct = bool(cache.get("direct")) if isinstance(cache, dict) else True
        found.append(_Disk(disk.name, disk.aliases, device, file, direct, True))
    return found


def _seen_by(placement: Placement, file: str) -> str:
    folder = f"/proc/{placement.pids[0]}"
    return f"{folder}/root{file}" if file.startswith("/") else f"{folder}/cwd/{file}"


def _file(inserted: Mapping[str, Any]) -> str:
    """The file or device of a disk, out of what QEMU makes up for a stack of nodes; empty where there is none."""
    name = str(inserted.get("file", ""))
    if not name.startswith("json:"):
        return name.removeprefix("file:")
    try:
        nodes = list(_nodes(json.loads(name.removeprefix("json:"))))
    except (ValueError, RecursionError):
        return ""
    return next((str(node["filename"]) for node in nodes if "filename" in node), "")


def _nodes(node: Any) -> Iterator[Mapping[str, Any]]:
    while isinstance(node, dict):
        yield node
        node = node.get("file")
