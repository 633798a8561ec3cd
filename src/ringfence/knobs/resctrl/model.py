"""PURE: resctrl as its files tell it: what there is to share out, and which group has what.

Source: the kernel's Documentation/arch/x86/resctrl.rst; layout and texts as recorded in tests/golden/resctrl-*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ringfence.core.host import OURS
from ringfence.knobs.resctrl.masks import Cache

ROOT = "/sys/fs/resctrl"
DEFAULT = ""
"""The name of the group that everything is in which nobody put elsewhere."""
EXCLUSIVE, SHAREABLE = "exclusive", "shareable"
RESERVED = frozenset({"info", "mon_data", "mon_groups"})
_MIB = 2**20
_AMD_STEP = 125_000_000  # an eighth of a GB/s
_MBPS_MAXIMUM = 2**32 - 1
_AMD_MAXIMUM = 2048
PERCENT, BYTES = "percent", "bytes/s"


class Band(NamedTuple):
    """How a share of memory bandwidth is counted.

    :param unit: `percent` of what one core can do, or `bytes/s`.
    :param step: the kernel rounds up to multiples of it.
    :param bytes_per_s: of one unit of the kernel's, where it counts bytes.
    """

    unit: str
    minimum: int
    maximum: int
    step: int = 1
    bytes_per_s: int = 0


class Resource(NamedTuple):
    """One line of a `schemata` file.

    :param name: the kernel's: `L3`, `L2`, with CDP `L3CODE` and `L3DATA`, `MB`, `SMBA`.
    :param domains: ids of the caches, or of the memory controllers behind them.
    :param way_bytes: of each domain's cache.
    """

    name: str
    domains: tuple[int, ...]
    cache: Cache | None = None
    band: Band | None = None
    way_bytes: Mapping[int, int] = {}

    @property
    def ways(self) -> Cache:
        """The cache, where the caller knows that it is one."""
        if self.cache is None:
            raise TypeError(f"{self.name} is no cache")
        return self.cache


Values = Mapping[str, Mapping[int, int]]
"""Resource to domain to mask, or to bandwidth in the kernel's units."""


class Group(NamedTuple):
    """A control group; its `name` is empty for the default one.

    :param tids: the threads in it; of the default group none are listed.
    :param monitors: names of the monitoring groups in it.
    """

    name: str
    mode: str
    values: Values
    tids: frozenset[int] = frozenset()
    monitors: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """Its folder."""
        return f"{ROOT}/{self.name}" if self.name else ROOT

    @property
    def ours(self) -> bool:
        """Whether ringfence made it."""
        return self.name.startswith(f"{OURS}-")


class Machine(NamedTuple):
    """Everything that resctrl tells.

    :param closids: how many groups there can be, the default one among them.
    :param events: what can be monitored, such as `llc_occupancy`.
    """

    resources: Mapping[str, Resource]
    default: Group
    groups: tuple[Group, ...]
    closids: int
    events: frozenset[str] = frozenset()

    def group(self, name: str) -> Group | None:
        """A control group by its name."""
        return next((group for group in (self.default, *self.groups) if group.name == name), None)


def parse_schemata(text: str) -> dict[str, dict[int, int]]:
    """The values of a `schemata` file: masks of caches are hexadecimal, bandwidth is decimal.

    :raise ValueError: it is not of that form.
    """
    found: dict[str, dict[int, int]] = {}
    for line in text.splitlines():
        name, colon, rest = line.strip().partition(":")
        if not colon:
            raise ValueError(f"{line!r} is no line of a schemata file")
        base = 10 if is_band(name) else 16
        pairs = (field.partition("=") for field in rest.split(";"))
        found[name] = {int(domain): int(value.strip(), base) for domain, _, value in pairs}
    return found


def schemata(values: Values) -> str:
    """What to write into a `schemata` file; the kernel takes all lines or none."""
    lines = []
    for name, domains in values.items():
        form = "d" if is_band(name) else "x"
        lines.append(
            f"{name}:{';'.join(f'{domain}={value:{form}}' for domain, value in sorted(domains.items()))}\n"
        )
    return "".join(lines)


def is_band(name: str) -> bool:
    """Whether a resource is memory bandwidth, not a cache."""
    return name.endswith(("MB", "SMBA"))


def resource(name: str, info: Mapping[str, str], sizes: Mapping[int, int], default: Mapping[int, int]) -> Resource:
    """A resource from the files in its `info` folder.

    :param sizes: bytes of each domain that the default group's mask stands for; of a bandwidth nothing.
    :param default: the default group's values.
    :raise ValueError: a file is not of the form expected; KeyError: one is missing.
    """
    domains = tuple(sorted(default))
    if is_band(name):
        return Resource(name, domains, band=_band(info, default))
    cache = Cache(
        length=int(info["cbm_mask"], 16).bit_length(),
        min_ways=int(info["min_cbm_bits"]),
        hardware=int(info.get("shareable_bits") or "0", 16),
        sparse=(info.get("sparse_masks") or "0").strip() == "1",
    )
    way_bytes = {domain: sizes[domain] // max(default[domain].bit_count(), 1) for domain in domains}
    return Resource(name, domains, cache=cache, way_bytes=way_bytes)


def _band(info: Mapping[str, str], default: Mapping[int, int]) -> Band:
    """AMD counts eighths of GB/s from 0; Intel percent from 10 or so, or MiB/s when mounted with `mba_MBps`."""
    minimum, step = int(info["min_bandwidth"]), int(info["bandwidth_gran"])
    if minimum == 0 and step == 1:
        return Band(BYTES, 0, _AMD_MAXIMUM, 1, _AMD_STEP)
    if max(default.values(), default=0) > 100:
        return Band(BYTES, 1, _MBPS_MAXIMUM, 1, _MIB)
    return Band(PERCENT, minimum, 100, step)


def parse_sizes(text: str) -> dict[str, dict[int, int]]:
    """The values of a `size` file."""
    found: dict[str, dict[int, int]] = {}
    for line in text.splitlines():
        name, _, rest = line.strip().partition(":")
        found[name] = {int(field.partition("=")[0]): int(field.partition("=")[2]) for field in rest.split(";")}
    return found


def unlimited(machine: Machine, name: str) -> Mapping[int, int]:
    """What a group has that is not limited in a resource: bandwidth without end, the default group's ways."""
    found = machine.resources[name]
    if found.band is not None:
        return dict.fromkeys(found.domains, found.band.maximum)
    return machine.default.values[name]


def same(a: Mapping[int, int], b: Mapping[int, int]) -> bool:
    """Whether two groups have the same of a resource."""
    return dict(a) == dict(b)


def kinds(machine: Machine, stem: str) -> Sequence[str]:
    """The resources that a key is about: `L3`, or with CDP both `L3CODE` and `L3DATA`."""
    return [name for name in machine.resources if name == stem or name in (f"{stem}CODE", f"{stem}DATA")]
