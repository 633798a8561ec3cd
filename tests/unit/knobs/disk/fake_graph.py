"""A VM's block nodes, devices and throttle-group objects on paper, as far as real QEMUs have shown to behave."""

from __future__ import annotations

import json
from typing import Any

from ringfence.core.knob import Knob, Part
from ringfence.engine.changes import _in_order
from ringfence.errors import MonitorRefusedError
from ringfence.knobs import registry
from ringfence.knobs.disk.limits import OBJECT_FIELDS
from ringfence.testing.steps import PaperVm

EMPTY = {name: int(name.endswith("-max-length")) for name in OBJECT_FIELDS.values()}


class FakeGraph:
    """Virtio disks `d0`, `d1`, ... over nodes `n0`, `n1`, ... of raw images.

    :ivar refuse: what QEMU refuses: `command` or `command:object` to its words.
    :ivar own: the limits of each disk itself.
    :ivar served: requests that each disk finishes between two looks.
    """

    def __init__(self, disks: int = 2) -> None:
        self.drives = {f"/machine/peripheral/d{n}": f"n{n}" for n in range(disks)}
        self.nodes: dict[str, dict[str, Any]] = {f"n{n}": {"drv": "raw", "ro": False} for n in range(disks)}
        self.own: dict[str, dict[str, int]] = {path: {} for path in self.drives}
        self.objects: dict[str, dict[str, int]] = {}
        self.iothreads: dict[str, str] = {}
        self.exports: list[dict[str, str]] = []
        self.refuse: dict[str, str] = {}
        self.finished = 0
        self.served = 1
        self.idle_ns: int | None = None
        self.script = PaperVm(
            {
                "query-block": lambda _: [self.block(path) for path in self.drives],
                "query-blockstats": self.blockstats,
                "query-named-block-nodes": lambda _: [self.named(name) for name in self.nodes],
                "query-iothreads": lambda _: [{"id": name} for name in sorted(set(self.iothreads.values()))],
                "query-block-exports": lambda _: self.exports,
                "qom-list": self.qom_list,
                "qom-get": self.qom_get,
                "qom-set": self.qom_set,
                "object-add": self.object_add,
                "object-del": self.object_del,
                "blockdev-add": self.blockdev_add,
                "blockdev-del": self.blockdev_del,
                "block_set_io_throttle": self.throttle,
            }
        )

    def file(self, name: str) -> str:
        node = self.nodes[name]
        if node["drv"] == "raw":
            return f"/img/{name}"
        below = {"driver": "raw", "file": {"driver": "file", "filename": "/img"}}
        return "json:" + json.dumps({"driver": node["drv"], "throttle-group": node["group"], "file": below})

    def block(self, path: str) -> dict[str, Any]:
        node = self.drives[path]
        cache = {"direct": True, "no-flush": False, "writeback": True}
        found = {"node-name": node, "drv": self.nodes[node]["drv"], "file": self.file(node)}
        inserted = {**found, "ro": self.nodes[node]["ro"], "cache": cache, **self.own[path]}
        return {"device": "", "qdev": f"{path}/virtio-backend", "inserted": inserted}

    def blockstats(self, _: Any) -> list[dict[str, Any]]:
        stats: dict[str, Any] = {"rd_operations": self.finished}
        if self.idle_ns is not None:
            stats["idle_time_ns"] = self.idle_ns
        self.finished += self.served

        def entry(name: str) -> dict[str, Any]:
            below = self.nodes[name].get("file")
            return {"node-name": name, **({"parent": entry(below)} if below else {})}

        return [
            {"qdev": f"{path}/virtio-backend", "stats": stats, **entry(node)} for path, node in self.drives.items()
        ]

    def named(self, name: str) -> dict[str, Any]:
        return {"node-name": name, "drv": self.nodes[name]["drv"], "file": self.file(name)}

    def qom_list(self, arguments: Any) -> list[dict[str, str]]:
        if arguments["path"] == "/objects":
            return [{"name": name, "type": "child<throttle-group>"} for name in self.objects]
        return [{"name": "iothread", "type": "link<iothread>"}] if arguments["path"] in self.drives else []

    def qom_get(self, arguments: Any) -> Any:
        path, name = arguments["path"], arguments["property"]
        if name == "limits":
            if path.removeprefix("/objects/") not in self.objects:
                raise MonitorRefusedError(f"Device '{path}' not found")
            return dict(self.objects[path.removeprefix("/objects/")])
        if name == "iothread":
            return self.iothreads.get(path, "")
        slot = 8 * (1 + list(self.drives).index(path))
        return {
            "type": "virtio-blk-pci",
            "addr": slot,
            "parent_bus": "/machine/q35/pcie.0",
            "hotplugged": False,
        }[name]

    def _ask(self, command: str, what: str) -> None:
        for key in (command, f"{command}:{what}"):
            if key in self.refuse:
                raise MonitorRefusedError(self.refuse[key])

    def qom_set(self, arguments: Any) -> dict[str, Any]:
        self._ask("qom-set", arguments["value"] if arguments["property"] == "drive" else arguments["path"])
        if arguments["property"] == "drive":
            assert arguments["value"] in self.nodes
            self.drives[arguments["path"]] = arguments["value"]
        else:
            self.objects[arguments["path"].removeprefix("/objects/")].update(arguments["value"])
        return {}

    def throttle(self, arguments: Any) -> dict[str, Any]:
        path = f"/machine/peripheral/{arguments['id'].removesuffix('/virtio-backend')}"
        self.own[path] = {field: number for field, number in arguments.items() if field not in ("id", "group")}
        return {}

    def object_add(self, arguments: Any) -> dict[str, Any]:
        self._ask("object-add", arguments["id"])
        self.objects[arguments["id"]] = {**EMPTY, **arguments["limits"]}
        return {}

    def object_del(self, arguments: Any) -> dict[str, Any]:
        self._ask("object-del", arguments["id"])
        if any(node.get("group") == arguments["id"] for node in self.nodes.values()):
            raise MonitorRefusedError(f"object '{arguments['id']}' is in use, can not be deleted")
        del self.objects[arguments["id"]]
        return {}

    def blockdev_add(self, arguments: Any) -> dict[str, Any]:
        self._ask("blockdev-add", arguments["node-name"])
        assert arguments["node-name"] not in self.nodes
        assert arguments["throttle-group"] in self.objects
        self.nodes[arguments["node-name"]] = {
            "drv": "throttle",
            "ro": arguments["read-only"],
            "group": arguments["throttle-group"],
            "file": arguments["file"],
        }
        return {}

    def blockdev_del(self, arguments: Any) -> dict[str, Any]:
        name = arguments["node-name"]
        self._ask("blockdev-del", name)
        if name in self.drives.values():
            raise MonitorRefusedError(f"Node {name} is in use")
        del self.nodes[name]
        return {}

    def trace(self) -> Any:
        """All there is, to be compared."""
        return json.loads(json.dumps([self.drives, self.nodes, self.objects]))

    def part(self, knob: Knob, name: str) -> Part:
        parts = self.script.play(knob.observe())
        key = f"{knob.prefix}.{name}.{'pool' if knob.prefix == 'disk' else 'iops'}"
        return registry.pick(parts, registry.parse_key(key)._replace(knob=knob))

    def set(self, **values: str | None) -> list[Any]:
        """Several keys in one command, `_` for `.`: gives the outcomes of the steps that were played, in order."""
        from ringfence.engine.changes import Step

        steps = []
        for text, value in values.items():
            key = registry.parse_key(text.replace("_", "."))
            part = registry.pick(self.script.play(key.knob.observe()), key)
            steps.append(Step(key.knob, part, {key.leaf: registry.parse_value(key, value)}, {key.leaf: key}))
        ordered = _in_order(steps)
        for step in ordered:
            step.knob.check(step.part, step.wants, force=False)
        outcomes = []
        for step in ordered:
            printed = step.requests()
            before = len(self.script.changes())
            outcomes.append(self.script.play(step.knob.apply(step.part, step.wants, timeout_s=1, force=False)))
            if outcomes[-1].verdict != "applied":
                break
            assert self.script.changes()[before:] == printed, "the dry run prints what is sent"
        return outcomes
