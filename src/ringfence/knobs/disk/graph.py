"""PURE: the throttle filters and throttle-group objects of a VM, and which disk stands under which.

`query-block` shows no limit of a filter: the group a filter belongs to stands only in its made-up file name, the
limits only in the group's object.

Sources: QEMU qapi/block-core.json (query-named-block-nodes, query-blockstats), qapi/qom.json
(ThrottleGroupProperties).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ringfence.core.answers import entries, text
from ringfence.core.requests import Qmp, Steps
from ringfence.errors import MonitorRefusedError
from ringfence.knobs.disk import names
from ringfence.knobs.disk.limits import Limits, read_object

POOL_PREFIX = "ringfence-pool-"
"""Begins the id of every throttle-group object that ringfence made."""


class Filter(NamedTuple):
    """A throttle filter: a block node with a group."""

    node: str
    group: str

    @property
    def ours(self) -> bool:
        """Whether ringfence put it in, so that it may take it out."""
        return self.node.startswith(names.FILTER_PREFIX)


class Stack(NamedTuple):
    """A disk with the filters over its image.

    :param filters: from the device down.
    :param in_iothread: whether its requests are, or may be, handled outside QEMU's main thread.
    """

    disk: names.Disk
    filters: tuple[Filter, ...]
    in_iothread: bool


class Pool(NamedTuple):
    """A throttle-group object.

    :param members: names of the disks under one of its filters.
    :param orphans: its filters, put in by ringfence, that stand over no disk any more.
    :param users: how many filters it has, whoever made them.
    """

    id: str
    limits: Limits
    members: tuple[str, ...] = ()
    orphans: tuple[str, ...] = ()
    users: int = 0

    @property
    def ours(self) -> bool:
        """Whether ringfence made it, so that it may remove it."""
        return self.id.startswith(POOL_PREFIX)

    @property
    def name(self) -> str:
        """What the user calls it."""
        return self.id.removeprefix(POOL_PREFIX)


class Graph(NamedTuple):
    """Every disk and every pool of a VM.

    :param nodes: the names of all block nodes.
    """

    stacks: tuple[Stack, ...]
    pools: Mapping[str, Pool]
    nodes: frozenset[str]


def observe() -> Steps[Graph]:
    """Read it."""
    disks = yield from names.observe()
    stats, named, objects = yield [
        Qmp("query-blockstats"),
        Qmp("query-named-block-nodes", {"flat": True}),
        Qmp("qom-list", {"path": "/objects"}),
    ]
    named = entries(named)
    groups = {text(node["node-name"]): group for node in named if (group := _group(node))}
    chains = names.node_chains(entries(stats))
    outside = yield from _in_iothreads(disks)
    stacks = []
    for disk in disks:
        chain = chains.get(disk.qdev, ())
        filters = tuple(Filter(node, groups[node]) for node in chain if node in groups)
        stacks.append(Stack(disk._replace(nodes=chain), filters, disk.qdev in outside))
    ids = [text(entry["name"]) for entry in entries(objects) if entry["type"] == "child<throttle-group>"]
    asked = [Qmp("qom-get", {"path": f"/objects/{id_}", "property": "limits"}) for id_ in ids]
    read = (yield asked) if asked else []
    placed = {filter_.node for stack in stacks for filter_ in stack.filters}
    pools = {
        id_: Pool(
            id=id_,
            limits=read_object(limits),
            members=tuple(s.disk.name for s in stacks if any(f.group == id_ for f in s.filters)),
            orphans=tuple(
                node
                for node, group in groups.items()
                if group == id_ and node not in placed and node.startswith(names.FILTER_PREFIX)
            ),
            users=sum(group == id_ for group in groups.values()),
        )
        for id_, limits in zip(ids, read, strict=True)
    }
    return Graph(tuple(stacks), pools, frozenset(text(node["node-name"]) for node in named))


def _group(node: Mapping[str, Any]) -> str:
    """The group of a throttle filter, empty for any other node."""
    file = str(node.get("file", ""))
    if node.get("drv") != "throttle" or not file.startswith("json:"):
        return ""
    try:
        return str(json.loads(file.removeprefix("json:"))["throttle-group"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


def _in_iothreads(disks: Sequence[names.Disk]) -> Steps[frozenset[str]]:
    """QOM paths of the disks whose block nodes do, or may, live in an iothread.

    QEMU does not say where a node lives: it is told from the device, and from the controller of a SCSI disk. An
    export may have moved its node, too, so with exports every disk counts.
    """
    if not entries((yield Qmp("query-iothreads"))):
        return frozenset()
    try:
        if entries((yield Qmp("query-block-exports"))):
            return frozenset(disk.qdev for disk in disks)
    except MonitorRefusedError:
        pass  # this QEMU has no exports
    found = []
    for disk in disks:
        try:
            safe = yield from _in_main_thread(disk)
        except MonitorRefusedError:
            safe = False
        if not safe:
            found.append(disk.qdev)
    return frozenset(found)


def _in_main_thread(disk: names.Disk) -> Steps[bool]:
    path = disk.frontend
    bus = yield Qmp("qom-get", {"path": path, "property": "parent_bus"})
    holders = (path, names.controller(text(bus)))
    listed = yield [Qmp("qom-list", {"path": holder}) for holder in holders]
    reads = [
        Qmp("qom-get", {"path": holder, "property": entry["name"]})
        for holder, held in zip(holders, listed, strict=True)
        for entry in entries(held)
        if entry["name"] in ("iothread", "iothread-vq-mapping")
    ]
    return not any((yield reads)) if reads else True
