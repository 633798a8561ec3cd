"""PURE: the steps that read resctrl, and where the tenant is in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from ringfence.core import host_requests as ask
from ringfence.core.host import OURS, Placement
from ringfence.core.knob import Advice
from ringfence.core.requests import Steps
from ringfence.errors import HostError
from ringfence.knobs.resctrl import model
from ringfence.knobs.resctrl.model import RESERVED, ROOT, Group, Machine, Resource, Values

KEPT = "/run/ringfence-resctrl"
"""Folder of what the default group had before ways were first taken from it, in names such as `L3.0.7ff`."""
_MOUNT = Advice("mount -t resctrl resctrl /sys/fs/resctrl", "caches and memory bandwidth can be shared out")
_NO_RESCTRL = (
    "resctrl is not mounted on /sys/fs/resctrl; only processors with Intel RDT or AMD QoS, and kernels with "
    "CONFIG_X86_CPU_RESCTRL, have it"
)
_CACHE_FILES = ("cbm_mask", "min_cbm_bits", "num_closids")
_BAND_FILES = ("bandwidth_gran", "min_bandwidth", "num_closids")
_OPTIONAL = ("shareable_bits", "sparse_masks")


class State(NamedTuple):
    """Where a tenant is in resctrl.

    :param machine: None when resctrl cannot be used, and `why` says why.
    :param label: what its group is called, behind the prefix.
    :param group: the control group it is in: the default one, one of ours, or somebody else's.
    :param outside: its threads that are not in that group.
    :param watched: the folder of its monitoring group, or of a control group of its own; empty when it has none.
    :param counts: what the monitoring tells, over all caches.
    :param kept: what the default group had before ways were taken from it.
    """

    machine: Machine | None
    why: str = ""
    label: str = ""
    group: Group = Group(model.DEFAULT, model.SHAREABLE, {})
    tids: tuple[int, ...] = ()
    outside: tuple[int, ...] = ()
    watched: str = ""
    counts: Mapping[str, int] = {}
    kept: Values = MappingProxyType({})
    advice: tuple[Advice, ...] = ()

    @property
    def monitor(self) -> str:
        """What its monitoring group is called."""
        return f"{OURS}-{self.label}"

    @property
    def foreign(self) -> bool:
        """Whether it is in a group that somebody else made."""
        return bool(self.group.name) and not self.group.ours


def read() -> Steps[State]:
    """Everything at once."""
    placement: Placement = yield ask.Placement()
    if placement.absent:
        return State(None, placement.absent)
    try:
        listed = yield ask.ListDir(ROOT)
    except HostError:
        listed = ()
    if "schemata" not in listed:
        return State(None, _NO_RESCTRL, placement.label, advice=(_MOUNT,))
    machine = yield from _machine()
    tasks = yield ask.Tasks()
    tids = tuple(task.tid for task in tasks)
    group = _group_of(machine, placement.pids, tids)
    state = State(machine, "", placement.label, group, tids, kept=(yield from _kept()))
    if group.name:
        state = state._replace(outside=tuple(tid for tid in tids if tid not in group.tids))
    if state.monitor in group.monitors:
        state = state._replace(watched=f"{group.path}/mon_groups/{state.monitor}")
    elif group.name:
        state = state._replace(watched=group.path)
    return state._replace(counts=(yield from _counts(state.watched))) if state.watched else state


def _group_of(machine: Machine, pids: Iterable[int], tids: Iterable[int]) -> Group:
    """The group a tenant is in: one of somebody else's that any of its threads is in, else its first thread's."""
    wanted = frozenset(tids)
    found = [group for group in machine.groups if group.tids & wanted]
    foreign = [group for group in found if not group.ours]
    first = [group for group in found if group.tids & frozenset(pids)]
    return next(iter((*foreign, *first, *found)), machine.default)


def _machine() -> Steps[Machine]:
    texts = yield [ask.ReadFile(f"{ROOT}/schemata"), ask.ReadFile(f"{ROOT}/size"), ask.ReadFile(f"{ROOT}/mode")]
    schemata, sizes = model.parse_schemata(texts[0]), model.parse_sizes(texts[1])
    resources: dict[str, Resource] = {}
    closids: list[int] = []
    for name, held in schemata.items():
        files = _BAND_FILES if model.is_band(name) else (*_CACHE_FILES, *_OPTIONAL)
        answers = yield [ask.ReadFile(f"{ROOT}/info/{name}/{file}", file in _OPTIONAL) for file in files]
        info = {file: text for file, text in zip(files, answers, strict=True) if text is not None}
        resources[name] = model.resource(name, info, sizes.get(name, {}), held)
        closids.append(int(info["num_closids"]))
    default = Group(model.DEFAULT, texts[2].strip(), schemata, monitors=(yield from _monitors(ROOT)))
    features = yield ask.ReadFile(f"{ROOT}/info/L3_MON/mon_features", True)
    groups: list[Group] = []
    for name in (yield ask.ListDir(ROOT, folders=True)):
        if name not in RESERVED:
            group = yield from _group(name)
            groups += [group] if group else []
    return Machine(resources, default, tuple(groups), min(closids, default=1), frozenset((features or "").split()))


def _group(name: str) -> Steps[Group | None]:
    """A control group; None for one that went while it was read."""
    path = f"{ROOT}/{name}"
    texts = yield [ask.ReadFile(f"{path}/{file}", True) for file in ("schemata", "mode", "tasks")]
    if None in texts:
        return None
    tids = frozenset(map(int, texts[2].split()))
    return Group(name, texts[1].strip(), model.parse_schemata(texts[0]), tids, (yield from _monitors(path)))


def _monitors(path: str) -> Steps[tuple[str, ...]]:
    try:
        names: tuple[str, ...] = yield ask.ListDir(f"{path}/mon_groups", folders=True)
    except HostError:
        return ()  # a processor that cannot monitor
    return names


def _counts(path: str) -> Steps[dict[str, int]]:
    """Each event summed over the caches; an event that one of them cannot tell is left out."""
    try:
        domains = yield ask.ListDir(f"{path}/mon_data", folders=True)
    except HostError:
        return {}
    sums: dict[str, int] = {}
    unknown: set[str] = set()
    for domain in domains:
        names = yield ask.ListDir(f"{path}/mon_data/{domain}")
        texts = yield [ask.ReadFile(f"{path}/mon_data/{domain}/{name}", True) for name in names]
        for name, text in zip(names, texts, strict=True):
            if text is not None and text.strip().isdigit():
                sums[name] = sums.get(name, 0) + int(text)
            else:
                unknown.add(name)  # `Unavailable`, `Error`
    return {name: value for name, value in sums.items() if name not in unknown}


def _kept() -> Steps[Values]:
    try:
        names = yield ask.ListDir(KEPT, folders=True)
    except HostError:
        return {}
    kept: dict[str, dict[int, int]] = {}
    for name in names:
        resource, domain, mask = name.split(".")
        kept.setdefault(resource, {})[int(domain)] = int(mask, 16)
    return kept


def kept_folders(values: Values) -> list[str]:
    """The names that hold these values."""
    return [
        f"{KEPT}/{name}.{domain}.{mask:x}"
        for name, masks in values.items()
        if not model.is_band(name)
        for domain, mask in masks.items()
    ]
