"""Requests of tenants, from doorbell to completion, as NVMe has them."""

from __future__ import annotations

from collections import deque

from ringfence.flash.geometry import SECTOR_BYTES
from ringfence.flash.reference.back_end import BackEnd
from ringfence.flash.reference.collector import Collector
from ringfence.flash.reference.lending import Lender
from ringfence.flash.reference.link import Clock, Direction
from ringfence.flash.reference.mapping import Kind, Mapping, Operation
from ringfence.flash.scenario import Bucket, Flow, Result, Scenario, lay_out


class Source:
    """A flow as it goes on. :param first: number of its first request; :param at: of its next one."""

    def __init__(self, flow: Flow, first: int) -> None:
        self.flow, self.first, self.at = flow, first, 0
        self.fetched = 0
        self.backlog: deque[int] = deque()


class Gate:
    """A token bucket, counted as time: `full_ns` is when it would be full again."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._burst_ns = bucket.burst * 1_000_000 // bucket.per_ms
        self._full_ns = 0
        self.waiting: deque[int] = deque()

    @property
    def opens_ns(self) -> int:
        return self._full_ns - self._burst_ns

    def charge(self, now: int, pages: int, *, write: int) -> None:
        cost = self._bucket.write_cost if write else self._bucket.read_cost
        self._full_ns = max(self._full_ns, now) + pages * cost * 1_000_000 // self._bucket.per_ms


class Simulator:
    """One run. `run` simulates all requests to their end, or to the flows' own."""

    def __init__(self, scenario: Scenario) -> None:
        scenario.check()
        self._scenario = scenario
        self._layout = lay_out(scenario)
        self._clock = Clock()
        self._link = scenario.device.link
        self._up, self._down = Direction(self._clock), Direction(self._clock)
        self._mapping = Mapping(scenario, self._layout, lambda pool: self._collector.check(pool))
        self._back_end = BackEnd(scenario, self._clock, self._mapping, self._operation_done)
        self._collector = Collector(scenario, self._mapping, self._back_end, self._unlocked, self._roomier)
        self._lenders = [Lender(lending, self._mapping) for lending in scenario.lending]
        self._sectors = scenario.device.geometry.sectors_per_page
        buckets = scenario.buckets or (None,) * len(scenario.tenants)
        self._gates = [Gate(bucket) if bucket else None for bucket in buckets]
        self._blocked: list[Operation] = []
        self._sources: list[Source] = []
        self._flow_of: list[int] = []
        for number, flow in enumerate(scenario.flows):
            self._sources.append(Source(flow, len(self._flow_of)))
            self._flow_of += [number] * len(flow.writes)
        self._arrived = [-1] * len(self._flow_of)
        self._done = [-1] * len(self._flow_of)
        self._parts = [0] * len(self._flow_of)
        self._programs = [0] * len(scenario.tenants)

    def run(self) -> Result:
        for number, source in enumerate(self._sources):
            self._begin(number, source.flow)
        self._clock.run()
        erases = [0] * self._scenario.device.geometry.plane_count
        for block, state in enumerate(self._mapping.blocks):
            erases[block // self._scenario.device.geometry.blocks] += state.erases
        return Result(
            self._arrived,
            self._done,
            [source.first for source in self._sources],
            self._clock.now,
            [channel.busy_ns for channel in self._back_end.channels],
            [die.busy_ns for die in self._back_end.dies],
            self._programs,
            self._collector.moves,
            erases,
            sum(lender.pages for lender in self._lenders),
            max((lender.return_ns for lender in self._lenders), default=0),
            self._clock.events,
        )

    # --- the host

    def _begin(self, number: int, flow: Flow) -> None:
        if not len(flow.writes):
            return
        if len(flow.arrivals_ns):
            self._clock.at(flow.arrivals_ns[0], lambda: self._arrive(number))
        else:
            self._clock.at(1, lambda: self._fill(number))

    def _arrive(self, number: int) -> None:
        source = self._sources[number]
        self._submit(number)
        if source.at < len(source.flow.writes):
            self._clock.at(source.flow.arrivals_ns[source.at], lambda: self._arrive(number))

    def _fill(self, number: int) -> None:
        for _ in range(self._sources[number].flow.depth):
            self._next(number)

    def _next(self, number: int) -> None:
        """The next request of a flow with a depth, now or when it has rested."""
        flow, now = self._sources[number].flow, self._clock.now
        if self._sources[number].at >= len(flow.writes) or (flow.stop_ns and now > flow.stop_ns):
            return
        period = flow.on_ns + flow.off_ns
        if flow.on_ns and now % period >= flow.on_ns:
            self._clock.at(now - now % period + period, lambda: self._next(number))
        else:
            self._submit(number)

    def _submit(self, number: int) -> None:
        source = self._sources[number]
        request = source.first + source.at
        source.at += 1
        self._arrived[request] = self._clock.now
        self._down.send(self._link.doorbell_ns, lambda: self._doorbell(request))

    def _completed(self, request: int) -> None:
        self._done[request] = self._clock.now
        self._down.send(self._link.doorbell_ns, lambda: None)
        number = self._flow_of[request]
        if self._sources[number].flow.depth:
            self._next(number)

    # --- the way in

    def _doorbell(self, request: int) -> None:
        source = self._sources[self._flow_of[request]]
        if source.fetched < self._scenario.fetch_limit:
            self._fetch(source, request)
        else:
            source.backlog.append(request)

    def _fetch(self, source: Source, request: int) -> None:
        source.fetched += 1
        took = self._link.message_ns(self._link.submission_bytes)
        self._up.send(self._link.read_request_ns, lambda: self._down.send(took, lambda: self._submission(request)))

    def _submission(self, request: int) -> None:
        """The device knows what is wanted; data of a write is still to be fetched."""
        self._recall(self._tenant_of(request))
        write, _, count = self._request(request)
        if write:
            took = self._link.message_ns(count * SECTOR_BYTES)
            self._up.send(self._link.read_request_ns, lambda: self._down.send(took, lambda: self._admit(request)))
        else:
            self._admit(request)

    def _admit(self, request: int) -> None:
        """To the flash, as soon as the tenant's bucket allows."""
        gate = self._gates[self._tenant_of(request)]
        if gate is None:
            self._dispatch(request)
        elif gate.waiting or self._clock.now < gate.opens_ns:
            gate.waiting.append(request)
            if len(gate.waiting) == 1:
                self._clock.at(gate.opens_ns, lambda: self._open(gate))
        else:
            self._pass(gate, request)

    def _open(self, gate: Gate) -> None:
        while gate.waiting and self._clock.now >= gate.opens_ns:
            self._pass(gate, gate.waiting.popleft())
        if gate.waiting:
            self._clock.at(gate.opens_ns, lambda: self._open(gate))

    def _pass(self, gate: Gate, request: int) -> None:
        write, sector, count = self._request(request)
        pages = (sector + count - 1) // self._sectors - sector // self._sectors + 1
        gate.charge(self._clock.now, pages, write=write)
        self._dispatch(request)

    def _dispatch(self, request: int) -> None:
        """Cut into pages; each goes to its die."""
        write, sector, count = self._request(request)
        tenant = self._tenant_of(request)
        parts: list[Operation] = []
        while count > 0:
            page, offset = divmod(sector, self._sectors)
            size = min(count, self._sectors - offset)
            kind = Kind.WRITE if write else Kind.READ
            logical = self._layout.first_page[tenant] + page
            mask = ((1 << size) - 1) << offset
            parts.append(Operation(kind, tenant, request, logical, -1, size * SECTOR_BYTES, mask))
            sector, count = sector + size, count - size
        self._parts[request] = len(parts)
        self._queue([part for part in parts if self._translate(part)])

    # --- where pages are

    def _queue(self, operations: list[Operation]) -> None:
        touched: set[int] = set()
        for operation in operations:
            self._back_end.queue(operation)
            touched.add(self._back_end.channel_of(operation.page))
            if operation.then is not None:
                self._back_end.queue(operation.then)
                touched.add(self._back_end.channel_of(operation.then.page))
                operation.then = None
        for channel in sorted(touched):
            self._back_end.kick(channel)

    def _translate(self, operation: Operation) -> bool:
        """Find or give it its page; False when it has to wait for one."""
        if operation.logical in self._collector.locked:
            self._blocked.append(operation)
            return False
        if operation.kind is Kind.READ:
            operation.page = self._page_to_read(operation)
            self._mapping.block_of(operation.page).reads += 1
            return True
        slot = self._slot(operation)
        pool = self._mapping.pools[self._mapping.pool_of(slot)]
        if len(pool.free) < self._layout.pools[self._mapping.pool_of(slot)].stop:
            pool.waiting.append(operation)
            self._collector.check_stalled(self._mapping.pool_of(slot))
            return False
        self._replace(operation)
        self._put(operation, slot)
        return True

    def _page_to_read(self, operation: Operation) -> int:
        """A page that was never written is read as if it had been: it gets a place."""
        page = self._mapping.physical.get(operation.logical)
        if page is not None:
            return page
        slot = self._mapping.home(operation.tenant, operation.logical)
        pool = self._layout.pools[self._mapping.pool_of(slot)]
        if self._mapping.free(slot) <= pool.stop:
            return self._mapping.open[slot] * self._mapping.pages_per_block
        page = self._mapping.place(operation.logical, slot, move=False)
        self._mapping.mask[operation.logical] = operation.mask
        self._mapping.advance(slot, move=False)
        return page

    def _slot(self, operation: Operation) -> int:
        for lender in self._lenders:
            slot = lender.slot(operation.tenant, self._clock.now)
            if slot >= 0:
                return slot
        return self._mapping.home(operation.tenant, operation.logical)

    def _replace(self, operation: Operation) -> None:
        """What the page held is stale; what the write leaves of it is read first."""
        old = self._mapping.physical.get(operation.logical)
        if old is None:
            return
        kept = self._mapping.mask[operation.logical] & ~operation.mask
        if kept:
            size = kept.bit_count() * SECTOR_BYTES
            update = Operation(Kind.UPDATE, operation.tenant, -1, operation.logical, old, size, then=operation)
            self._mapping.block_of(old).reads += 1
            operation.ready, operation.then = False, update
        self._mapping.drop(old)

    def _put(self, operation: Operation, slot: int) -> None:
        logical = operation.logical
        operation.page = self._mapping.place(logical, slot, move=False)
        self._mapping.mask[logical] = self._mapping.mask.get(logical, 0) | operation.mask
        self._mapping.block_of(operation.page).programs += 1
        self._mapping.advance(slot, move=False)

    # --- the way out

    def _operation_done(self, operation: Operation) -> None:
        for lender in self._lenders:
            lender.ended(operation, self._clock.now)
        match operation.kind:
            case Kind.READ:
                self._collector.read_done(operation.page)
                self._part_done(operation.request)
            case Kind.UPDATE:
                self._collector.read_done(operation.page)
                if operation.then is not None:
                    operation.then.ready = True
                    self._back_end.kick(self._back_end.channel_of(operation.then.page))
            case Kind.WRITE:
                self._mapping.block_of(operation.page).programs -= 1
                self._programs[operation.tenant] += 1
                block = operation.page // self._mapping.pages_per_block
                self._collector.check_stalled(self._mapping.pool_of_block[block])
                self._part_done(operation.request)
            case _:
                self._collector.done(operation)

    def _part_done(self, request: int) -> None:
        self._parts[request] -= 1
        if self._parts[request]:
            return
        source = self._sources[self._flow_of[request]]
        source.fetched -= 1
        for lender in self._lenders:
            lender.finished(self._tenant_of(request), self._clock.now)
        write, _, count = self._request(request)
        if not write:
            self._up.send(self._link.message_ns(count * SECTOR_BYTES), lambda: None)
        if source.backlog:
            self._fetch(source, source.backlog.popleft())
        self._up.send(self._link.message_ns(self._link.completion_bytes), lambda: self._completed(request))

    def _unlocked(self, logical: int) -> None:
        if any(operation.logical == logical for operation in self._blocked):
            waiting = [operation for operation in self._blocked if operation.logical == logical]
            self._blocked = [operation for operation in self._blocked if operation.logical != logical]
            self._queue([operation for operation in waiting if self._translate(operation)])

    def _roomier(self, pool: int) -> None:
        """A block became free: writes that waited for it go on, as many as there is room for."""
        waiting = self._mapping.pools[pool].waiting
        ready: list[Operation] = []
        for _ in range(len(waiting)):
            if len(self._mapping.pools[pool].free) < self._layout.pools[pool].stop:
                break
            operation = waiting.popleft()
            if self._translate(operation):
                ready.append(operation)
        self._queue(ready)

    # --- lending

    def _recall(self, tenant: int) -> None:
        """A tenant that has lent its dies wants them: what waits there for the borrower goes home."""
        for lender in self._lenders:
            if not lender.wanted(tenant, self._clock.now):
                continue
            moved: list[Operation] = []
            for operation in lender.take_back(self._back_end):
                self._mapping.block_of(operation.page).programs -= 1
                self._mapping.drop(operation.page)
                del self._mapping.physical[operation.logical]
                if self._translate(operation):
                    moved.append(operation)
            self._queue(moved)

    def _tenant_of(self, request: int) -> int:
        return self._sources[self._flow_of[request]].flow.tenant

    def _request(self, request: int) -> tuple[int, int, int]:
        source = self._sources[self._flow_of[request]]
        at = request - source.first
        return source.flow.writes[at], source.flow.sectors[at], source.flow.counts[at]


def simulate(scenario: Scenario) -> Result:
    """Run the scenario to its end.

    :raise UsageError: it cannot be simulated.
    """
    return Simulator(scenario).run()
