"""What a simulation is given: a device, its tenants, and what each asks for. Both simulators take the same."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from ringfence.errors import UsageError
from ringfence.flash.geometry import Device
from ringfence.flash.vssd import Isolation, VirtualSsd


class Collector(StrEnum):
    """Which block garbage collection takes next, of those that are written to the end and hold a stale page."""

    GREEDY = "greedy"  # the one with most stale pages
    CHOICES = "d-choices"  # the best of log2(blocks) drawn by lot: nearly as good, and found at once
    FIFO = "fifo"  # the one that was filled first: wears evenly, moves more


class Bucket(NamedTuple):
    """A token bucket before a tenant's requests: they wait until it holds what they cost.

    :param read_cost: of one page, in tokens; `write_cost` the same. A tuned bucket counts the time that each takes
        of a die; an untuned one counts pages, or bytes.
    :param per_ms: tokens that are added in a millisecond; :param burst: how many it holds.
    """

    read_cost: int
    write_cost: int
    per_ms: int
    burst: int


class Lending(NamedTuple):
    """A tenant's dies, while they are idle, take writes of another one.

    :param lender: number of the tenant; :param borrower: the same.
    :param idle_ns: how long the lender must have asked for nothing.
    :param reserve_blocks: free blocks of each plane that are not lent.
    """

    lender: int
    borrower: int
    idle_ns: int = 200_000
    reserve_blocks: int = 12


class Flow(NamedTuple):
    """Requests of one tenant, in order.

    :param writes: whether each is a write; :param counts: how many sectors of 512 bytes each has.
    :param sectors: where each begins, in sectors counted from the tenant's first.
    :param arrivals_ns: when each arrives; empty: the next one comes when an earlier one has completed, so that
        `depth` are always under way, until `stop_ns` if that is not 0.
    :param on_ns: a flow with `depth` works for so long and then rests for `off_ns`; 0 never rests.
    """

    tenant: int
    writes: Sequence[int]
    sectors: Sequence[int]
    counts: Sequence[int]
    arrivals_ns: Sequence[int] = ()
    depth: int = 0
    stop_ns: int = 0
    on_ns: int = 0
    off_ns: int = 0


class Scenario(NamedTuple):
    """:param buckets: for each tenant, or None where it has none; empty: nobody has one.
    :param fair: dies serve tenants by weight, not in the order in which their requests came.
    :param urgent: garbage collection goes before requests of tenants always; else only where fewer than half of
        the free blocks that it begins at are left.
    """

    device: Device
    tenants: tuple[VirtualSsd, ...]
    flows: tuple[Flow, ...]
    buckets: tuple[Bucket | None, ...] = ()
    lending: tuple[Lending, ...] = ()
    collector: Collector = Collector.GREEDY
    fair: bool = False
    urgent: bool = True
    fetch_limit: int = 512

    def check(self) -> None:
        """:raise UsageError: it cannot be simulated."""
        self.device.geometry.check()
        for flow in self.flows:
            self._check_flow(flow)
        names = [tenant.name for tenant in self.tenants]
        if len(set(names)) < len(names):
            raise UsageError("two tenants have the same name", hint="give each its own")

    def _check_flow(self, flow: Flow) -> None:
        if not 0 <= flow.tenant < len(self.tenants):
            raise UsageError(f"there is no tenant {flow.tenant}", hint="flows count tenants from 0")
        if not len(flow.writes) == len(flow.sectors) == len(flow.counts):
            raise UsageError("a flow's lists differ in length", hint="one entry in each for each request")
        if bool(flow.depth) == bool(len(flow.arrivals_ns)) and len(flow.writes):
            raise UsageError("a flow has either a depth or times of arrival", hint="give one of them")
        if flow.depth < 0 or flow.stop_ns < 0 or flow.off_ns < 0 or flow.on_ns < 0:
            raise UsageError("a flow's depth and times are not negative", hint="use 0 for none")
        if len(flow.arrivals_ns) not in (0, len(flow.writes)):
            raise UsageError("a flow's times are not one for each request", hint="one arrival for each request")


class Result(NamedTuple):
    """What became of each request, and of the device. Requests are counted over all flows, in the flows' order.

    :param arrived_ns: when the host asked; -1 where it never came to it.
    :param done_ns: when the host had the answer; -1 where it did not come within the time simulated.
    :param first: number of each flow's first request.
    :param channel_busy_ns: of each channel's bus; :param die_busy_ns: of each die.
    :param programs: pages written for tenants, for each tenant; :param moves: for its garbage collection.
    :param erases: of blocks, for each plane.
    :param lent_pages: written for tenants to flash of others; :param return_ns: the longest that a lender's dies
        were held by a borrower's command after it had asked for something itself.
    """

    arrived_ns: Sequence[int]
    done_ns: Sequence[int]
    first: Sequence[int]
    end_ns: int
    channel_busy_ns: Sequence[int]
    die_busy_ns: Sequence[int]
    programs: Sequence[int]
    moves: Sequence[int]
    erases: Sequence[int]
    lent_pages: int
    return_ns: int
    events: int


OPEN_BLOCKS = 3
"""Of each tenant in each pool: for what it writes, for what collection moves, and for the device's own tables."""
LEAST_FREE = 2
"""Free blocks without which a collection might not end."""


class Pool(NamedTuple):
    """Blocks of one plane that are collected together.

    :param first: number of its first block, over the whole device; :param start: collection begins with fewer free
        blocks than this; :param stop: writes wait with fewer than this; :param urgent: collection goes first.
    """

    plane: int
    first: int
    blocks: int
    start: int
    stop: int
    urgent: int


class Layout(NamedTuple):
    """Where each tenant's pages may be.

    A *slot* is one tenant's place in one pool: it has an open block for what the tenant writes and one for what
    collection moves. A page of a tenant has its home in one slot, by its number.

    :param stripes: for each tenant its slots, in the order of its pages.
    :param lent: for each tenant slots in others' pools.
    :param slots: tenant and pool of each slot; :param first_page: of each tenant, counted over all tenants.
    """

    pools: tuple[Pool, ...]
    slots: tuple[tuple[int, int], ...]
    stripes: tuple[tuple[int, ...], ...]
    lent: tuple[tuple[int, ...], ...]
    first_page: tuple[int, ...]
    pages: int

    def lent_slots(self, lending: Lending) -> list[int]:
        """The borrower's slots in the lender's pools."""
        pools = {self.slots[slot][1] for slot in self.stripes[lending.lender]}
        return [slot for slot in self.lent[lending.borrower] if self.slots[slot][1] in pools]

    def lent_reserves(self, lending: Lending) -> list[int]:
        """Free blocks that are not lent, for each of those slots: never those that collection works with."""
        pools = [self.pools[self.slots[slot][1]] for slot in self.lent_slots(lending)]
        return [max(lending.reserve_blocks, pool.start) for pool in pools]


def pages_of(device: Device, tenant: VirtualSsd) -> int:
    """How many pages the tenant's capacity has."""
    return tenant.capacity_bytes // device.geometry.page_bytes


def lay_out(scenario: Scenario) -> Layout:
    """Give each tenant its pools and slots.

    :raise UsageError: tenants want the same blocks, or have more capacity than their blocks can hold.
    """
    builder = _Builder(scenario)
    for number, tenant in enumerate(scenario.tenants):
        builder.add(number, tenant)
    for lending in scenario.lending:
        builder.lend(lending)
    builder.settle()
    return builder.layout()


class _Builder:
    def __init__(self, scenario: Scenario) -> None:
        self.device = scenario.device
        self.tenants = scenario.tenants
        self.pools: list[Pool] = []
        self.slots: list[tuple[int, int]] = []
        self.stripes: list[tuple[int, ...]] = []
        self.lent: list[tuple[int, ...]] = [()] * len(scenario.tenants)
        self.used: dict[int, int] = {}
        self.shared: dict[int, int] = {}

    def add(self, number: int, tenant: VirtualSsd) -> None:
        geometry = self.device.geometry
        planes = [
            geometry.die_index(die) * geometry.planes + plane
            for plane in range(geometry.planes)
            for die in tenant.dies
        ]
        stripe = []
        for plane in planes:
            self.slots.append((number, self._pool(plane, tenant)))
            stripe.append(len(self.slots) - 1)
        self.stripes.append(tuple(stripe))

    def lend(self, lending: Lending) -> None:
        slots = []
        for slot in self.stripes[lending.lender]:
            self.slots.append((lending.borrower, self.slots[slot][1]))
            slots.append(len(self.slots) - 1)
        self.lent[lending.borrower] += tuple(slots)

    def _pool(self, plane: int, tenant: VirtualSsd) -> int:
        geometry = self.device.geometry
        if tenant.isolation is Isolation.NONE and plane in self.shared:
            return self.shared[plane]
        blocks = tenant.blocks or geometry.blocks
        first = self.used.get(plane, 0)
        if first + blocks > geometry.blocks:
            raise UsageError(
                f"{tenant.name} wants {blocks} blocks of plane {plane}, which has {geometry.blocks - first} left",
                hint="two tenants have the same dies: give them other ones, or fewer blocks of each",
            )
        self.used[plane] = first + blocks
        self.pools.append(Pool(plane, plane * geometry.blocks + first, blocks, 0, 0, 0))
        if tenant.isolation is Isolation.NONE:
            self.shared[plane] = len(self.pools) - 1
        return len(self.pools) - 1

    def settle(self) -> None:
        """Give each pool the free blocks that collection works with: as many as the device wants, or as there are
        beside its tenants' pages and open blocks.
        """
        geometry = self.device.geometry
        spare = [pool.blocks for pool in self.pools]
        for number, tenant in enumerate(self.tenants):
            stripe = self.stripes[number]
            if not stripe:
                raise UsageError(f"{tenant.name} has no dies", hint="a virtual SSD needs one at least")
            pages = -(-pages_of(self.device, tenant) // len(stripe))
            for slot in stripe:
                spare[self.slots[slot][1]] -= OPEN_BLOCKS + -(-pages // geometry.pages)
        for number, (pool, blocks) in enumerate(zip(self.pools, spare, strict=True)):
            if blocks <= LEAST_FREE:
                raise UsageError(
                    f"plane {pool.plane} needs {LEAST_FREE + 1 - blocks} blocks more than its {pool.blocks}",
                    hint="less capacity, or more over-provisioning: collection needs free blocks to work with",
                )
            start = min(self.device.gc_free_blocks, blocks - 1)
            stop = min(self.device.gc_parallel, start)
            self.pools[number] = pool._replace(start=start, stop=stop, urgent=max(LEAST_FREE, start // 2))

    def layout(self) -> Layout:
        first, pages = [], 0
        for tenant in self.tenants:
            first.append(pages)
            pages += pages_of(self.device, tenant)
        return Layout(
            tuple(self.pools), tuple(self.slots), tuple(self.stripes), tuple(self.lent), tuple(first), pages
        )
