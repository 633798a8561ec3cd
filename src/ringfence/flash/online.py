"""The device model in step with a clock that is not its own: requests come when they come, and are done when the
flash of the model would have done them.

Modelled as in the simulator: the bus of each channel and the dies behind it, reads before writes before erases,
transfers of data that waits first, a page map per tenant with greedy garbage collection whose copies and erases
take die and bus time. Not modelled: the link to the host and the controller's own time, which in a live system are
those of the server and the VM. Pages lie on the die that their number says; a write goes to the next free page
there.

A *pool* is the blocks of one die that are collected together: of one tenant, or of all that share the die without
isolation.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from ringfence.errors import UsageError
from ringfence.flash.geometry import SECTOR_BYTES, Device, page_kind
from ringfence.flash.online_pool import Pool, PoolState
from ringfence.flash.vssd import Isolation, VirtualSsd

READ, WRITE, MOVE, ERASE = range(4)
_BUS_FREE, _DIE_READY = range(2)
SPARE_BLOCKS = 2
"""Free blocks that tenants never get: without one, nothing could be moved, and so nothing be erased."""


class Done(NamedTuple):
    """A request that has been served. :param at_ns: when; by the clock that `submit` was given."""

    request: int
    at_ns: int


class _Op:
    __slots__ = ("command_ns", "data_ns", "die", "die_ns", "erases", "kind", "request")

    def __init__(self, kind: int, die: int, request: int, command_ns: int, die_ns: int, data_ns: int = 0) -> None:
        self.kind, self.die, self.request = kind, die, request
        self.command_ns, self.die_ns, self.data_ns = command_ns, die_ns, data_ns
        self.erases: tuple[Pool, int] | None = None


class _Die:
    __slots__ = ("background", "busy", "reads", "urgent", "writes")

    def __init__(self) -> None:
        self.reads: deque[_Op] = deque()
        self.writes: deque[_Op] = deque()
        self.background: deque[_Op] = deque()
        self.urgent = 0  # pools that can give no page before their collection has ended
        self.busy = False


class _Bus:
    __slots__ = ("busy", "data", "turn")

    def __init__(self) -> None:
        self.busy = False
        self.data: deque[_Op] = deque()
        self.turn = 0


class OnlineDevice:
    """:param device: what is modelled. :param tenants: whose dies are whose.

    :raise UsageError: software isolation, which needs the simulator's token buckets; more capacity than blocks; or
        dies that are the own ones of two tenants.
    """

    def __init__(self, device: Device, tenants: Sequence[VirtualSsd]) -> None:
        self._device, self._tenants = device, tuple(tenants)
        geometry = device.geometry
        self._sectors = geometry.sectors_per_page
        self._per_channel = geometry.dies_per_channel
        self._dies = [_Die() for _ in range(geometry.die_count)]
        self._buses = [_Bus() for _ in range(geometry.channels)]
        self._events: list[tuple[int, int, int, _Op]] = []
        self._order = 0
        self._now = 0
        self._parts: dict[int, int] = {}
        self._requests = 0
        self._finished: list[Done] = []
        self.moved_pages = 0
        self.pools = self._make_pools()

    # --- for the server

    def submit(self, now_ns: int, tenant: int, *, write: bool, sector: int, count: int) -> int:
        """A request has come; gives the number by which `advance` will tell of its end.

        :param now_ns: must not be less than in an earlier call.
        """
        self._run(now_ns)
        self._now = now_ns
        request = self._requests
        self._requests += 1
        first, last = sector // self._sectors, (sector + count - 1) // self._sectors
        self._parts[request] = last - first + 1
        for page in range(first, last + 1):
            begin, end = max(sector, page * self._sectors), min(sector + count, (page + 1) * self._sectors)
            self._queue_page(tenant, page, request, write=write, size_bytes=(end - begin) * SECTOR_BYTES)
        return request

    def discard(self, tenant: int, sector: int, count: int) -> None:
        """Whole pages in this range hold nothing any more; takes no time."""
        first, last = -(-sector // self._sectors), (sector + count) // self._sectors
        for page in range(first, last):
            pool, logical = self._home(tenant, page)
            pool.drop(logical)

    def advance(self, now_ns: int) -> list[Done]:
        """What was done by now, in order."""
        self._run(now_ns)
        self._now = max(self._now, now_ns)
        finished, self._finished = self._finished, []
        return finished

    @property
    def next_ns(self) -> int | None:
        """When something will happen if nothing comes before; None when all is at rest."""
        if self._finished:
            return self._now
        return self._events[0][0] if self._events else None

    # --- what survives a restart

    def restore(self, states: Sequence[PoolState | None]) -> None:
        """Go on from what the pools' `state` gave, in their order; None leaves one as new.

        :raise UsageError: they are of another device or other tenants. Nothing is changed then.
        """
        try:
            for pool, found in zip(self.pools, states, strict=True):
                if found is not None:
                    pool.check(found)
        except (KeyError, ValueError, TypeError) as error:
            raise UsageError(
                "the saved state is of another device or of other virtual SSDs",
                hint="serve what was served before, or another directory to begin with a new device",
            ) from error
        for pool, found in zip(self.pools, states, strict=True):
            if found is not None:
                pool.restore(found)

    # --- where pages are

    def _make_pools(self) -> list[Pool]:
        geometry = self._device.geometry
        blocks = geometry.planes * geometry.blocks
        shared: dict[int, Pool] = {}
        pools: list[Pool] = []
        owned: set[int] = set()
        self._stripes: list[list[Pool]] = []
        for tenant in self._tenants:
            stripe = []
            for die in map(geometry.die_index, tenant.dies):
                if tenant.isolation is Isolation.NONE and die in shared:
                    stripe.append(shared[die])
                    continue
                if die in owned:
                    raise UsageError(
                        f"{tenant.name} and another one have the same die for their own", hint="give each its dies"
                    )
                owned.add(die)
                pools.append(Pool(die, blocks, geometry.pages))
                stripe.append(pools[-1])
                if tenant.isolation is Isolation.NONE:
                    shared[die] = pools[-1]
            self._stripes.append(stripe)
        self._check(pools)
        return pools

    def _check(self, pools: list[Pool]) -> None:
        pages: dict[int, int] = {}
        for tenant, stripe in zip(self._tenants, self._stripes, strict=True):
            if tenant.isolation is Isolation.SOFTWARE:
                raise UsageError(
                    f"{tenant.name} is software-isolated, which the live model does not do",
                    hint="`ringfence flash sim` does; live: channel, die or none",
                )
            share = -(-tenant.capacity_bytes // self._device.geometry.page_bytes // len(stripe)) + 1
            for pool in stripe:
                pages[id(pool)] = pages.get(id(pool), 0) + share
        room = (len(pools[0].erases) - SPARE_BLOCKS - 2) * pools[0].pages if pools else 0
        for pool in pools:
            if pages[id(pool)] > room:
                raise UsageError(
                    f"die {pool.die} would hold {pages[id(pool)]} pages and has room for {room}",
                    hint="less capacity, or more dies",
                )

    def _home(self, tenant: int, page: int) -> tuple[Pool, int]:
        """The pool of a page, and a number for the page that no other tenant's page in that pool has."""
        stripe = self._stripes[tenant]
        return stripe[page % len(stripe)], page * len(self._tenants) + tenant

    def _queue_page(self, tenant: int, page: int, request: int, *, write: bool, size_bytes: int) -> None:
        pool, logical = self._home(tenant, page)
        timing = self._device.timing
        if write:
            self._write(pool, logical, request)
            return
        found = pool.place.get(logical, 0)
        read_ns = timing.read_ns[page_kind(found % pool.pages, len(timing.read_ns))] + timing.read_ready_ns
        op = _Op(READ, pool.die, request, timing.read_command_ns, read_ns, timing.transfer_ns(size_bytes))
        self._dies[pool.die].reads.append(op)
        self._kick(pool.die // self._per_channel)

    def _write(self, pool: Pool, logical: int, request: int) -> None:
        if pool.waiting or not pool.has_room(SPARE_BLOCKS):
            pool.waiting.append((logical, request))
            self._collect(pool)
            return
        self._dies[pool.die].writes.append(self._program(WRITE, pool, pool.take(logical), request))
        self._collect(pool)
        self._kick(pool.die // self._per_channel)

    def _program(self, kind: int, pool: Pool, page: int, request: int) -> _Op:
        timing = self._device.timing
        program_ns = timing.program_ns[page_kind(page % pool.pages, len(timing.program_ns))]
        transfer_ns = timing.transfer_ns(self._device.geometry.page_bytes)
        return _Op(kind, pool.die, request, timing.program_command_ns + transfer_ns, program_ns)

    # --- garbage collection

    def _collect(self, pool: Pool) -> None:
        """Empty a block if few are free: its pages are read and written again on the same die; it is erased."""
        threshold = min(self._device.gc_free_blocks, max(SPARE_BLOCKS + 1, len(pool.erases) // 10))
        if pool.collecting is not None or len(pool.free) >= threshold:
            return
        victim = pool.victim()
        if victim is None:
            return
        pool.collecting = victim
        die, timing = self._dies[pool.die], self._device.timing
        for page in pool.pages_in(victim):
            logical = pool.owner[page]
            read_ns = timing.read_ns[page_kind(page % pool.pages, len(timing.read_ns))] + timing.read_ready_ns
            size = self._device.geometry.page_bytes
            die.background.append(
                _Op(MOVE, pool.die, -1, timing.read_command_ns, read_ns, timing.transfer_ns(size))
            )
            die.background.append(self._program(MOVE, pool, pool.take(logical), -1))
            self.moved_pages += 1
        erase = _Op(ERASE, pool.die, -1, timing.erase_command_ns, timing.erase_ns)
        erase.erases = (pool, victim)
        die.background.append(erase)
        if pool.waiting:
            die.urgent += 1
        self._kick(pool.die // self._per_channel)

    def _erased(self, pool: Pool, block: int) -> None:
        pool.erases[block] += 1
        pool.free.append(block)
        pool.collecting = None
        self._dies[pool.die].urgent = 0
        while pool.waiting and pool.has_room(SPARE_BLOCKS):
            logical, request = pool.waiting.popleft()
            self._dies[pool.die].writes.append(self._program(WRITE, pool, pool.take(logical), request))
        self._collect(pool)

    # --- buses and dies

    def _run(self, until_ns: int) -> None:
        while self._events and self._events[0][0] <= until_ns:
            self._now, _, kind, op = heapq.heappop(self._events)
            if kind == _DIE_READY:
                self._die_ready(op)
            else:
                self._bus_free(op)

    def _at(self, time_ns: int, kind: int, op: _Op) -> None:
        heapq.heappush(self._events, (time_ns, self._order, kind, op))
        self._order += 1

    def _kick(self, channel: int) -> None:
        """If the bus is free: waiting data first, else its dies in turn."""
        bus = self._buses[channel]
        if bus.busy:
            return
        if bus.data:
            op = bus.data.popleft()
            bus.busy = True
            self._at(self._now + op.data_ns, _BUS_FREE, op)
            return
        for _ in range(self._per_channel):
            number = channel * self._per_channel + bus.turn
            bus.turn = (bus.turn + 1) % self._per_channel
            die = self._dies[number]
            next_op = None if die.busy else self._pick(die)
            if next_op is not None:
                die.busy = bus.busy = True
                self._at(self._now + next_op.command_ns, _BUS_FREE, next_op)
                return

    @staticmethod
    def _pick(die: _Die) -> _Op | None:
        if die.urgent and die.background:
            return die.background.popleft()
        for queue in (die.reads, die.writes, die.background):
            if queue:
                return queue.popleft()
        return None

    def _bus_free(self, op: _Op) -> None:
        channel = op.die // self._per_channel
        self._buses[channel].busy = False
        if op.command_ns:
            op.command_ns = 0  # from now on the bus is held for its data
            self._at(self._now + op.die_ns, _DIE_READY, op)
        else:
            self._end(op)
        self._kick(channel)

    def _die_ready(self, op: _Op) -> None:
        channel = op.die // self._per_channel
        if op.data_ns:
            self._buses[channel].data.append(op)
        else:
            self._end(op)
        self._kick(channel)

    def _end(self, op: _Op) -> None:
        self._dies[op.die].busy = False
        if op.erases is not None:
            self._erased(*op.erases)
        elif op.request >= 0:
            self._parts[op.request] -= 1
            if not self._parts[op.request]:
                del self._parts[op.request]
                self._finished.append(Done(op.request, self._now))


def scaled(device: Device, factor: float) -> Device:
    """The same device with all its flash and its buses slower by that factor.

    :raise UsageError: not above zero.
    """
    if not factor > 0:
        raise UsageError(f"a device cannot be {factor:g} times as slow", hint="1 leaves it as it is")
    timing = device.timing

    def slower(value_ns: int) -> int:
        return round(value_ns * factor)

    return device._replace(
        timing=timing._replace(
            read_ns=tuple(map(slower, timing.read_ns)),
            program_ns=tuple(map(slower, timing.program_ns)),
            erase_ns=slower(timing.erase_ns),
            two_byte_ns=max(1, slower(timing.two_byte_ns)),
            read_command_ns=slower(timing.read_command_ns),
            program_command_ns=slower(timing.program_command_ns),
            erase_command_ns=slower(timing.erase_command_ns),
        )
    )
