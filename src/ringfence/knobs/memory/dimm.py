"""Moves by pc-dimm: memory plugged and unplugged as a whole.

`device_add` and `device_del` only ask. A guest that refuses an unplug says so in ACPI_DEVICE_OST alone, or not at
all; one that gives it up may take its time. A backend must outlive its device, and be removed after it.
Sources: QEMU docs/memory-hotplug.txt, qapi/acpi.json, qapi/qdev.json; ACPI 6.4, 6.3.5 _OST (status codes).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ringfence import units
from ringfence.core.answers import entries, fields, number
from ringfence.core.requests import Clock, Qmp, Steps, Wait
from ringfence.errors import MonitorRefusedError, RingfenceError
from ringfence.knobs.memory import pace
from ringfence.knobs.memory.choose import Move
from ringfence.knobs.memory.ledger import DIMM_BLOCK_BYTES, OUR_BACKEND, Dimm, State
from ringfence.knobs.memory.online import Blocks
from ringfence.knobs.memory.pace import POLL_S, Seen, Trip, Trouble
from ringfence.knobs.memory.read import OST_EJECT, OST_IN_PROGRESS

EVENTS = ("ACPI_DEVICE_OST", "DEVICE_DELETED", "DEVICE_UNPLUG_GUEST_ERROR", "MEM_UNPLUG_ERROR")
OUR_DIMM = "ringfence-dimm-"
_STEP_S = 0.5
"""At a pace one DIMM brings what this long would: more would be a jump, and slots are few."""
_TAKEN_S = 2.5
_SILENCE_S = 10.0
"""A guest that can unplug says within milliseconds that it has begun; one without ACPI running never does."""
_RELEASE_S = 5.0
_OST_DONE = 0


class Plug(NamedTuple):
    """One DIMM to be plugged. :param node: None where the VM has one NUMA node, and it goes without saying."""

    number: int
    size_bytes: int
    node: int | None
    shared: bool

    @property
    def backend(self) -> str:
        """Its backend's id."""
        return f"{OUR_BACKEND}{self.number}"

    @property
    def id(self) -> str:
        """The device's id."""
        return f"{OUR_DIMM}{self.number}"

    def requests(self) -> list[Qmp]:
        """The backend, then the device; QEMU chooses slot and address."""
        kind = (
            {"qom-type": "memory-backend-memfd", "share": True}
            if self.shared
            else {"qom-type": "memory-backend-ram"}
        )
        device: dict[str, object] = {"driver": "pc-dimm", "id": self.id, "memdev": self.backend}
        if self.node is not None:
            device["node"] = self.node
        return [
            Qmp("object-add", {"id": self.backend, "size": self.size_bytes, **kind}),
            Qmp("device_add", device),
        ]


def plugs(state: State, move: Move, pace_bytes_per_s: int | None) -> list[Plug]:
    """One DIMM; at a pace several, as far as there are slots."""
    count = 1
    if pace_bytes_per_s:
        largest = max(DIMM_BLOCK_BYTES, int(pace_bytes_per_s * _STEP_S))
        count = min(state.free_slots, max(1, -(-move.bytes // largest)))
    blocks = move.bytes // DIMM_BLOCK_BYTES
    count = min(count, blocks)
    names = {dimm.id for dimm in state.dimms}
    numbers = (
        n for n in range(2**16) if f"{OUR_BACKEND}{n}" not in state.objects and f"{OUR_DIMM}{n}" not in names
    )
    on_nodes = {node: sum(d.size_bytes for d in state.dimms if d.node == node) for node in state.nodes}
    planned = []
    for index in range(count):
        size = (blocks // count + (index < blocks % count)) * DIMM_BLOCK_BYTES
        node = min(on_nodes, key=lambda n: (on_nodes[n], n)) if len(on_nodes) > 1 else None
        if node is not None:
            on_nodes[node] += size
        planned.append(Plug(next(numbers), size, node, state.shared))
    return planned


def unplug_requests(dimm: Dimm) -> list[Qmp]:
    """The device, then its backend."""
    return [Qmp("device_del", {"id": dimm.id}), remove(dimm.memdev)]


def remove(backend: str) -> Qmp:
    """Remove a backend that no device uses."""
    return Qmp("object-del", {"id": backend})


def plug(state: State, move: Move, trip: Trip, before: Blocks | None) -> Steps[Seen]:
    """Plug one after the other. When QEMU refuses a device its backend is removed again."""
    if before is not None and before.block_bytes > DIMM_BLOCK_BYTES and move.bytes % before.block_bytes:
        block = units.format_bytes(before.block_bytes)
        detail = f"this guest takes memory in multiples of {block} only"
        return Seen(Trouble("ringfence", detail, "choose such a size"))
    start, moved = (yield Clock()), 0
    for new in plugs(state, move, trip.pace):
        backend, device = new.requests()
        try:
            yield backend
        except MonitorRefusedError as refusal:
            return Seen(pace.refused(refusal))
        try:
            yield device
        except MonitorRefusedError as refusal:
            yield remove(new.backend)
            return Seen(pace.refused(refusal))
        moved += new.size_bytes
        refused = yield from _refused_plug(new, trip)
        yield trip.progress(moved)
        if refused:
            return Seen(refused)
        yield from pace.wait(trip, moved, start)
    return Seen(None)


def _refused_plug(new: Plug, trip: Trip) -> Steps[Trouble | None]:
    """What the guest's ACPI code answered; silence may be a guest that is not there yet."""
    start = yield Clock()
    while True:
        event = yield Wait(("ACPI_DEVICE_OST",), POLL_S)
        info = fields(event["data"]["info"]) if event else {}
        if info.get("device") == new.id:
            if info["status"] == _OST_DONE:
                return None
            return Trouble("guest", f"QEMU has plugged {new.id}, and the guest refused it (_OST {info['status']})")
        if (yield Clock()) > min(trip.deadline, start + _TAKEN_S):
            return None


def unplug(move: Move, trip: Trip) -> Steps[Seen]:
    """Unplug one after the other, each seen through before the next is asked for."""
    start, moved = (yield Clock()), 0
    for dimm in move.dimms:
        device, backend = unplug_requests(dimm)
        try:
            yield device
        except MonitorRefusedError as refusal:
            return Seen(pace.refused(refusal))
        try:
            trouble = yield from _wait_gone(dimm, trip)
        except RingfenceError as error:
            error.add_state(f"the guest was asked to give up {dimm.id}, and may still do so")
            raise
        if trouble:
            return Seen(trouble)
        trouble = yield from _release(backend)
        moved += dimm.size_bytes
        yield trip.progress(moved)
        if trouble:
            return Seen(trouble)
        yield from pace.wait(trip, moved, start)
    return Seen(None)


def _wait_gone(dimm: Dimm, trip: Trip) -> Steps[Trouble | None]:
    start = yield Clock()
    begun = False
    while True:
        event = yield Wait(EVENTS, POLL_S)
        if event is not None:
            if event["event"] == "DEVICE_DELETED" and event["data"].get("device") == dimm.id:
                return None
            status = _eject_status(event, dimm)
            begun = begun or status == OST_IN_PROGRESS
            if status not in (None, _OST_DONE, OST_IN_PROGRESS):
                detail = f"it refused to give up {dimm.id}: memory in it is in use and cannot be moved"
                return Trouble("guest", detail, "a balloon can take as much: memory.target.via=balloon")
        left = entries((yield Qmp("query-memory-devices")))
        if all(fields(entry["data"]).get("id") != dimm.id for entry in left):
            return None
        now = yield Clock()
        if now > trip.deadline or (not begun and now > start + _SILENCE_S):
            detail = f"no answer to the unplug of {dimm.id}; it may still go later"
            return Trouble("guest", detail, "set it again when the guest has booted, or is less busy")


def _eject_status(event: Mapping[str, Any], dimm: Dimm) -> int | str | None:
    """What an event says of the unplug of `dimm`, None when it says nothing of it."""
    data = fields(event["data"])
    if event["event"] != "ACPI_DEVICE_OST":
        about = data.get("device") == dimm.id or data.get("path") == f"/machine/peripheral/{dimm.id}"
        return event["event"] if about and event["event"] != "DEVICE_DELETED" else None
    info = fields(data["info"])
    about = info.get("slot-type") == "DIMM" and info.get("slot") == str(dimm.slot)
    return number(info["status"]) if about and info["source"] == OST_EJECT else None


def _release(backend: Qmp) -> Steps[Trouble | None]:
    """Remove a backend whose device has gone; until QEMU has unmapped it, that is refused."""
    start = yield Clock()
    while True:
        try:
            yield backend
        except MonitorRefusedError as refusal:
            if (yield Clock()) - start > _RELEASE_S:
                name = backend.arguments["id"]
                return Trouble("QEMU", f"the DIMM is gone, its backend {name} is not: {refusal.message}")
            yield Wait((), POLL_S)
        else:
            return None
