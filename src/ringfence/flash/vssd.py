"""A virtual SSD: what one tenant has of a shared one."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from ringfence.flash.geometry import Device, Die, Geometry


class Isolation(StrEnum):
    """What a virtual SSD shares with its neighbours, from nothing but the host link to everything."""

    CHANNEL = "channel"  # own channels: own buses, own dies
    DIE = "die"  # own dies; buses shared
    SOFTWARE = "software"  # own blocks; dies shared, each tenant's use of them limited by a token bucket
    NONE = "none"  # dies and blocks shared, garbage collection too


class Bandwidth(NamedTuple):
    """What dies can do when nothing else happens on them, in bytes per second."""

    read: int
    write: int


class VirtualSsd(NamedTuple):
    """:param dies: whose flash it uses, in the order in which its pages are spread over them.
    :param blocks: of each plane of those dies that are its own; all of them but in software isolation. 0 where
        blocks are shared.
    :param capacity_bytes: what the tenant sees.
    :param bandwidth: what it was sized for.
    :param weight: its share of shared dies beside those of its neighbours.
    """

    name: str
    isolation: Isolation
    dies: tuple[Die, ...]
    blocks: int
    capacity_bytes: int
    bandwidth: Bandwidth
    weight: int = 1

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels that it uses, in ascending order."""
        return tuple(sorted({die.channel for die in self.dies}))


def striped(dies: tuple[Die, ...]) -> tuple[Die, ...]:
    """The dies in the order that spreads consecutive pages best: over channels first, then chips, then dies."""
    by_channel: dict[int, list[Die]] = {}
    for die in sorted(dies, key=lambda d: (d.die, d.chip)):
        by_channel.setdefault(die.channel, []).append(die)
    rows = max((len(of_channel) for of_channel in by_channel.values()), default=0)
    return tuple(by_channel[c][row] for row in range(rows) for c in sorted(by_channel) if row < len(by_channel[c]))


def dies_of_channels(geometry: Geometry, channels: tuple[int, ...]) -> tuple[Die, ...]:
    """All dies of whole channels, striped."""
    return striped(
        tuple(
            Die(channel, chip, die)
            for channel in channels
            for chip in range(geometry.chips)
            for die in range(geometry.dies)
        )
    )


def bandwidth_of(device: Device, dies: tuple[Die, ...]) -> Bandwidth:
    """What these dies can do together: each channel as much as its bus or its dies allow, whichever is less.

    Whole pages, many at once, no garbage collection: the upper bound that a virtual SSD is sized by.
    """
    timing, size = device.timing, device.geometry.page_bytes
    transfer = timing.transfer_ns(size)
    read_ns = sum(timing.read_ns) // len(timing.read_ns) + timing.read_ready_ns
    program_ns = sum(timing.program_ns) // len(timing.program_ns)
    on_channel: dict[int, int] = {}
    for die in dies:
        on_channel[die.channel] = on_channel.get(die.channel, 0) + 1
    read = write = 0.0
    for count in on_channel.values():
        bus_read = transfer + timing.read_command_ns
        bus_write = transfer + timing.program_command_ns
        read += min(1 / bus_read, count / (bus_read + read_ns))
        write += min(1 / bus_write, count / (bus_write + program_ns))
    return Bandwidth(int(read * size * 1e9), int(write * size * 1e9))
