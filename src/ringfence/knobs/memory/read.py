"""Steps that read a VM's memory. They change nothing.

Sources: QEMU qapi/machine.json, qapi/acpi.json, docs/interop/virtio-balloon-stats.rst.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ringfence.core.answers import entries, fields, number, text
from ringfence.core.requests import Qmp, Steps, WallClock
from ringfence.errors import MonitorRefusedError
from ringfence.knobs.memory.ledger import OPTIONS, UNKNOWN_STAT, Balloon, Dimm, State, Stats, VirtioMem

OST_EJECT = 3
OST_IN_PROGRESS = 132
_CONTAINERS = ("/machine/peripheral", "/machine/peripheral-anon")


def read() -> Steps[State]:
    """Read everything. Changes nothing; raises MonitorError.

    Each answer is taken apart before the next question, so that an ill-formed one is told by its command.
    """
    named, anonymous, listed, machine, summary, status = yield [
        *(Qmp("qom-list", {"path": path}) for path in _CONTAINERS),
        Qmp("qom-list", {"path": "/objects"}),
        Qmp("qom-list", {"path": "/machine"}),
        Qmp("query-memory-size-summary"),
        Qmp("query-status"),
    ]
    boot, runstate = number(fields(summary)["base-memory"]), text(fields(status)["status"])
    tells_room = "memory" in _children("", machine)
    devices = {**_children(_CONTAINERS[0], named), **_children(_CONTAINERS[1], anonymous)}
    objects = _children("/objects", listed)
    leaving, ospm_slots = yield from _ospm_status()
    plugged = [(text(e["type"]), fields(e["data"])) for e in (yield from _optional("query-memory-devices"))]
    dimms = tuple(_dimm(data, leaving) for kind, data in plugged if kind == "dimm")
    taken_slots = sum(1 for _, data in plugged if "slot" in data)
    virtio_mems = yield from _virtio_mems([data for kind, data in plugged if kind == "virtio-mem"], devices)
    slots, room = ospm_slots, None
    if tells_room:
        size = fields((yield qom_get("/machine", "memory")))
        slots, start = number(size.get("slots", 0)), number(size["size"])
        taken = sum(d.size_bytes for d in dimms) + sum(d.max_bytes for d in virtio_mems)
        room = max(0, number(size.get("max-size", start)) - start - taken)
    path = next((path for path, kind in devices.items() if kind.startswith("child<virtio-balloon")), "")
    balloon, stats = (yield from _balloon(path)) if path else (None, Stats(None, None, None))
    return State(
        boot_bytes=boot,
        dimms=dimms,
        virtio_mems=virtio_mems,
        balloon=balloon,
        stats=stats,
        runstate=runstate,
        free_slots=max(0, slots - taken_slots),
        room_bytes=room,
        nodes=(yield from _nodes()),
        shared=(yield from _shared(objects)),
        pinned=(yield from _pinned(devices, objects)),
        objects=frozenset(name.removeprefix("/objects/") for name in objects),
    )


def read_stats(path: str) -> Steps[Stats]:
    """The guest's statistics as they are now."""
    report = yield qom_get(path, "guest-stats")
    return _stats(report, (yield WallClock()))


def qom_get(path: str, name: str) -> Qmp:
    """Read a property."""
    return Qmp("qom-get", {"path": path, "property": name})


def balloon_bytes() -> Steps[int]:
    """What the balloon leaves, by QEMU's count."""
    return number(fields((yield Qmp("query-balloon")))["actual"])


def _children(path: str, answer: object) -> dict[str, str]:
    """Path to type, of a QOM container's children."""
    prefix = f"{path}/" if path else ""
    return {f"{prefix}{text(entry['name'])}": text(entry["type"]) for entry in entries(answer)}


def _optional(command: str) -> Steps[list[dict[str, Any]]]:
    """The answer of a query that not every machine takes, empty when it is refused."""
    try:
        return entries((yield Qmp(command)))
    except MonitorRefusedError:
        return []


def _ospm_status() -> Steps[tuple[frozenset[str], int]]:
    """The slots whose DIMM the guest is giving up, and how many slots for DIMMs there are."""
    reports = [r for r in (yield from _optional("query-acpi-ospm-status")) if r["slot-type"] == "DIMM"]
    leaving = {text(r["slot"]) for r in reports if (r["source"], r["status"]) == (OST_EJECT, OST_IN_PROGRESS)}
    return frozenset(leaving), len(reports)


def _nodes() -> Steps[tuple[int, ...]]:
    """The NUMA nodes, by the CPUs that are or could be on them."""
    props = [fields(cpu.get("props", {})) for cpu in (yield from _optional("query-hotpluggable-cpus"))]
    return tuple(sorted({number(each["node-id"]) for each in props if "node-id" in each}))


def _balloon(path: str) -> Steps[tuple[Balloon, Stats]]:
    asked = sorted(_children("", (yield Qmp("qom-list", {"path": path}))).keys() & OPTIONS.keys())
    balloon, poll_s, report, *answers = yield [
        Qmp("query-balloon"),
        qom_get(path, "guest-stats-polling-interval"),
        qom_get(path, "guest-stats"),
        *(qom_get(path, name) for name in asked),
    ]
    on = frozenset(name for name, value in zip(asked, answers, strict=True) if value)
    found = Balloon(path, number(fields(balloon)["actual"]), number(poll_s), on)
    return found, _stats(report, (yield WallClock()))


def _stats(report: Any, now_s: float) -> Stats:
    """All ones is QEMU's word for a statistic the guest never gave."""
    updated = number(fields(report).get("last-update", 0))
    if not updated:
        return Stats(None, None, None)
    stats = fields(report["stats"])
    available, total = (
        None if stats.get(name, UNKNOWN_STAT) == UNKNOWN_STAT else number(stats[name])
        for name in ("stat-available-memory", "stat-total-memory")
    )
    return Stats(available, total, max(0.0, now_s - updated))


def _dimm(data: Mapping[str, Any], leaving: frozenset[str]) -> Dimm:
    name = text(data.get("id", ""))
    return Dimm(
        id=name,
        memdev=text(data["memdev"]).rpartition("/")[2],
        size_bytes=number(data["size"]),
        slot=number(data["slot"]),
        node=number(data["node"]),
        removable=bool(data["hotplugged"] and data["hotpluggable"] and name),
        leaving=str(data["slot"]) in leaving,
    )


def _virtio_mems(found: Sequence[Mapping[str, Any]], devices: Mapping[str, str]) -> Steps[tuple[VirtioMem, ...]]:
    """QEMU lists them by id; one that has none is found by its address."""
    sizes = [[number(data[f"{name}size"]) for name in ("block-", "", "requested-", "max-")] for data in found]
    at: dict[object, str] = {}
    if any("id" not in data for data in found):
        paths = [path for path, kind in devices.items() if kind.startswith("child<virtio-mem")]
        at = dict(zip((yield [qom_get(path, "memaddr") for path in paths]), paths, strict=True))
    paths = [f"{_CONTAINERS[0]}/{text(d['id'])}" if "id" in d else at[d["memaddr"]] for d in found]
    return tuple(VirtioMem(path, *each) for path, each in zip(paths, sizes, strict=True))


def _shared(objects: Mapping[str, str]) -> Steps[bool]:
    """Whether a backend is shared; the one that QEMU makes by itself for `-m` never is."""
    backends = [path for path, kind in objects.items() if kind.startswith("child<memory-backend-")]
    return any((yield [qom_get(path, "share") for path in backends])) if backends else False


def _pinned(devices: Mapping[str, str], objects: Mapping[str, str]) -> Steps[str]:
    if any(kind.startswith("child<vfio-pci") for kind in devices.values()):
        return "a VFIO device pins its memory"
    for path, kind in objects.items():
        if kind == "child<memory-backend-memfd>" and (yield qom_get(path, "hugetlb")):
            return "its memory is of huge pages"
        if kind == "child<memory-backend-file>" and "hugepages" in text((yield qom_get(path, "mem-path"))):
            return "its memory is of huge pages"
    return ""
