"""The same tenants and workloads under each class of isolation, side by side."""

from __future__ import annotations

from ringfence.errors import UsageError
from ringfence.flash.geometry import Device, Die
from ringfence.flash.scenario import LEAST_FREE, OPEN_BLOCKS, Bucket, Flow, Scenario
from ringfence.flash.vssd import Isolation, VirtualSsd, bandwidth_of, dies_of_channels, striped

BURST_MS = 4
"""A bucket holds what its tenant is due in so many milliseconds: a few programs of each die."""


def split(device: Device, isolation: Isolation, names: tuple[str, ...]) -> tuple[VirtualSsd, ...]:
    """Equal virtual SSDs of one class that together use all of the device; capacities are the same in every class.

    :raise UsageError: it cannot be divided among so many.
    """
    geometry, count = device.geometry, len(names)
    capacity = capacity_of(device, count)
    blocks = {Isolation.SOFTWARE: geometry.blocks // count, Isolation.NONE: 0}.get(isolation, geometry.blocks)
    tenants = []
    for number, name in enumerate(names):
        dies = _dies(device, isolation, number, count)
        if not dies:
            raise UsageError(
                f"{device.name} cannot be divided among {count} tenants by {isolation}",
                hint=f"it has {geometry.channels} channels and {geometry.die_count} dies",
            )
        tenants.append(VirtualSsd(name, isolation, dies, blocks, capacity, bandwidth_of(device, dies)))
    return tuple(tenants)


def capacity_of(device: Device, count: int) -> int:
    """What each of so many tenants can have in any class: in some, all of them have open blocks in each plane."""
    geometry = device.geometry
    share = int(geometry.capacity_bytes * (1 - device.over_provisioning) / count)
    usable = (
        (geometry.blocks // count - OPEN_BLOCKS - LEAST_FREE - 1) * geometry.block_bytes * geometry.plane_count
    )
    if usable <= 0:
        raise UsageError(f"{device.name} is too small for {count} tenants", hint="fewer tenants, or more blocks")
    return min(share, usable) // geometry.page_bytes * geometry.page_bytes


def _dies(device: Device, isolation: Isolation, number: int, count: int) -> tuple[Die, ...]:
    geometry = device.geometry
    if isolation is Isolation.CHANNEL:
        each = geometry.channels // count
        return dies_of_channels(geometry, tuple(range(number * each, (number + 1) * each)))
    if isolation is Isolation.DIE:
        per = geometry.dies_per_channel
        each = per // count
        own = [
            geometry.die_at(channel * per + nth)
            for channel in range(geometry.channels)
            for nth in range(number * each, (number + 1) * each)
        ]
        return striped(tuple(own))
    return dies_of_channels(geometry, tuple(range(geometry.channels)))


def bucket(device: Device, share: float, *, tuned: bool) -> Bucket:
    """A tenant's token bucket on dies that it shares with others.

    :param tuned: tokens are nanoseconds of a die, so that a write costs what it takes; else each page costs the
        same, and the bucket is filled at the rate at which the dies could read.
    """
    geometry, timing = device.geometry, device.timing
    transfer = timing.transfer_ns(geometry.page_bytes)
    read = sum(timing.read_ns) // len(timing.read_ns) + timing.read_ready_ns + transfer
    write = sum(timing.program_ns) // len(timing.program_ns) + transfer
    if tuned:
        per_ms = int(share * geometry.die_count * 1_000_000)
        return Bucket(read, write, per_ms, BURST_MS * per_ms)
    pages_per_s = share * bandwidth_of(device, tuple(map(geometry.die_at, range(geometry.die_count)))).read
    per_ms = max(1, int(pages_per_s / geometry.page_bytes))  # 1000 tokens a page, so many ms a second
    return Bucket(1000, 1000, per_ms, BURST_MS * per_ms)


def scenario_of(
    device: Device,
    isolation: Isolation,
    names: tuple[str, ...],
    flows: tuple[Flow, ...],
    *,
    tuned: bool = True,
    urgent: bool = False,
) -> Scenario:
    """Those flows under one class: software isolation has buckets, and dies that serve tenants by weight."""
    tenants = split(device, isolation, names)
    software = isolation is Isolation.SOFTWARE
    buckets = tuple(bucket(device, 1 / len(names), tuned=tuned) for _ in names) if software else ()
    return Scenario(device, tenants, flows, buckets, fair=software, urgent=urgent)
