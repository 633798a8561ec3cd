"""A VM that does as it is told, as a table of answers for `FakeQemu`: change one entry, and it misbehaves.

vm = ObedientVm()
with FakeQemu(tmp_path / "qmp", vm.answers) as qemu: ...
assert vm.limits["a"]["iops"] == 100
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ringfence.testing.script import Event, Refuse, Return, Script

if TYPE_CHECKING:
    from ringfence.testing.script import Answer

_MIB, _GIB = 1 << 20, 1 << 30
_RATES = ("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr")
_BALLOON = "/machine/peripheral/balloon0"
_CHANGING = ("block_set_io_throttle", "balloon", "qom-set", "device_add", "device_del")


class ObedientVm:
    """A running VM with disks `a` and `b`, a balloon that moves at once, two vCPUs, and room for two more.

    Its guest reports statistics every second, and 900 MiB of its 1 GiB are available to it.

    :ivar answers: what it answers to each command.
    :ivar limits: of each disk, by QEMU's fields.
    :ivar group: the throttle group of all disks, empty for one of its own each.
    :ivar actual_bytes: what the balloon leaves to the guest.
    :ivar poll_s: the interval of the guest's statistics; 0 is never.
    :ivar cpus: QOM path of each vCPU by its core.
    """

    def __init__(self) -> None:
        self.limits: dict[str, dict[str, int]] = {name: dict.fromkeys(_RATES, 0) for name in ("a", "b")}
        self.group = ""
        self.actual_bytes = _GIB
        self.poll_s = 1
        self.cpus: dict[int, str] = {core: f"/machine/unattached/device[{core}]" for core in range(2)}
        self.answers: dict[str, Answer] = {
            "query-block": lambda _: [self._block(name) for name in self.limits],
            "query-blockstats": lambda _: [self._blockstats(name) for name in self.limits],
            "query-named-block-nodes": lambda _: [
                {"node-name": f"node-{name}", "drv": "raw", "file": "x.raw"} for name in self.limits
            ],
            "query-iothreads": [],
            "block_set_io_throttle": self._throttle,
            "qom-list": self._qom_list,
            "qom-get": self._qom_get,
            "qom-set": self._qom_set,
            "query-memory-size-summary": {"base-memory": _GIB, "plugged-memory": 0},
            "query-memory-devices": [],
            "query-status": {"status": "running", "running": True, "singlestep": False},
            "query-balloon": lambda _: {"actual": self.actual_bytes},
            "balloon": self._move_balloon,
            "query-hotpluggable-cpus": lambda _: [self._slot(core) for core in reversed(range(4))],
            "query-cpus-fast": lambda _: [{"cpu-index": core, "thread-id": 100 + core} for core in self.cpus],
            "query-kvm": {"enabled": True, "present": True},
            "device_add": self._plug,
            "device_del": self._unplug,
            "query-version": {"qemu": {"major": 7}},
            "human-monitor-command": "VM status: running\r\n",
        }

    def _block(self, name: str) -> dict[str, Any]:
        qdev = f"/machine/peripheral/{name}/virtio-backend"
        inserted = {"node-name": f"node-{name}", "drv": "raw", "file": "x.raw", **self.limits[name]}
        if any(self.limits[name].values()):
            inserted["group"] = self.group or qdev
        return {"device": "", "qdev": qdev, "inserted": inserted}

    def _blockstats(self, name: str) -> dict[str, Any]:
        qdev = f"/machine/peripheral/{name}/virtio-backend"
        return {"device": "", "qdev": qdev, "node-name": f"node-{name}", "stats": {"rd_operations": 0}}

    def _throttle(self, arguments: Any) -> object:
        name = arguments["id"].split("/")[0]
        limits = {field: number for field, number in arguments.items() if field not in ("id", "group")}
        for member in self.limits if self.group else (name,):
            self.limits[member] = dict(limits)
        return {}

    def share_group(self, group: str, **limits: int) -> None:
        """Put all disks into one throttle group with these limits."""
        self.group = group
        for held in self.limits.values():
            held.update(limits)

    def _qom_list(self, arguments: Any) -> object:
        if arguments["path"] == "/machine/peripheral":
            return [{"name": "balloon0", "type": "child<virtio-balloon-pci>"}]
        return [{"name": "deflate-on-oom", "type": "bool"}] if arguments["path"] == _BALLOON else []

    def _qom_get(self, arguments: Any) -> object:
        properties = {
            "type": "virtio-blk-pci",
            "addr": 8 if arguments["path"].endswith("/a") else 16,
            "parent_bus": "/machine/q35/pcie.0",
            "hotplugged": False,
            "guest-stats-polling-interval": self.poll_s,
            "guest-stats": {"stats": {"stat-available-memory": 900 * _MIB}, "last-update": 2**31},
            "deflate-on-oom": True,
        }
        name = arguments["property"]
        return properties[name] if name in properties else Refuse("GenericError", f"no property {name}")

    def _qom_set(self, arguments: Any) -> object:
        self.poll_s = arguments["value"]
        return {}

    def _move_balloon(self, arguments: Any) -> object:
        self.actual_bytes = arguments["value"]
        return Script((Return({}), Event("BALLOON_CHANGE", {"actual": self.actual_bytes})))

    def _slot(self, core: int) -> dict[str, Any]:
        slot = {"props": {"core-id": core}, "vcpus-count": 1, "type": "max-x86_64-cpu"}
        return slot | ({"qom-path": self.cpus[core]} if core in self.cpus else {})

    def _plug(self, arguments: Any) -> object:
        device = arguments["id"]
        self.cpus[arguments["core-id"]] = f"/machine/peripheral/{device}"
        info = {"device": device, "source": 1, "status": 0, "slot": str(arguments["core-id"]), "slot-type": "CPU"}
        return Script((Return({}), Event("ACPI_DEVICE_OST", {"info": info})))

    def _unplug(self, arguments: Any) -> object:
        self.cpus = {core: path for core, path in self.cpus.items() if not path.endswith(arguments["id"])}
        return Script((Return({}), Event("DEVICE_DELETED", {"path": f"{arguments['id']}/lapic"})))


def changing(commands: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Those of a fake's `received` commands that change a VM, without their ids."""
    found = [command for command in commands if command.get("execute") in _CHANGING]
    return [{key: value for key, value in command.items() if key != "id"} for command in found]
