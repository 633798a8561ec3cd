"""PURE: one device's lines in a group's files of block I/O, on v1 and v2, written or told to systemd.

The kernel limits reads and writes each by itself; there is no limit of their sum.

Sources: the kernel's cgroup-v2.rst (io.max, io.weight, io.latency), cgroup-v1/blkio-controller.rst;
systemd.resource-control(5) (IOReadIOPSMax, IODeviceWeight, ...).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ringfence.core.host import BlockDevice
from ringfence.core.requests import ReadFile, Steps, Systemd, WriteFile
from ringfence.knobs.host.home import Do, Home

INFINITY = 2**64 - 1


class Rate(NamedTuple):
    """One rate: its file on v1, its word on v2, its property in systemd."""

    v1: str
    v2: str
    unit_property: str


RATES: Mapping[str, Rate] = {
    "iops.read": Rate("blkio.throttle.read_iops_device", "riops", "IOReadIOPSMax"),
    "iops.write": Rate("blkio.throttle.write_iops_device", "wiops", "IOWriteIOPSMax"),
    "bps.read": Rate("blkio.throttle.read_bps_device", "rbps", "IOReadBandwidthMax"),
    "bps.write": Rate("blkio.throttle.write_bps_device", "wbps", "IOWriteBandwidthMax"),
}
WEIGHT, LATENCY = "weight", "latency"
_WEIGHT_FILES = {1: ("blkio.bfq.weight_device", "blkio.weight_device"), 2: ("io.weight", "io.bfq.weight")}
_OTHER_PROPERTIES = {WEIGHT: "IODeviceWeight", LATENCY: "IODeviceLatencyTargetUSec"}


class Held(NamedTuple):
    """:param values: by leaf (`iops.read`, `weight`, ...); None is unset. What this kernel lacks is left out.
    :param weight_file: where the weight is.
    """

    values: Mapping[str, int | None]
    weight_file: str = ""


def read(home: Home, devices: Sequence[BlockDevice]) -> Steps[dict[str, Held]]:
    """What a group holds for each of these devices, by their number."""
    if not home.exists:
        empty = Held({**dict.fromkeys(RATES), WEIGHT: None, LATENCY: None}, _WEIGHT_FILES[home.version][0])
        return {device.number: empty for device in devices}
    names = ["io.max", "io.latency"] if home.version == 2 else [rate.v1 for rate in RATES.values()]
    weights = _WEIGHT_FILES[home.version]
    texts = yield [ReadFile(home.file(name), optional=True) for name in (*names, *weights)]
    found = dict(zip((*names, *weights), texts, strict=True))
    return {device.number: _held(home.version, found, device) for device in devices}


def _held(version: int, found: Mapping[str, str | None], device: BlockDevice) -> Held:
    values: dict[str, int | None] = {}
    for leaf, rate in RATES.items():
        if version == 2 and found["io.max"] is not None:
            word = _words(found["io.max"], device.number).get(rate.v2, "max")
            values[leaf] = None if word == "max" else int(word)
        elif version == 1 and found[rate.v1] is not None:
            number = _line(found[rate.v1], device.number)
            values[leaf] = int(number) if number else None
    if version == 2 and found["io.latency"] is not None:
        target = _words(found["io.latency"], device.number).get("target")
        values[LATENCY] = int(target) if target else None
    by_bfq = [name for name in _WEIGHT_FILES[version] if found[name] is not None and "bfq" in name]
    others = [name for name in _WEIGHT_FILES[version] if found[name] is not None and "bfq" not in name]
    files = [*by_bfq, *others] if device.scheduler == "bfq" else others if version == 2 else []
    if files:
        weight = _line(found[files[0]], device.number)
        values[WEIGHT] = int(weight) if weight else None
    return Held(values, files[0] if files else "")


def _line(text: str | None, number: str) -> str:
    """What stands behind a device's number; empty when it has no line."""
    for line in (text or "").splitlines():
        first, _, rest = line.strip().partition(" ")
        if first == number:
            return rest.strip()
    return ""


def _words(text: str | None, number: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in _line(text, number).split())


def steps(home: Home, device: BlockDevice, held: Held, then: Mapping[str, int | None]) -> Sequence[Do]:
    """What brings a device's lines to what is wanted; nothing where they are so."""
    differing = [leaf for leaf, value in then.items() if held.values.get(leaf) != value]
    if not differing:
        return []
    old = {leaf: held.values.get(leaf) for leaf in differing}
    new = {leaf: then[leaf] for leaf in differing}
    if home.unit:
        change = Systemd("SetUnitProperties", home.unit, _properties(device, new))
        return [*home.making, Do(change, Systemd("SetUnitProperties", home.unit, _properties(device, old)))]
    forward = _writes(home, device, held.weight_file, new)
    back = _writes(home, device, held.weight_file, old)
    return [*home.making, *(Do(request, undo) for request, undo in zip(forward, back, strict=True))]


def _properties(device: BlockDevice, values: Mapping[str, int | None]) -> dict[str, object]:
    found: dict[str, object] = {}
    for leaf, value in values.items():
        name = RATES[leaf].unit_property if leaf in RATES else _OTHER_PROPERTIES[leaf]
        found[name] = [(f"/dev/{device.name}", INFINITY if value is None else value)]
    return found


def _writes(
    home: Home, device: BlockDevice, weight_file: str, values: Mapping[str, int | None]
) -> list[WriteFile]:
    """One write for all rates on v2, one for each on v1."""
    number = device.number
    rates = {leaf: value for leaf, value in values.items() if leaf in RATES}
    writes: list[WriteFile] = []
    if rates and home.version == 2:
        words = " ".join(f"{RATES[leaf].v2}={'max' if value is None else value}" for leaf, value in rates.items())
        writes.append(WriteFile(home.file("io.max"), f"{number} {words}"))
    elif rates:
        writes += [WriteFile(home.file(RATES[leaf].v1), f"{number} {value or 0}") for leaf, value in rates.items()]
    if WEIGHT in values:
        none: str | int = "default" if home.version == 2 else 0
        text = none if values[WEIGHT] is None else values[WEIGHT]
        writes.append(WriteFile(home.file(weight_file), f"{number} {text}"))
    if LATENCY in values:
        writes.append(WriteFile(home.file("io.latency"), f"{number} target={values[LATENCY] or 0}"))
    return writes
