"""memory.target by virtio-mem and pc-dimm: guests that follow, stop short, refuse, die and come late."""

from __future__ import annotations

from typing import Any

import pytest

from ringfence import units
from ringfence.core.knob import Outcome, Part, Row, Value, Verdict
from ringfence.core.requests import Agent, Qmp
from ringfence.errors import (
    AgentAbsentError,
    InterruptError,
    MonitorGoneError,
    MonitorRefusedError,
    TenantError,
    UsageError,
)
from ringfence.knobs.memory import UNKNOWN_STAT, MemoryTarget
from ringfence.knobs.memory.dimm import EVENTS as DIMM_EVENTS
from ringfence.testing.steps import PaperVm

KNOB = MemoryTarget()
ROWS: dict[str, Row] = {row.key: row for row in KNOB.rows}
BALLOON, VMEM = "/machine/peripheral/balloon0", "/machine/peripheral/vm0"
MIB, GIB = units.MIB, units.GIB
BLOCK = 128 * MIB
FIRST_BLOCK = 32
Sent = list[tuple[str, Any]]


class PluggedGuest:
    """A guest of 512 MiB with a balloon, a virtio-mem device and DIMM slots, as recorded on QEMU 7.2.

    :ivar used: what the guest cannot give up.
    :ivar vmem_floor: below this virtio-mem does not shrink, however long it is asked.
    :ivar dimm_answer: `gone`, `refused` (by _OST alone), `error` (by event), or `silent`.
    :ivar auto_online: whether the guest uses new memory by itself.
    """

    def __init__(
        self, *, virtio_mem: int = 2 * GIB, slots: int = 4, balloon: bool = True, agent: bool = True
    ) -> None:
        self.boot, self.maximum, self.slots = 512 * MIB, 8 * GIB, slots
        self.ballooned = 0
        self.has_balloon = balloon
        self.vmem_max, self.vmem_size, self.vmem_requested, self.vmem_floor = virtio_mem, 0, 0, 0
        self.vmem_driver, self.auto_online, self.vmem_step = True, True, BLOCK
        self.dimms: list[dict[str, Any]] = []
        self.objects: dict[str, str] = {}
        self.dimm_answer, self.busy_backend, self.polling, self.used = "gone", 0, 0, 100 * MIB
        self.offline: set[int] = set()
        self.ospm: dict[int, tuple[int, int]] = {}
        self.nodes, self.shared = [0], [""]
        self.runstate = "running"
        self.extra_devices: list[str] = []
        self.script = PaperVm(
            {
                "qom-list": self.qom_list,
                "qom-get": self.qom_get,
                "qom-set": self.qom_set,
                "query-memory-size-summary": {"base-memory": self.boot, "plugged-memory": 0},
                "query-status": lambda _: {"status": self.runstate},
                "query-memory-devices": self.memory_devices,
                "query-acpi-ospm-status": self.ospm_status,
                "query-hotpluggable-cpus": lambda _: [{"props": {"node-id": n}} for n in self.nodes],
                "query-balloon": lambda _: {"actual": self.boot + self.dimm_bytes - self.ballooned},
                "balloon": self.balloon,
                "object-add": self.object_add,
                "object-del": self.object_del,
                "device_add": self.device_add,
                "device_del": self.device_del,
            }
        )
        if agent:
            self.script.answers |= {
                "guest-get-memory-block-info": {"size": BLOCK},
                "guest-get-memory-blocks": self.blocks,
                "guest-set-memory-blocks": self.set_blocks,
            }

    @property
    def dimm_bytes(self) -> int:
        return sum(dimm["size"] for dimm in self.dimms)

    @property
    def usable(self) -> int:
        return self.boot + self.dimm_bytes + self.vmem_size - self.ballooned

    def qom_list(self, arguments: Any) -> list[dict[str, str]]:
        path = arguments["path"]
        if path == "/machine/peripheral":
            devices = ["virtio-balloon-pci balloon0"] if self.has_balloon else []
            devices += ["virtio-mem-pci vm0"] if self.vmem_max else []
            pairs = [text.split() for text in (*devices, *self.extra_devices)]
            return [{"name": name, "type": f"child<{kind}>"} for kind, name in pairs]
        if path == "/objects":
            return [{"name": name, "type": f"child<{kind}>"} for name, kind in self.objects.items()]
        return [{"name": "memory", "type": "MemorySizeConfiguration"}] if path == "/machine" else []

    def qom_get(self, arguments: Any) -> Any:
        name = arguments["property"]
        if name == "memory":
            return {"size": self.boot, "max-size": self.maximum, "slots": self.slots}
        if name in ("share", "hugetlb"):
            return arguments["path"] in self.shared and name == "share"
        if name == "size":
            return self.vmem_moves()
        if name == "guest-stats-polling-interval":
            return self.polling
        names = ("stat-available-memory", "stat-total-memory")
        if not self.polling:
            return {"stats": dict.fromkeys(names, UNKNOWN_STAT), "last-update": 0}
        total = self.usable - len(self.offline) * BLOCK
        stats = dict(zip(names, (total - self.used, total), strict=True))
        return {"stats": stats, "last-update": int(self.script.now_s)}

    def vmem_moves(self) -> int:
        """`vmem_step` a look; a guest that onlines nothing takes no more than two blocks ahead."""
        if self.vmem_driver and self.vmem_requested > self.vmem_size and len(self.offline) < 2:
            self.vmem_size += min(self.vmem_step, self.vmem_requested - self.vmem_size)
            if not self.auto_online:
                self.offline.add(1000 + self.vmem_size // BLOCK)
        elif self.vmem_driver and self.vmem_requested < self.vmem_size:
            self.vmem_size = max(self.vmem_requested, self.vmem_floor, self.vmem_size - BLOCK)
        return self.vmem_size

    def qom_set(self, arguments: Any) -> dict[str, Any]:
        if arguments["property"] == "requested-size":
            self.vmem_requested = arguments["value"]
        else:
            self.polling = arguments["value"]
        return {}

    def memory_devices(self, _: object) -> list[dict[str, Any]]:
        dimms = [{"type": "dimm", "data": dict(dimm)} for dimm in self.dimms]
        sizes = {"size": self.vmem_size, "requested-size": self.vmem_requested, "max-size": self.vmem_max}
        vmem = {"id": "vm0", "memdev": "/objects/v", "block-size": 2 * MIB, "node": 0, "memaddr": 2**32, **sizes}
        return [*dimms, *([{"type": "virtio-mem", "data": vmem}] if self.vmem_max else [])]

    def ospm_status(self, _: object) -> list[dict[str, Any]]:
        words = [self.ospm.get(slot, (0, 0)) for slot in range(self.slots)]
        return [
            {"slot-type": "DIMM", "slot": str(slot), "source": source, "status": status}
            for slot, (source, status) in enumerate(words)
        ]

    def balloon(self, arguments: Any) -> dict[str, Any]:
        self.ballooned = self.boot + self.dimm_bytes - arguments["value"]
        return {}

    def object_add(self, arguments: Any) -> dict[str, Any]:
        self.objects[arguments["id"]] = arguments["qom-type"]
        self.sizes = {**getattr(self, "sizes", {}), arguments["id"]: arguments["size"]}
        return {}

    def object_del(self, arguments: Any) -> dict[str, Any]:
        name = arguments["id"]
        if self.busy_backend or any(dimm["memdev"] == f"/objects/{name}" for dimm in self.dimms):
            self.busy_backend = max(0, self.busy_backend - 1)
            raise MonitorRefusedError(f"object '{name}' is in use, can not be deleted")
        del self.objects[name]
        return {}

    def device_add(self, arguments: Any) -> dict[str, Any]:
        free = min(set(range(self.slots)) - {dimm["slot"] for dimm in self.dimms})
        size = self.sizes[arguments["memdev"]]
        self.plug(arguments["id"], size, free, arguments["memdev"], arguments.get("node", 0))
        self.ost(free, 1, 0, device=arguments["id"])
        return {}

    def plug(
        self, name: str, size: int, slot: int, memdev: str, node: int = 0, *, hotplugged: bool = True
    ) -> None:
        facts = {"hotplugged": hotplugged, "hotpluggable": True, "addr": 2**33, "node": node}
        self.dimms.append({"id": name, "size": size, "slot": slot, "memdev": f"/objects/{memdev}", **facts})
        if not self.auto_online:
            self.offline |= {FIRST_BLOCK + slot * 64 + n for n in range(size // BLOCK)}

    def ost(self, slot: int, source: int, status: int, **more: str) -> None:
        info = {"slot": str(slot), "slot-type": "DIMM", "source": source, "status": status, **more}
        self.script.events.append({"event": "ACPI_DEVICE_OST", "data": {"info": info}})

    def device_del(self, arguments: Any) -> dict[str, Any]:
        dimm = next(dimm for dimm in self.dimms if dimm["id"] == arguments["id"])
        if self.dimm_answer == "silent":
            return {}
        self.ost(dimm["slot"], 3, 132, device=dimm["id"])
        if self.dimm_answer == "refused":
            self.ost(dimm["slot"], 3, 130, device=dimm["id"])
        elif self.dimm_answer == "error":
            path = f"/machine/peripheral/{dimm['id']}"
            self.script.events.append({"event": "DEVICE_UNPLUG_GUEST_ERROR", "data": {"path": path}})
        elif self.dimm_answer == "gone":
            self.dimms.remove(dimm)
            self.script.events.append({"event": "DEVICE_DELETED", "data": {"device": dimm["id"]}})
        return {}

    def blocks(self, _: object) -> list[dict[str, Any]]:
        known = list(range(self.boot // BLOCK))
        for dimm in self.dimms:
            known += [FIRST_BLOCK + dimm["slot"] * 64 + n for n in range(dimm["size"] // BLOCK)]
        known += [1000 + n for n in range(1, -(-self.vmem_size // BLOCK) + 1)]
        return [{"phys-index": n, "online": n not in self.offline, "can-offline": True} for n in known]

    def set_blocks(self, arguments: Any) -> list[Any]:
        self.offline -= {entry["phys-index"] for entry in arguments["mem-blks"]}
        return []

    def part(self) -> Part:
        return self.script.play(KNOB.observe())[0]

    def set(self, target: int, *, timeout_s: float = 60, force: bool = False, **more: Value | None) -> Outcome:
        part = self.part()
        wants = {"target": target, **{name.replace("_", "."): value for name, value in more.items()}}
        KNOB.check(part, wants, force=force)
        self.planned = KNOB.changes(part, wants)
        self.script.sent.clear()
        return self.script.play(KNOB.apply(part, wants, timeout_s=timeout_s, force=force))

    def sent(self) -> Sent:
        """What changed the VM: command and the value that matters."""
        return [brief(request) for request in self.script.changes()]


def brief(request: Qmp | Agent) -> tuple[str, Any]:
    arguments = request.arguments
    name = request.command if isinstance(request, Qmp) else request.agent_command
    if arguments.get("property") == "guest-stats-polling-interval":
        name = "poll"
    return name, arguments.get("value", arguments.get("id"))


def read(guest: PluggedGuest, key: str) -> Value | None:
    return KNOB.observation(guest.part(), ROWS[key]).actual


def note(outcome: Outcome) -> str:
    return " ".join(outcome.notes)


# What is chosen, and that the dry run is what is sent


def test_the_ledgers_add_up() -> None:
    guest = PluggedGuest()
    guest.vmem_size = guest.vmem_requested = 256 * MIB
    guest.plug("mine", 128 * MIB, 0, "m")
    guest.ballooned = 64 * MIB
    assert read(guest, "memory.boot") == 512 * MIB
    assert read(guest, "memory.plugged") == 384 * MIB
    assert read(guest, "memory.ballooned") == 64 * MIB
    assert read(guest, "memory.target") == 832 * MIB
    seen = KNOB.observation(guest.part(), ROWS["memory.target"])
    assert seen.maximum == 8 * GIB


@pytest.mark.parametrize(
    ("target", "via", "mechanisms"),
    [
        (256 * MIB, None, "balloon"),
        (GIB, None, "virtio-mem"),
        (4 * GIB, None, "virtio-mem, pc-dimm"),
        (640 * MIB, "pc-dimm", "pc-dimm"),
    ],
)
def test_what_is_chosen_and_said(target: int, via: str | None, mechanisms: str) -> None:
    guest = PluggedGuest()
    outcome = guest.set(target, **({"target_via": via} if via else {}))
    assert outcome.verdict is Verdict.APPLIED
    assert f"by {mechanisms}: " in note(outcome)
    assert guest.usable == target
    assert guest.script.changes() == guest.planned
    assert outcome.after is not None
    assert KNOB.observation(outcome.after, ROWS["memory.target.via"]).actual == mechanisms


@pytest.mark.parametrize(("less", "mechanism"), [(GIB, "virtio-mem"), (256 * MIB, "balloon")])
def test_a_shrink_of_a_gib_is_virtio_mems_and_a_smaller_one_the_balloons(less: int, mechanism: str) -> None:
    guest = PluggedGuest()
    guest.vmem_size = guest.vmem_requested = 2 * GIB
    outcome = guest.set(guest.usable - less)
    assert (outcome.verdict, f"by {mechanism}:" in note(outcome)) == (Verdict.APPLIED, True)
    assert guest.script.changes() == guest.planned


@pytest.mark.parametrize(("pinned", "words"), [("vfio", "VFIO device pins"), ("huge", "of huge pages")])
def test_pinned_memory_is_taken_by_virtio_mem_even_where_it_is_little(pinned: str, words: str) -> None:
    guest = PluggedGuest()
    guest.vmem_size = guest.vmem_requested = 2 * GIB
    if pinned == "vfio":
        guest.extra_devices = ["vfio-pci gpu0"]
    else:
        guest.objects["ram"] = "memory-backend-file"
        plain = guest.qom_get
        guest.script.answers["qom-get"] = lambda a: "/dev/hugepages/x" if a["property"] == "mem-path" else plain(a)
    outcome = guest.set(guest.usable - 256 * MIB)
    assert note(outcome).startswith("by virtio-mem: ")
    assert words in note(outcome)
    assert guest.ballooned == 0


def test_growing_first_takes_back_what_the_balloon_holds() -> None:
    guest = PluggedGuest()
    guest.ballooned = 256 * MIB
    guest.set(GIB)
    assert guest.sent() == [("balloon", 512 * MIB), ("qom-set", 512 * MIB)]
    assert guest.script.changes() == guest.planned


def test_without_virtio_mem_and_slots_the_boot_memory_is_the_most() -> None:
    with pytest.raises(UsageError, match="above the VM's memory, 512 MiB"):
        PluggedGuest(virtio_mem=0, slots=0).set(GIB)


def test_more_than_can_be_plugged() -> None:
    with pytest.raises(UsageError, match="above the VM's memory, 8 GiB"):
        PluggedGuest().set(9 * GIB)


def test_where_qemu_does_not_tell_the_room_it_is_asked() -> None:
    guest = PluggedGuest(virtio_mem=0)
    plain = guest.qom_list
    guest.script.answers["qom-list"] = lambda a: [] if a["path"] == "/machine" else plain(a)
    seen = KNOB.observation(guest.part(), ROWS["memory.target"])
    assert (seen.maximum, seen.unavailable) == (None, "")
    assert guest.set(GIB).verdict is Verdict.APPLIED


@pytest.mark.parametrize(
    ("guest", "target", "words"),
    [
        (PluggedGuest(virtio_mem=0), 600 * MIB, "512 MiB or 640 MiB"),
        (PluggedGuest(slots=0), 513 * MIB, "512 MiB or 514 MiB"),
    ],
)
def test_sizes_that_are_no_whole_blocks_are_refused_with_the_nearest(
    guest: PluggedGuest, target: int, words: str
) -> None:
    with pytest.raises(UsageError) as caught:
        guest.set(target)
    assert words in caught.value.hint


def test_a_mechanism_that_is_not_there() -> None:
    with pytest.raises(TenantError, match="has balloon, pc-dimm") as caught:
        PluggedGuest(virtio_mem=0).set(GIB, target_via="virtio-mem")
    assert "virtio-mem-pci" in caught.value.hint
    with pytest.raises(UsageError, match="no mechanism"):
        PluggedGuest().set(GIB, target_via="ksm")


@pytest.mark.parametrize("wants", [{"target.via": "balloon"}, {"ramp": 2**30}])
def test_a_modifier_alone_means_nothing(wants: dict[str, Value]) -> None:
    with pytest.raises(UsageError, match=r"only together with memory\.target"):
        KNOB.check(PluggedGuest().part(), wants, force=False)


def test_ledgers_cannot_be_set() -> None:
    with pytest.raises(UsageError, match=r"memory\.plugged can only be read"):
        KNOB.check(PluggedGuest().part(), {"plugged": 0}, force=False)


# virtio-mem


def test_virtio_mem_shrinks_in_steps_with_the_guests_word_between_them() -> None:
    guest = PluggedGuest()
    guest.vmem_size = guest.vmem_requested = 2 * GIB
    outcome = guest.set(GIB, target_via="virtio-mem")
    assert outcome.verdict is Verdict.APPLIED
    steps = [value for name, value in guest.sent() if name == "qom-set"]
    assert steps == [1536 * MIB, GIB, 512 * MIB]
    assert guest.script.changes() == guest.planned
    assert guest.script.progress[-1].done == guest.script.progress[-1].total == 1536 * MIB


def test_a_guest_that_fills_up_on_the_way_is_not_pressed_on() -> None:
    guest = PluggedGuest()
    guest.vmem_size = guest.vmem_requested = 2 * GIB
    plain = guest.qom_set

    def fill(arguments: Any) -> dict[str, Any]:
        if arguments["value"] == GIB:
            guest.used = 1400 * MIB
        return plain(arguments)

    guest.script.answers["qom-set"] = fill
    outcome = guest.set(512 * MIB)
    assert (outcome.verdict, outcome.by) == (Verdict.PARTIAL, "ringfence")
    assert guest.vmem_requested == guest.vmem_size == GIB
    assert guest.polling == 0


def test_a_shrink_that_stops_short_is_partial_and_asked_for_no_longer() -> None:
    guest = PluggedGuest()
    guest.vmem_size = guest.vmem_requested = 2 * GIB
    guest.vmem_floor = 900 * MIB
    outcome = guest.set(512 * MIB)
    assert (outcome.verdict, outcome.by) == (Verdict.PARTIAL, "guest")
    assert guest.vmem_requested == guest.vmem_size == 900 * MIB
    assert "900 MiB" in outcome.detail


def test_no_second_request_while_one_is_on_its_way() -> None:
    guest = PluggedGuest()
    guest.vmem_size, guest.vmem_requested = 2 * GIB, GIB
    guest.vmem_floor = 2 * GIB
    outcome = guest.set(512 * MIB)
    assert (outcome.verdict, outcome.by) == (Verdict.REFUSED, "guest")
    assert guest.script.changes() == []
    seen = KNOB.observation(guest.part(), ROWS["memory.target"])
    assert (seen.target, seen.actual) == (1536 * MIB, 2560 * MIB)


def test_a_guest_without_the_driver_is_refused_and_the_request_taken_back() -> None:
    guest = PluggedGuest()
    guest.vmem_driver = False
    outcome = guest.set(GIB)
    assert (outcome.verdict, outcome.by, guest.vmem_requested) == (Verdict.REFUSED, "guest", 0)
    assert "driver" in outcome.detail


def test_without_statistics_virtio_mem_takes_nothing_unless_forced() -> None:
    guest = PluggedGuest(balloon=False)
    guest.vmem_size = guest.vmem_requested = GIB
    outcome = guest.set(512 * MIB)
    assert (outcome.verdict, outcome.by, guest.vmem_requested) == (Verdict.REFUSED, "ringfence", GIB)
    assert guest.set(512 * MIB, force=True).verdict is Verdict.APPLIED


def test_virtio_mem_of_a_guest_that_onlines_nothing_is_helped_on_its_way() -> None:
    guest = PluggedGuest()
    guest.auto_online = False
    assert guest.set(GIB + 512 * MIB).verdict is Verdict.APPLIED
    assert guest.offline == set()


def test_an_anonymous_device_is_found_by_its_address() -> None:
    guest = PluggedGuest()
    devices, names, get = guest.memory_devices, guest.qom_list, guest.qom_get

    def anonymous(arguments: Any) -> list[dict[str, str]]:
        if arguments["path"] == "/machine/peripheral-anon":
            return [{"name": "device[3]", "type": "child<virtio-mem-pci>"}]
        return [entry for entry in names(arguments) if entry["name"] != "vm0"]

    def without_id(arguments: Any) -> list[dict[str, Any]]:
        found = devices(arguments)
        del found[0]["data"]["id"]
        return found

    guest.script.answers |= {
        "query-memory-devices": without_id,
        "qom-list": anonymous,
        "qom-get": lambda a: 2**32 if a["property"] == "memaddr" else get(a),
    }
    guest.set(GIB)
    paths = [r.arguments["path"] for r in guest.script.changes()]
    assert paths == ["/machine/peripheral-anon/device[3]"]


# pc-dimm


def test_a_dimm_comes_with_its_backend_and_goes_with_it() -> None:
    guest = PluggedGuest(virtio_mem=0)
    assert guest.set(GIB).verdict is Verdict.APPLIED
    assert guest.sent() == [("object-add", "ringfence-mem-0"), ("device_add", "ringfence-dimm-0")]
    outcome = guest.set(512 * MIB, target_via="pc-dimm")
    assert outcome.verdict is Verdict.APPLIED
    assert [s for s in guest.sent() if s[0] != "poll"] == [
        ("device_del", "ringfence-dimm-0"),
        ("object-del", "ringfence-mem-0"),
    ]
    assert guest.script.changes() == guest.planned
    assert guest.objects == {}


def test_a_device_that_qemu_refuses_leaves_no_backend() -> None:
    guest = PluggedGuest(virtio_mem=0)
    guest.script.answers["device_add"] = MonitorRefusedError("not enough space")
    outcome = guest.set(GIB)
    assert (outcome.verdict, outcome.by, guest.objects) == (Verdict.REFUSED, "QEMU", {})


@pytest.mark.parametrize("answer", ["refused", "error"])
def test_an_unplug_the_guest_refuses_is_told_and_nothing_leaks(answer: str) -> None:
    guest = PluggedGuest(virtio_mem=0)
    guest.set(GIB)
    guest.dimm_answer = answer
    started = guest.script.now_s
    outcome = guest.set(512 * MIB, target_via="pc-dimm")
    assert (outcome.verdict, outcome.by) == (Verdict.REFUSED, "guest")
    assert "refused to give up ringfence-dimm-0" in outcome.detail
    assert guest.script.now_s - started < 10
    assert list(guest.objects) == ["ringfence-mem-0"]


def test_an_unplug_without_any_answer_may_end_late_and_its_backend_is_then_removed() -> None:
    guest = PluggedGuest(virtio_mem=0)
    guest.set(GIB)
    guest.dimm_answer = "silent"
    outcome = guest.set(512 * MIB, target_via="pc-dimm")
    assert (outcome.verdict, outcome.by) == (Verdict.REFUSED, "guest")
    assert "may still go later" in outcome.detail
    guest.dimms.clear()
    assert "ringfence-mem-0" in " ".join(KNOB.observation(guest.part(), ROWS["memory.target"]).notes)
    outcome = guest.set(512 * MIB)
    assert outcome.verdict is Verdict.APPLIED
    assert guest.sent() == [("object-del", "ringfence-mem-0")]
    assert guest.script.changes() == guest.planned
    assert "removed backend ringfence-mem-0" in note(outcome)


def test_a_device_that_goes_meanwhile_is_not_taken_for_the_dimm() -> None:
    guest = PluggedGuest(virtio_mem=0)
    guest.set(GIB)
    guest.dimm_answer = "silent"
    guest.script.events.append({"event": "DEVICE_DELETED", "data": {"device": "nic7", "path": "/machine/x"}})
    outcome = guest.set(512 * MIB, target_via="pc-dimm")
    assert (outcome.verdict, outcome.by) == (Verdict.REFUSED, "guest")


def test_with_every_slot_taken_nothing_more_can_be_plugged() -> None:
    guest = PluggedGuest(virtio_mem=0, slots=1)
    guest.set(GIB)
    with pytest.raises(UsageError, match="above the VM's memory, 1 GiB"):
        guest.set(2 * GIB)


def test_others_backends_without_a_device_are_left_alone() -> None:
    guest = PluggedGuest(virtio_mem=0)
    guest.objects["spare"] = "memory-backend-ram"
    guest.set(512 * MIB)
    assert guest.objects == {"spare": "memory-backend-ram"}


def test_no_second_unplug_while_one_goes_on() -> None:
    guest = PluggedGuest(virtio_mem=0)
    guest.set(GIB)
    guest.ospm[0] = (3, 132)
    outcome = guest.set(512 * MIB, target_via="pc-dimm")
    assert (outcome.verdict, outcome.by, guest.sent()) == (Verdict.REFUSED, "guest", [])


def test_a_backend_that_is_still_mapped_is_asked_for_again() -> None:
    guest = PluggedGuest(virtio_mem=0)
    guest.set(GIB)
    guest.busy_backend = 3
    assert guest.set(512 * MIB, target_via="pc-dimm").verdict is Verdict.APPLIED
    assert guest.objects == {}


def test_the_balloon_is_emptied_before_a_dimm_leaves_and_filled_again_after() -> None:
    guest = PluggedGuest(virtio_mem=0)
    guest.set(GIB)
    guest.ballooned = 128 * MIB
    assert guest.set(384 * MIB, target_via="pc-dimm").verdict is Verdict.APPLIED
    assert [s for s in guest.sent() if s[0] != "poll"] == [
        ("balloon", GIB),
        ("device_del", "ringfence-dimm-0"),
        ("object-del", "ringfence-mem-0"),
        ("balloon", 384 * MIB),
    ]
    assert guest.script.changes() == guest.planned


def test_a_balloon_emptied_for_a_dimm_that_stays_holds_again_what_it_held() -> None:
    guest = PluggedGuest(virtio_mem=0)
    guest.set(GIB)
    guest.ballooned, guest.dimm_answer = 128 * MIB, "refused"
    outcome = guest.set(384 * MIB, target_via="pc-dimm")
    assert (outcome.verdict, guest.ballooned) == (Verdict.REFUSED, 128 * MIB)


def test_a_dimm_the_guest_cannot_spare_is_refused_unless_forced() -> None:
    guest = PluggedGuest(virtio_mem=0)
    guest.set(GIB)
    guest.used = 800 * MIB
    outcome = guest.set(512 * MIB, target_via="pc-dimm")
    assert (outcome.verdict, outcome.by, len(guest.dimms)) == (Verdict.REFUSED, "ringfence", 1)
    assert guest.set(512 * MIB, target_via="pc-dimm", force=True).verdict is Verdict.APPLIED


def test_only_whole_dimms_that_were_plugged_while_it_ran_can_go() -> None:
    guest = PluggedGuest(virtio_mem=0)
    guest.plug("boot", 256 * MIB, 0, "b", hotplugged=False)
    guest.plug("theirs", 256 * MIB, 1, "t")
    guest.plug("ours", 128 * MIB, 2, "o")
    guest.objects = dict.fromkeys("bto", "memory-backend-ram")
    with pytest.raises(UsageError) as caught:
        guest.set(guest.usable - 512 * MIB, target_via="pc-dimm")
    assert "1 GiB, 896 MiB, 768 MiB" in caught.value.hint
    assert guest.set(guest.usable - 256 * MIB, target_via="pc-dimm").verdict is Verdict.APPLIED
    assert sorted(guest.objects) == ["b", "o"]


def test_a_dimm_the_guest_leaves_offline_is_brought_online_by_its_agent() -> None:
    guest = PluggedGuest(virtio_mem=0)
    guest.auto_online = False
    assert guest.set(GIB).verdict is Verdict.APPLIED
    assert guest.offline == set()


def test_blocks_that_were_offline_before_are_left_so() -> None:
    guest = PluggedGuest(virtio_mem=0)
    guest.offline = {3}
    assert guest.set(GIB).verdict is Verdict.APPLIED
    assert guest.offline == {3}


def test_a_dimm_the_guest_never_uses_is_partial() -> None:
    guest = PluggedGuest(virtio_mem=0)
    guest.auto_online = False
    guest.script.answers["guest-set-memory-blocks"] = []
    outcome = guest.set(GIB)
    assert (outcome.verdict, outcome.by) == (Verdict.PARTIAL, "guest")
    assert "does not use 512 MiB" in outcome.detail


@pytest.mark.parametrize(("auto_online", "verdict"), [(True, Verdict.APPLIED), (False, Verdict.PARTIAL)])
def test_without_an_agent_the_statistics_tell(auto_online: bool, verdict: Verdict) -> None:
    guest = PluggedGuest(virtio_mem=0, agent=False)
    guest.auto_online = auto_online
    assert guest.set(GIB).verdict is verdict
    assert guest.polling == 0


def test_without_agent_and_statistics_it_is_not_known() -> None:
    guest = PluggedGuest(virtio_mem=0, agent=False, balloon=False)
    outcome = guest.set(GIB)
    assert (outcome.verdict, "not known" in note(outcome)) == (Verdict.APPLIED, True)


def test_an_agent_that_goes_away_in_between_leaves_it_partial() -> None:
    guest = PluggedGuest(virtio_mem=0)
    plain = guest.device_add

    def kill(arguments: Any) -> dict[str, Any]:
        guest.script.answers["guest-get-memory-blocks"] = AgentAbsentError("gone")
        return plain(arguments)

    guest.script.answers["device_add"] = kill
    assert guest.set(GIB).verdict is Verdict.PARTIAL


def test_a_guest_with_larger_blocks_is_not_given_half_a_block() -> None:
    guest = PluggedGuest(virtio_mem=0)
    guest.script.answers["guest-get-memory-block-info"] = {"size": 2 * GIB}
    outcome = guest.set(GIB)
    assert (outcome.verdict, outcome.by, guest.dimms) == (Verdict.REFUSED, "ringfence", [])


def test_a_guest_that_refuses_a_dimm_is_partial() -> None:
    guest = PluggedGuest(virtio_mem=0)
    plain = guest.device_add

    def refuse(arguments: Any) -> dict[str, Any]:
        plain(arguments)
        guest.script.events[-1]["data"]["info"]["status"] = 1
        return {}

    guest.script.answers["device_add"] = refuse
    outcome = guest.set(GIB)
    assert (outcome.verdict, outcome.by) == (Verdict.PARTIAL, "guest")
    assert "_OST 1" in outcome.detail


def test_dimms_are_spread_over_the_nodes_of_a_vm_that_has_several() -> None:
    guest = PluggedGuest(virtio_mem=0)
    guest.nodes = [0, 1]
    guest.set(GIB)
    guest.set(GIB + 512 * MIB)
    assert [dimm["node"] for dimm in guest.dimms] == [0, 1]


def test_memory_beside_shared_memory_is_shared_too() -> None:
    guest = PluggedGuest(virtio_mem=0)
    guest.objects["m0"], guest.shared = "memory-backend-file", ["/objects/m0"]
    guest.script.answers["qom-get"] = lambda a: "/dev/shm/m0" if a["property"] == "mem-path" else guest.qom_get(a)
    guest.set(GIB)
    assert guest.objects["ringfence-mem-0"] == "memory-backend-memfd"


def test_every_event_that_is_waited_for_is_listened_to() -> None:
    assert set(DIMM_EVENTS) <= set(KNOB.events)


# Pace, and what must not begin


@pytest.mark.parametrize("mechanism", ["balloon", "virtio-mem", "pc-dimm"])
def test_a_ramp_has_steps_and_takes_its_time(mechanism: str) -> None:
    guest = PluggedGuest(slots=8)
    guest.ballooned = 384 * MIB if mechanism == "balloon" else 0
    target = 512 * MIB if mechanism == "balloon" else GIB
    started = guest.script.now_s
    distance = target - guest.usable
    outcome = guest.set(target, target_via=mechanism, ramp=128 * MIB)
    assert outcome.verdict is Verdict.APPLIED
    assert guest.script.changes() == guest.planned
    names = [name for name, _ in guest.sent()]
    assert sum(name in ("balloon", "qom-set", "device_add") for name in names) >= 3
    assert guest.script.now_s - started >= distance / (128 * MIB)
    assert outcome.after is not None
    assert KNOB.observation(outcome.after, ROWS["memory.ramp"]).actual == 128 * MIB


def test_a_ramp_of_dimms_takes_no_more_than_the_free_slots() -> None:
    guest = PluggedGuest(virtio_mem=0, slots=3)
    guest.set(512 * MIB + 10 * BLOCK, ramp=MIB)
    assert [dimm["size"] // BLOCK for dimm in guest.dimms] == [4, 3, 3]


def test_the_time_of_a_ramp_is_not_the_guests_deadline() -> None:
    guest = PluggedGuest()
    guest.vmem_step = 2 * MIB
    outcome = guest.set(GIB, ramp=16 * MIB, timeout_s=5)
    assert outcome.verdict is Verdict.APPLIED


def test_a_ramp_that_never_ends_is_refused() -> None:
    with pytest.raises(UsageError, match="slower"):
        PluggedGuest().set(GIB, ramp=1000)


@pytest.mark.parametrize("target", [256 * MIB, GIB, 4 * GIB])
def test_a_guest_that_stands_is_asked_for_nothing(target: int) -> None:
    guest = PluggedGuest()
    guest.runstate = "paused"
    outcome = guest.set(target)
    assert (outcome.verdict, outcome.by, guest.sent()) == (Verdict.REFUSED, "guest", [])


def test_an_error_in_between_leaves_no_polling_behind() -> None:
    guest = PluggedGuest()
    guest.script.answers["balloon"] = MonitorGoneError("gone")
    with pytest.raises(MonitorGoneError):
        guest.set(256 * MIB)
    assert guest.polling == 0


def test_an_interruption_leaves_virtio_mem_at_what_it_reached() -> None:
    guest = PluggedGuest()
    guest.vmem_size = guest.vmem_requested = 2 * GIB
    plain = guest.qom_get

    def stop(arguments: Any) -> Any:
        if arguments["property"] == "size" and guest.vmem_size <= GIB:
            guest.script.answers["qom-get"] = plain
            raise InterruptError("enough")
        return plain(arguments)

    guest.script.answers["qom-get"] = stop
    with pytest.raises(InterruptError) as caught:
        guest.set(512 * MIB)
    assert guest.vmem_requested == guest.vmem_size < GIB + 1
    assert "which is what is requested now" in caught.value.state
    assert guest.polling == 0


def test_statistics_that_cannot_be_switched_off_after_an_error_are_told() -> None:
    guest = PluggedGuest()
    plain = guest.qom_set

    def on_only(arguments: Any) -> dict[str, Any]:
        if not arguments["value"]:
            raise MonitorGoneError("gone")
        return plain(arguments)

    guest.script.answers |= {"balloon": MonitorGoneError("gone"), "qom-set": on_only}
    with pytest.raises(MonitorGoneError, match="gone") as caught:
        guest.set(256 * MIB)
    assert "still asked for statistics every 1 s" in caught.value.state


def test_an_error_behind_an_unplug_tells_that_the_dimm_may_still_go() -> None:
    guest = PluggedGuest(virtio_mem=0)
    guest.set(GIB)
    guest.dimm_answer = "silent"
    plain = guest.device_del

    def breaks(arguments: Any) -> dict[str, Any]:
        guest.script.answers["query-memory-devices"] = InterruptError("by hand")
        return plain(arguments)

    guest.script.answers["device_del"] = breaks
    with pytest.raises(InterruptError) as caught:
        guest.set(512 * MIB, target_via="pc-dimm")
    assert "asked to give up ringfence-dimm-0, and may still do so" in caught.value.state


def test_a_request_that_qemu_refuses() -> None:
    guest = PluggedGuest()
    guest.script.answers["qom-set"] = MonitorRefusedError("no")
    outcome = guest.set(GIB)
    assert (outcome.verdict, outcome.by, outcome.detail) == (Verdict.REFUSED, "QEMU", "no")


@pytest.mark.parametrize("answer", [None, [], {"size": "big"}, {}])
def test_nonsense_of_the_agent_is_no_answer(answer: object) -> None:
    guest = PluggedGuest(virtio_mem=0)
    guest.script.answers["guest-get-memory-block-info"] = answer
    assert guest.set(GIB).verdict is Verdict.APPLIED


def test_a_host_that_gets_nothing_back_is_told() -> None:
    guest = PluggedGuest()
    guest.script.rss_bytes = 500 * MIB
    assert "got nothing back" in note(guest.set(256 * MIB))
