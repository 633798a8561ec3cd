"""PURE: what a host as a whole cannot bear, told before anything is touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ringfence import units
from ringfence.core.knob import Value
from ringfence.core.spec import Pool, Setting
from ringfence.errors import UsageError


class Capacity(NamedTuple):
    """What a host has. :param cpus: numbers of those that are online; empty when not known."""

    memory_bytes: int
    cpus: frozenset[int]


class Demand(NamedTuple):
    """What is wanted for one tenant. :param settings: of its fence, by key. :param bounds: likewise."""

    tenant: str
    settings: Mapping[str, Setting]
    bounds: Mapping[str, Setting]


def complaints(host: Capacity, demands: Sequence[Demand], pools: Mapping[str, Pool]) -> list[UsageError]:
    """Everything that stands against these demands together; empty when nothing does."""
    found = [_memory(host, demands), *_pins(host, demands), *_pools(demands, pools)]
    return [one for one in found if one is not None]


def _memory(host: Capacity, demands: Sequence[Demand]) -> UsageError | None:
    """The least that each is to have, all together, against the host's memory."""
    least: list[tuple[int, str]] = []
    for demand in demands:
        setting = demand.bounds.get("memory.min") or demand.settings.get("memory.target")
        if setting is not None and isinstance(setting.value, int):
            least.append((setting.value, demand.tenant))
    total = sum(size for size, _ in least)
    if total <= host.memory_bytes:
        return None
    largest = ", ".join(f"{name} {units.format_bytes(size)}" for size, name in sorted(least, reverse=True)[:5])
    return UsageError(
        f"the least memory of {len(least)} tenants is {units.format_bytes(total)} together, and the host has "
        f"{units.format_bytes(host.memory_bytes)}",
        hint=f"lower memory.min, or memory.target where there is none; the largest: {largest}",
    )


def _pins(host: Capacity, demands: Sequence[Demand]) -> list[UsageError]:
    found: list[UsageError] = []
    for demand in demands:
        for key, setting in demand.settings.items():
            if not key.startswith("cpu.") or "pin" not in key:
                continue
            missing = sorted(_cpus(setting.value) - host.cpus) if host.cpus else []
            if missing:
                found.append(
                    UsageError(
                        f"{setting.place}: {demand.tenant} is to be pinned to CPUs that this host does not have: "
                        f"{', '.join(map(str, missing[:8]))}",
                        hint=f"it has {len(host.cpus)}, from {min(host.cpus)} to {max(host.cpus)}",
                    )
                )
    return found


def _cpus(value: Value | None) -> set[int]:
    """The CPUs of a list such as `0-3,8`; none for what is no list."""
    cpus: set[int] = set()
    for part in str(value).split(",") if value is not None else ():
        first, _, last = part.strip().partition("-")
        if first.isdecimal() and (last or first).isdecimal() and len(last or first) < 6:
            cpus.update(range(int(first), int(last or first) + 1))
    return cpus


def _pools(demands: Sequence[Demand], pools: Mapping[str, Pool]) -> list[UsageError]:
    """A quota that does not go round."""
    found: list[UsageError] = []
    for name, pool in pools.items():
        members = sum(
            key.endswith(".pool") and setting.value == name
            for demand in demands
            for key, setting in demand.settings.items()
        )
        for leaf, setting in pool.settings.items():
            if leaf in ("iops", "bps") and isinstance(setting.value, int) and 0 < setting.value < members:
                found.append(
                    UsageError(
                        f"{setting.place}: pool {name!r} has {setting.value} {leaf} for {members} disks",
                        hint="each needs one at least",
                    )
                )
    return found
