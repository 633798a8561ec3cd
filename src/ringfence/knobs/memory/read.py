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
    """Read everything. Changes nothing; raises MonitorError."""
    named, anonymous, objects, machine, summary, status = yield [
        *(Qmp("qom-list", {"path": path}) for path in _CONTAINERS),
        Qmp("qom-list", {"path": "/objects"}),
        Qmp("qom-list", {"path": "/machine"}),
        Qmp("query-memory-size-summary"),
        Qmp("query-status"),
    ]
    children = zip(_CONTAINERS, (named, anonymous), strict=True)
    devices = [
        (f"{path}/{text(entry['name'])}", text(entry["type"]))
        for path, found in children
        for entry in entries(found)
    ]
    kinds = {text(entry["name"]): text(entry["type"]) for entry in entries(objects)}
    boot, runstate = number(fields(summary)["base-memory"]), text(fields(status)["status"])
    has_size = any(entry["name"] == "memory" for entry in entries(machine))
    plugged = [(entry["type"], fields(entry["data"])) for entry in (yield from _optional("query-memory-devices"))]
    reports = [r for r in (yield from _optional("query-acpi-ospm-status")) if r["slot-type"] == "DIMM"]
    dimms = _dimms(plugged, reports)
    cpus = [fields(cpu.get("props", {})) for cpu in (yield from _optional("query-hotpluggable-cpus"))]
    nodes = {number(props["node-id"]) for props in cpus if "node-id" in props}
    shared = any(backend["share"] for backend in (yield from _optional("query-memdev")))
    virtio_mems = yield from _virtio_mems(
        plugged, [path for path, kind in devices if kind.startswith("child<virtio-mem")]
    )
    slots, room = len(reports), None
    if has_size:
        size = fields((yield qom_get("/machine", "memory")))
        slots, least = number(size.get("slots", 0)), number(size["size"])
        taken = sum(d.size_bytes for d in dimms) + sum(d.max_bytes for d in virtio_mems)
        room = max(0, number(size.get("max-size", least)) - least - taken)
    taken_slots = sum(1 for _, data in plugged if "slot" in data)
    path = next((path for path, kind in devices if kind.startswith("child<virtio-balloon")), "")
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
        nodes=tuple(sorted(nodes)),
        shared=shared,
        pinned=(yield from _pinned([kind for _, kind in devices], kinds)),
        objects=frozenset(kinds),
    )


def read_stats(path: str) -> Steps[Stats]:
    """The guest's statistics as they are now."""
    report = yield qom_get(path, "guest-stats")
    return _stats(report, (yield WallClock()))


def qom_get(path: str, name: str) -> Qmp:
    """Read a property."""
    return Qmp("qom-get", {"path": path, "property": name})


def _optional(command: str) -> Steps[list[dict[str, Any]]]:
    """The answer of a query that not every machine takes, empty when it is refused."""
    try:
        return entries((yield Qmp(command)))
    except MonitorRefusedError:
        return []


def _balloon(path: str) -> Steps[tuple[Balloon, Stats]]:
    has = {text(entry["name"]) for entry in entries((yield Qmp("qom-list", {"path": path})))}
    asked = sorted(has & OPTIONS.keys())
    balloon, poll_s, report, *answers = yield [
        Qmp("query-balloon"),
        qom_get(path, "guest-stats-polling-interval"),
        qom_get(path, "guest-stats"),
        *(qom_get(path, name) for name in asked),
    ]
    on = frozenset(name for name, value in zip(asked, answers, strict=True) if value)
    device = Balloon(path, number(fields(balloon)["actual"]), number(poll_s), on)
    return device, _stats(report, (yield WallClock()))


def _stats(report: Mapping[str, Any], now_s: float) -> Stats:
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


def _dimms(plugged: Sequence[tuple[str, Any]], reports: Sequence[Mapping[str, Any]]) -> tuple[Dimm, ...]:
    leaving = {r["slot"] for r in reports if (r["source"], r["status"]) == (OST_EJECT, OST_IN_PROGRESS)}
    return tuple(
        Dimm(
            id=text(data.get("id", "")),
            memdev=text(data["memdev"]).rpartition("/")[2],
            size_bytes=number(data["size"]),
            slot=number(data["slot"]),
            node=number(data["node"]),
            removable=bool(data["hotplugged"] and data["hotpluggable"] and data.get("id")),
            leaving=str(data["slot"]) in leaving,
        )
        for kind, data in plugged
        if kind == "dimm"
    )


def _virtio_mems(plugged: Sequence[tuple[str, Any]], paths: Sequence[str]) -> Steps[tuple[VirtioMem, ...]]:
    """QEMU lists them by id; one that has none is found by its address."""
    devices = [data for kind, data in plugged if kind == "virtio-mem"]
    sizes = [
        tuple(number(data[name]) for name in ("block-size", "size", "requested-size", "max-size"))
        for data in devices
    ]
    at: dict[int, str] = {}
    if any("id" not in data for data in devices):
        addresses = yield [qom_get(path, "memaddr") for path in paths]
        at = dict(zip(addresses, paths, strict=True))
    found = [f"{_CONTAINERS[0]}/{text(d['id'])}" if "id" in d else at[number(d["memaddr"])] for d in devices]
    return tuple(VirtioMem(path, *numbers) for path, numbers in zip(found, sizes, strict=True))


def _pinned(devices: Sequence[str], objects: Mapping[str, str]) -> Steps[str]:
    """:param devices: QOM types. :param objects: name to QOM type."""
    if any(kind.startswith("child<vfio-pci") for kind in devices):
        return "a VFIO device pins its memory"
    for name, kind in objects.items():
        path = f"/objects/{name}"
        if kind == "child<memory-backend-memfd>" and (yield qom_get(path, "hugetlb")):
            return "its memory is of huge pages"
        if kind == "child<memory-backend-file>" and "hugepages" in text((yield qom_get(path, "mem-path"))):
            return "its memory is of huge pages"
    return ""
