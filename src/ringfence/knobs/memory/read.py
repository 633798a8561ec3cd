"""Steps that read a VM's memory. They change nothing.

Sources: QEMU qapi/machine.json, qapi/acpi.json, docs/interop/virtio-balloon-stats.rst.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ringfence.core.requests import Qmp, Steps, WallClock
from ringfence.errors import MonitorRefusedError
from ringfence.knobs.memory.ledger import OPTIONS, UNKNOWN_STAT, Balloon, Dimm, State, Stats, VirtioMem

OST_EJECT = 3
OST_IN_PROGRESS = 132
_CONTAINERS = ("/machine/peripheral", "/machine/peripheral-anon")


def read() -> Steps[State]:
    """Read everything. Changes nothing; raises MonitorError."""
    named, anonymous, objects, machine, summary, status = yield [
        *(Qmp("qom-list", {"path": path}) for path in _CONTAINERS),
        Qmp("qom-list", {"path": "/objects"}),
        Qmp("qom-list", {"path": "/machine"}),
        Qmp("query-memory-size-summary"),
        Qmp("query-status"),
    ]
    devices = [
        (f"{path}/{e['name']}", e["type"])
        for path, es in zip(_CONTAINERS, (named, anonymous), strict=True)
        for e in es
    ]
    plugged = (yield from _optional("query-memory-devices")) or []
    reports = [r for r in (yield from _optional("query-acpi-ospm-status")) or [] if r["slot-type"] == "DIMM"]
    cpus = (yield from _optional("query-hotpluggable-cpus")) or []
    virtio_mems = yield from _virtio_mems(
        plugged, [path for path, kind in devices if kind.startswith("child<virtio-mem")]
    )
    dimms = _dimms(plugged, reports)
    slots, room = len(reports), None
    if any(entry["name"] == "memory" for entry in machine):
        size = yield qom_get("/machine", "memory")
        slots = size.get("slots", 0)
        taken = sum(d.size_bytes for d in dimms) + sum(d.max_bytes for d in virtio_mems)
        room = max(0, size.get("max-size", size["size"]) - size["size"] - taken)
    taken_slots = sum(1 for entry in plugged if "slot" in entry["data"])
    path = next((path for path, kind in devices if kind.startswith("child<virtio-balloon")), "")
    balloon, stats = (yield from _balloon(path)) if path else (None, Stats(None, None, None))
    return State(
        boot_bytes=summary["base-memory"],
        dimms=dimms,
        virtio_mems=virtio_mems,
        balloon=balloon,
        stats=stats,
        runstate=status["status"],
        free_slots=max(0, slots - taken_slots),
        room_bytes=room,
        nodes=tuple(sorted({cpu["props"]["node-id"] for cpu in cpus if "node-id" in cpu["props"]})),
        shared=(yield from _shared(objects)),
        pinned=(yield from _pinned([kind for _, kind in devices], objects)),
        objects=frozenset(entry["name"] for entry in objects),
    )


def read_stats(path: str) -> Steps[Stats]:
    """The guest's statistics as they are now."""
    report = yield qom_get(path, "guest-stats")
    return _stats(report, (yield WallClock()))


def qom_get(path: str, name: str) -> Qmp:
    """Read a property."""
    return Qmp("qom-get", {"path": path, "property": name})


def _optional(command: str) -> Steps[Any]:
    """The answer of a query that not every machine takes, None when it is refused."""
    try:
        return (yield Qmp(command))
    except MonitorRefusedError:
        return None


def _balloon(path: str) -> Steps[tuple[Balloon, Stats]]:
    has = {entry["name"] for entry in (yield Qmp("qom-list", {"path": path}))}
    asked = sorted(has & OPTIONS.keys())
    balloon, poll_s, report, *answers = yield [
        Qmp("query-balloon"),
        qom_get(path, "guest-stats-polling-interval"),
        qom_get(path, "guest-stats"),
        *(qom_get(path, name) for name in asked),
    ]
    now = yield WallClock()
    on = frozenset(name for name, value in zip(asked, answers, strict=True) if value)
    return Balloon(path, balloon["actual"], poll_s, on), _stats(report, now)


def _stats(report: Mapping[str, Any], now_s: float) -> Stats:
    """All ones is QEMU's word for a statistic the guest never gave."""
    updated = report.get("last-update") or 0
    if not updated:
        return Stats(None, None, None)
    numbers = {name: None if value == UNKNOWN_STAT else int(value) for name, value in report["stats"].items()}
    available, total = numbers.get("stat-available-memory"), numbers.get("stat-total-memory")
    return Stats(available, total, max(0.0, now_s - updated))


def _dimms(plugged: Sequence[Mapping[str, Any]], reports: Sequence[Mapping[str, Any]]) -> tuple[Dimm, ...]:
    leaving = {r["slot"] for r in reports if (r["source"], r["status"]) == (OST_EJECT, OST_IN_PROGRESS)}
    return tuple(
        Dimm(
            id=data.get("id", ""),
            memdev=data["memdev"].rpartition("/")[2],
            size_bytes=data["size"],
            slot=data["slot"],
            node=data["node"],
            removable=bool(data["hotplugged"] and data["hotpluggable"] and data.get("id")),
            leaving=str(data["slot"]) in leaving,
        )
        for data in (entry["data"] for entry in plugged if entry["type"] == "dimm")
    )


def _virtio_mems(plugged: Sequence[Mapping[str, Any]], paths: Sequence[str]) -> Steps[tuple[VirtioMem, ...]]:
    """QEMU lists them by id; one that has none is found by its address."""
    entries = [entry["data"] for entry in plugged if entry["type"] == "virtio-mem"]
    at: dict[int, str] = {}
    if any("id" not in data for data in entries):
        addresses = yield [qom_get(path, "memaddr") for path in paths]
        at = dict(zip(addresses, paths, strict=True))
    found = []
    for data in entries:
        path = f"{_CONTAINERS[0]}/{data['id']}" if "id" in data else at[data["memaddr"]]
        found.append(VirtioMem(path, data["block-size"], data["size"], data["requested-size"], data["max-size"]))
    return tuple(found)


def _shared(objects: Sequence[Mapping[str, str]]) -> Steps[bool]:
    """Whether a backend is shared; the backend that QEMU makes by itself for `-m` never is."""
    backends = [e["name"] for e in objects if e["type"].startswith("child<memory-backend-")]
    if not backends:
        return False
    return any((yield [qom_get(f"/objects/{name}", "share") for name in backends]))


def _pinned(kinds: Sequence[str], objects: Sequence[Mapping[str, str]]) -> Steps[str]:
    if any(kind.startswith("child<vfio-pci") for kind in kinds):
        return "a VFIO device pins its memory"
    for entry in objects:
        path = f"/objects/{entry['name']}"
        if entry["type"] == "child<memory-backend-memfd>" and (yield qom_get(path, "hugetlb")):
            return "its memory is of huge pages"
        if entry["type"] == "child<memory-backend-file>" and "hugepages" in (yield qom_get(path, "mem-path")):
            return "its memory is of huge pages"
    return ""
