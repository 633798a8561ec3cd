"""Buses and dies: what each does, and who is next when it is free.

A read holds the bus for its command, the die until it is ready, and the bus again for its data, for which the die
waits. A program holds the bus for command and data, then the die. When a bus becomes free, data that waits goes
first, tenants' before collections'; else its dies take turns, and each prefers reads to writes to erases.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ringfence.flash.geometry import Device, page_kind
from ringfence.flash.reference.link import Clock
from ringfence.flash.reference.mapping import Kind, Mapping, Operation
from ringfence.flash.scenario import Scenario

FAIR_UNIT = 1 << 10
"""Weights divide the time that is charged: this keeps the fraction."""


class Waiting:
    """Tenants' operations of one sort for one die: in their order, or by the tenants' weights."""

    def __init__(self, weights: list[int], passes: list[int], *, fair: bool) -> None:
        self._queues: list[deque[Operation]] = [deque() for _ in weights]
        self._weights, self._passes, self._fair = weights, passes, fair
        self.count = 0

    def add(self, operation: Operation, order: int) -> None:
        queue = self._queues[operation.tenant]
        operation.order = order
        queue.append(operation)
        self.count += 1

    def first(self) -> Operation | None:
        """Whose turn it is, of those that are ready."""
        best: Operation | None = None
        for queue in self._queues:
            ready = next((operation for operation in queue if operation.ready), None)
            if ready is not None and (best is None or self._key(ready) < self._key(best)):
                best = ready
        return best

    def _key(self, operation: Operation) -> tuple[int, int]:
        start = max(self._passes[-1], self._passes[operation.tenant]) if self._fair else 0
        return start, operation.order

    def take(self, operation: Operation, cost_ns: int) -> None:
        """It is served now: its tenant has used up that much of its share (start-time fair queueing)."""
        self._queues[operation.tenant].remove(operation)
        self.count -= 1
        if self._fair:
            start, _ = self._key(operation)
            self._passes[-1] = start
            self._passes[operation.tenant] = start + cost_ns * FAIR_UNIT // self._weights[operation.tenant]

    def recall(self, tenant: int) -> list[Operation]:
        """Take back all that a tenant has waiting."""
        taken = list(self._queues[tenant])
        self._queues[tenant].clear()
        self.count -= len(taken)
        return taken


class DieState:
    """:param busy: from the start of a command until the die can take another one."""

    def __init__(self, tenants: list[int], *, fair: bool) -> None:
        passes = [0] * (len(tenants) + 1)  # the last one: of who was served last
        self.reads = Waiting(tenants, passes, fair=fair)
        self.writes = Waiting(tenants, passes, fair=fair)
        self.move_reads: deque[Operation] = deque()
        self.move_writes: deque[Operation] = deque()
        self.erases: deque[Operation] = deque()
        self.doing: Operation | None = None
        self.since = 0
        self.busy_ns = 0


class Channel:
    def __init__(self) -> None:
        self.doing: Operation | None = None
        self.turn = 0
        self.data: deque[Operation] = deque()
        self.moved_data: deque[Operation] = deque()
        self.busy_ns = 0


class BackEnd:
    """:param done: called with each operation that has ended, before its die takes another one."""

    def __init__(
        self, scenario: Scenario, clock: Clock, mapping: Mapping, done: Callable[[Operation], None]
    ) -> None:
        self._device: Device = scenario.device
        self._urgent = scenario.urgent
        self._clock, self._mapping, self._done = clock, mapping, done
        geometry = self._device.geometry
        weights = [tenant.weight for tenant in scenario.tenants]
        self.dies = [DieState(weights, fair=scenario.fair) for _ in range(geometry.die_count)]
        self.channels = [Channel() for _ in range(geometry.channels)]
        self._per_channel = geometry.dies_per_channel
        self._pools_of_die: list[list[int]] = [[] for _ in self.dies]
        for number, pool in enumerate(mapping.layout.pools):
            self._pools_of_die[pool.plane // geometry.planes].append(number)
        self._order = 0

    def channel_of(self, page: int) -> int:
        return self._mapping.die_of(page) // self._per_channel

    def queue(self, operation: Operation) -> None:
        """Have it wait for its die; `kick` lets it begin."""
        die = self.dies[self._mapping.die_of(operation.page)]
        match operation.kind:
            case Kind.READ | Kind.UPDATE:
                die.reads.add(operation, self._order)
            case Kind.WRITE:
                die.writes.add(operation, self._order)
            case Kind.MOVE_READ:
                die.move_reads.append(operation)
            case Kind.MOVE_WRITE:
                die.move_writes.append(operation)
            case Kind.ERASE:
                die.erases.append(operation)
        self._order += 1

    def kick(self, number: int) -> None:
        """If the bus is free, ask its dies in turn until one begins."""
        channel = self.channels[number]
        if channel.doing is not None:
            return
        for _ in range(self._per_channel):
            self._next_of(number * self._per_channel + channel.turn)
            channel.turn = (channel.turn + 1) % self._per_channel
            if channel.doing is not None:
                return

    def _next_of(self, number: int) -> None:
        die = self.dies[number]
        if die.doing is not None:
            return
        operation = self._pick(die, urgent=self._is_urgent(number))
        if operation is not None:
            self._start(operation, number)

    def _is_urgent(self, number: int) -> bool:
        if self._urgent:
            return True
        pools = self._mapping.layout.pools
        return any(len(self._mapping.pools[p].free) < pools[p].urgent for p in self._pools_of_die[number])

    def _pick(self, die: DieState, *, urgent: bool) -> Operation | None:
        collecting = bool(die.move_writes or die.erases)
        if urgent:
            if die.move_reads:
                return die.move_reads.popleft()
            if die.reads.count and not collecting:
                return self._serve(die.reads)
            if die.move_writes:
                return die.move_writes.popleft()
            if die.writes.count and not die.erases:
                return self._serve(die.writes)
        else:
            if die.reads.count:
                return self._serve(die.reads)
            if die.writes.count:
                return self._serve(die.writes)
            if die.move_reads:
                return die.move_reads.popleft()
            if die.move_writes:
                return die.move_writes.popleft()
        erase = next((operation for operation in die.erases if operation.ready), None)
        if erase is not None:
            die.erases.remove(erase)
        return erase

    def _serve(self, waiting: Waiting) -> Operation | None:
        operation = waiting.first()
        if operation is not None:
            waiting.take(operation, self._cost_ns(operation))
        return operation

    def _cost_ns(self, operation: Operation) -> int:
        """Time of the die that it takes."""
        return self._die_ns(operation) + self._device.timing.transfer_ns(operation.size_bytes)

    def _die_ns(self, operation: Operation) -> int:
        timing = self._device.timing
        page = operation.page % self._device.geometry.pages
        match operation.kind:
            case Kind.WRITE | Kind.MOVE_WRITE:
                return timing.program_ns[page_kind(page, len(timing.program_ns))]
            case Kind.ERASE:
                return timing.erase_ns
            case _:
                return timing.read_ns[page_kind(page, len(timing.read_ns))] + timing.read_ready_ns

    def _command_ns(self, operation: Operation) -> int:
        timing = self._device.timing
        match operation.kind:
            case Kind.WRITE | Kind.MOVE_WRITE:
                return timing.program_command_ns + timing.transfer_ns(operation.size_bytes)
            case Kind.ERASE:
                return timing.erase_command_ns
            case _:
                return timing.read_command_ns

    def _start(self, operation: Operation, number: int) -> None:
        die = self.dies[number]
        die.doing, die.since = operation, self._clock.now
        self._hold_bus(operation, self._command_ns(operation), lambda: self._command_sent(operation, number))

    def _hold_bus(self, operation: Operation, duration_ns: int, then: Callable[[], None]) -> None:
        channel = self.channels[self.channel_of(operation.page)]
        channel.doing = operation
        channel.busy_ns += duration_ns
        self._clock.at(self._clock.now + duration_ns, then)

    def _command_sent(self, operation: Operation, number: int) -> None:
        self._clock.at(self._clock.now + self._die_ns(operation), lambda: self._die_ready(operation, number))
        self._free_bus(self.channel_of(operation.page))

    def _die_ready(self, operation: Operation, number: int) -> None:
        channel = self.channels[self.channel_of(operation.page)]
        if operation.kind in (Kind.READ, Kind.UPDATE, Kind.MOVE_READ):
            if channel.doing is None:
                self._send_data(operation, number)
            elif operation.kind is Kind.MOVE_READ:
                channel.moved_data.append(operation)
            else:
                channel.data.append(operation)
            return
        self._end(operation, number)
        if channel.doing is None:
            self.kick(number // self._per_channel)

    def _send_data(self, operation: Operation, number: int) -> None:
        duration = self._device.timing.transfer_ns(operation.size_bytes)
        self._hold_bus(operation, duration, lambda: self._data_sent(operation, number))

    def _data_sent(self, operation: Operation, number: int) -> None:
        channel = number // self._per_channel
        self._end(operation, number)
        self._free_bus(channel)

    def _end(self, operation: Operation, number: int) -> None:
        die = self.dies[number]
        self._done(operation)
        die.doing = None
        die.busy_ns += self._clock.now - die.since

    def _free_bus(self, number: int) -> None:
        channel = self.channels[number]
        channel.doing = None
        waiting = channel.data or channel.moved_data
        if waiting:
            operation = waiting.popleft()
            self._send_data(operation, self._mapping.die_of(operation.page))
        else:
            self.kick(number)
