"""Which flash each virtual SSD gets, so that what was promised to one is never given to another.

Whole channels go to those that want channels; dies and shared blocks come from channels that are already divided,
and only then from whole ones, so that as many channels as possible stay whole for those that need one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ringfence import units
from ringfence.errors import UsageError
from ringfence.flash.geometry import Device, Die
from ringfence.flash.scenario import LEAST_FREE, OPEN_BLOCKS
from ringfence.flash.vssd import Bandwidth, Isolation, VirtualSsd, bandwidth_of, striped


class Request(NamedTuple):
    """What a tenant wants.

    :param bandwidth: at least this, in bytes per second of whole pages; 0 for as much as the capacity brings.
    """

    name: str
    isolation: Isolation
    capacity_bytes: int
    bandwidth: Bandwidth = Bandwidth(0, 0)
    weight: int = 1


class Allocator:
    """An SSD and who has what of it. A request that fails changes nothing.

    :param prefer: channels in the order in which they are given away, such as the least worn first.
    """

    def __init__(
        self, device: Device, tenants: Iterable[VirtualSsd] = (), prefer: Sequence[int] | None = None
    ) -> None:
        device.geometry.check()
        self._device = device
        self._prefer = tuple(prefer) if prefer is not None else tuple(range(device.geometry.channels))
        self._tenants = {tenant.name: tenant for tenant in tenants}

    @property
    def tenants(self) -> tuple[VirtualSsd, ...]:
        return tuple(self._tenants.values())

    def allocate(self, request: Request) -> VirtualSsd:
        """Admit a tenant.

        :raise UsageError: there is one of that name, or what is left does not suffice; nothing was changed.
        """
        if request.name in self._tenants:
            raise UsageError(
                f"there is a virtual SSD {request.name} already", hint="grow it, or take another name"
            )
        if request.capacity_bytes < 1 or request.weight < 1:
            raise UsageError("a virtual SSD has a capacity and a weight of at least 1", hint="such as 64GiB")
        return self._settle(request, ())

    def grow(self, name: str, capacity_bytes: int, bandwidth: Bandwidth | None = None) -> VirtualSsd:
        """Give a tenant more; it keeps the dies that it has.

        :raise UsageError: no such tenant, less than it has, or more than there is; nothing was changed.
        """
        old = self._get(name)
        if capacity_bytes < old.capacity_bytes:
            raise UsageError(
                f"{name} has {units.format_bytes(old.capacity_bytes)} already",
                hint="a virtual SSD does not shrink",
            )
        wanted = bandwidth or Bandwidth(0, 0)
        request = Request(name, old.isolation, capacity_bytes, wanted, old.weight)
        del self._tenants[name]
        try:
            return self._settle(request, old.dies)
        except UsageError:
            self._tenants[name] = old
            raise

    def release(self, name: str) -> None:
        """Take back all that a tenant has. Its blocks must be erased before another one sees them.

        :raise UsageError: there is no such tenant.
        """
        del self._tenants[self._get(name).name]

    def free_channels(self) -> tuple[int, ...]:
        """Channels of which nobody has anything."""
        used = {die.channel for tenant in self._tenants.values() for die in tenant.dies}
        return tuple(channel for channel in self._prefer if channel not in used)

    def _get(self, name: str) -> VirtualSsd:
        if name not in self._tenants:
            raise UsageError(
                f"there is no virtual SSD {name}", hint=f"there are {', '.join(self._tenants) or 'none yet'}"
            )
        return self._tenants[name]

    def _settle(self, request: Request, kept: tuple[Die, ...]) -> VirtualSsd:
        whole = request.isolation in (Isolation.CHANNEL, Isolation.DIE)
        dies, blocks = self._own(request, kept) if whole else self._shared(request, kept)
        tenant = VirtualSsd(
            request.name,
            request.isolation,
            striped(dies),
            blocks,
            request.capacity_bytes,
            self._due(request, dies),
            request.weight,
        )
        self._tenants[request.name] = tenant
        return tenant

    def _due(self, request: Request, dies: tuple[Die, ...]) -> Bandwidth:
        """All that its own dies can do; of shared ones what was asked for."""
        own = bandwidth_of(self._device, dies)
        return own if request.isolation in (Isolation.CHANNEL, Isolation.DIE) else request.bandwidth

    def _own(self, request: Request, kept: tuple[Die, ...]) -> tuple[tuple[Die, ...], int]:
        """Dies of its own: whole channels, or single ones, until they suffice."""
        geometry = self._device.geometry
        dies = list(kept)
        candidates = self._channels() if request.isolation is Isolation.CHANNEL else self._single_dies()
        for group in candidates:
            if self._suffices(request, dies, geometry.blocks):
                break
            dies += [die for die in group if die not in dies]
        if not self._suffices(request, dies, geometry.blocks):
            raise self._refusal(request, dies)
        return tuple(dies), geometry.blocks

    def _channels(self) -> list[list[Die]]:
        geometry = self._device.geometry
        per = geometry.dies_per_channel
        return [[geometry.die_at(channel * per + nth) for nth in range(per)] for channel in self.free_channels()]

    def _single_dies(self) -> list[list[Die]]:
        """Dies that nobody has: of divided channels first, one of each channel in turn."""
        whole = {tenant.name for tenant in self.tenants if tenant.isolation is Isolation.CHANNEL}
        taken = {die for tenant in self.tenants for die in tenant.dies}
        closed = {die.channel for tenant in self.tenants if tenant.name in whole for die in tenant.dies}
        fresh = set(self.free_channels())
        geometry = self._device.geometry
        ordered = []
        for divided in (True, False):
            channels = [c for c in self._prefer if c not in closed and (c not in fresh) is divided]
            all_dies = tuple(geometry.die_at(i) for i in range(geometry.die_count))
            free = tuple(die for die in all_dies if die.channel in channels and die not in taken)
            ordered += [[die] for die in striped(free)]
        return ordered

    def _shared(self, request: Request, kept: tuple[Die, ...]) -> tuple[tuple[Die, ...], int]:
        """Blocks of dies that others of the same class use too, or of fresh channels."""
        shared = self._groups(request.isolation)
        groups = shared + self._channels()
        # A full channel in front would have it spread thin over many: it may begin behind it.
        ways = [self._spread(request, kept, groups[start:]) for start in range(len(shared) + 1)]
        found = [way for way in ways if way is not None]
        if not found:
            raise self._refusal(request, [*kept, *(die for group in groups for die in group if die not in kept)])
        fresh = set(self.free_channels())
        return min(found, key=lambda way: (len({die.channel for die in way[0]} & fresh), len(way[0])))

    def _spread(
        self, request: Request, kept: tuple[Die, ...], groups: list[list[Die]]
    ) -> tuple[tuple[Die, ...], int] | None:
        """What it has and the first of the groups, as many as it takes."""
        dies = list(kept)
        for group in [[], *groups]:
            dies += [die for die in group if die not in dies]
            blocks = self._blocks_for(request, len(dies))
            if dies and self._room(dies, blocks) and self._fast_enough(request, dies):
                return tuple(dies), 0 if request.isolation is Isolation.NONE else blocks
        return None

    def _groups(self, isolation: Isolation) -> list[list[Die]]:
        """Channels in use by tenants of that class, those with fewest blocks given away first."""
        geometry = self._device.geometry
        per = geometry.dies_per_channel
        used = sorted({c for tenant in self.tenants if tenant.isolation is isolation for c in tenant.channels})
        used.sort(key=lambda channel: self._given(Die(channel, 0)))
        return [[geometry.die_at(channel * per + nth) for nth in range(per)] for channel in used]

    def _given(self, die: Die) -> int:
        """Blocks of each plane of a die that tenants have, with what shared pools need for theirs."""
        return sum(
            tenant.blocks or self._needed(tenant.capacity_bytes, len(tenant.dies))
            for tenant in self.tenants
            if die in tenant.dies
        )

    def _needed(self, capacity_bytes: int, dies: int) -> int:
        """Blocks of each plane for so much capacity, its over-provisioning included."""
        geometry = self._device.geometry
        planes = max(1, dies * geometry.planes)
        blocks = -(-capacity_bytes // (planes * geometry.block_bytes))
        spare = int(blocks * self._device.over_provisioning / (1 - self._device.over_provisioning)) + 1
        return blocks + max(spare, OPEN_BLOCKS + LEAST_FREE + 1)

    def _blocks_for(self, request: Request, dies: int) -> int:
        return self._needed(request.capacity_bytes, dies)

    def _room(self, dies: list[Die], blocks: int) -> bool:
        left = self._device.geometry.blocks - blocks
        return left >= 0 and all(self._given(die) <= left for die in dies)

    def _suffices(self, request: Request, dies: list[Die], blocks: int) -> bool:
        if not dies or self._needed(request.capacity_bytes, len(dies)) > blocks:
            return False
        return self._fast_enough(request, dies)

    def _fast_enough(self, request: Request, dies: list[Die]) -> bool:
        """What was promised to others on the same dies is not there for this one."""
        can = bandwidth_of(self._device, tuple(dies))
        read = write = 0.0
        for other in self.tenants:
            overlap = len(set(other.dies) & set(dies)) / len(other.dies)
            if other.isolation is request.isolation:
                read, write = read + other.bandwidth.read * overlap, write + other.bandwidth.write * overlap
        wanted = request.bandwidth
        return wanted.read + read <= can.read and wanted.write + write <= can.write

    def _refusal(self, request: Request, dies: list[Die]) -> UsageError:
        geometry = self._device.geometry
        usable = int(len(dies) * geometry.die_bytes * (1 - self._device.over_provisioning))
        can = bandwidth_of(self._device, tuple(dies))
        return UsageError(
            f"not enough is left for {request.name}, which wants {units.format_bytes(request.capacity_bytes)} "
            f"in isolation by {request.isolation}",
            hint=f"{len(self.free_channels())} whole channels are free; it could have "
            f"{units.format_bytes(usable)} at {units.format_bytes(can.read)}/s",
        )
