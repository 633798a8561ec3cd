"""Garbage collection: empties blocks whose pages are partly stale, and erases them.

It begins when a block was filled and the pool has few free ones left, one block for each that is filled; so a
collection whose moves fill a block begins another one before it has ended. What it moves goes to its tenant's open
block for moves; the tenant's own requests for such a page wait until it has arrived.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ringfence.flash.draw import Draw
from ringfence.flash.reference.back_end import BackEnd
from ringfence.flash.reference.mapping import Block, Kind, Mapping, Operation
from ringfence.flash.scenario import Collector as Policy
from ringfence.flash.scenario import Scenario

ROOM_AT_HOME = 4
"""Free blocks of each of a borrower's planes without which nothing is sent home: what comes is spread over
them."""


class Collector:
    """:param unlocked: called with the logical page when a move has ended.
    :param roomier: called with the number of a pool that has a block more.
    """

    def __init__(
        self,
        scenario: Scenario,
        mapping: Mapping,
        back_end: BackEnd,
        unlocked: Callable[[int], None],
        roomier: Callable[[int], None],
    ) -> None:
        self._device = scenario.device
        self._policy = scenario.collector
        self._lending = bool(scenario.lending)
        self._mapping = mapping
        self._back_end = back_end
        self._unlocked = unlocked
        self._roomier = roomier
        self._draw = Draw(1)
        self._choices = max(2, scenario.device.geometry.blocks.bit_length() - 1)
        self.locked: set[int] = set()
        self.moves = [0] * len(scenario.tenants)

    def check(self, pool: int) -> None:
        """Begin to collect a block if the pool needs it."""
        state, plan = self._mapping.pools[pool], self._mapping.layout.pools[pool]
        if len(state.free) >= plan.start or state.collecting >= self._device.gc_parallel:
            return
        if state.collecting and len(state.free) <= state.collecting:
            return  # what is under way may need them all
        victim = self._victim(pool)
        if victim < 0:
            return
        block = self._mapping.blocks[victim]
        if self._mapping.open[block.slot] == victim:
            self._mapping.open[block.slot] = -1
        block.collected = True
        state.collecting += 1
        self.locked.update(self._mapping.logical[page] for page in self._valid(victim))
        if not block.reads:
            self._begin(victim)

    def check_stalled(self, pool: int) -> None:
        """Writes may wait for a block while nothing is collected: there was nothing to take, and now may be."""
        state = self._mapping.pools[pool]
        if state.waiting and not state.collecting:
            self.check(pool)

    def read_done(self, page: int) -> None:
        """A tenant's read of the page has ended: a collection may have waited for it."""
        block = self._mapping.block_of(page)
        block.reads -= 1
        if block.collected and not block.moving and not block.reads:
            self._begin(page // self._mapping.pages_per_block)

    def done(self, operation: Operation) -> None:
        """A collection's own operation has ended."""
        match operation.kind:
            case Kind.MOVE_READ:
                self._write(operation)
            case Kind.MOVE_WRITE:
                self._moved(operation)
            case _:
                self._erased(operation)

    def _valid(self, number: int) -> list[int]:
        first = number * self._mapping.pages_per_block
        pages = range(first, first + self._mapping.blocks[number].written)
        return [page for page in pages if page in self._mapping.logical]

    def _begin(self, number: int) -> None:
        block = self._mapping.blocks[number]
        block.moving = True
        tenant = self._mapping.layout.slots[block.slot][0]
        size = self._device.geometry.page_bytes
        pages = self._valid(number)
        for page in pages:
            logical = self._mapping.logical[page]
            self._back_end.queue(Operation(Kind.MOVE_READ, tenant, -1, logical, page, size, block=number))
        block.left = len(pages)
        first = number * self._mapping.pages_per_block
        erase = Operation(Kind.ERASE, tenant, -1, -1, first, 0, ready=not pages, block=number)
        block.erase = erase
        if not self._lent(block) or erase.ready:
            self._back_end.queue(erase)
        self._back_end.kick(self._back_end.channel_of(first))

    def _lent(self, block: Block) -> bool:
        return block.slot not in self._mapping.layout.stripes[self._mapping.layout.slots[block.slot][0]]

    def _write(self, operation: Operation) -> None:
        """What was read goes to the tenant's open block: of the same plane, or at home if it had borrowed."""
        block = self._mapping.blocks[operation.block]
        lent = self._lent(block)
        slot = self._mapping.home(operation.tenant, operation.logical) if lent else block.slot
        self._mapping.drop(operation.page)
        page = self._mapping.place(operation.logical, slot, move=True)
        self._mapping.block_of(page).programs += 1
        self._mapping.advance(slot, move=True)
        operation.kind, operation.page = Kind.MOVE_WRITE, page
        self._back_end.queue(operation)
        if lent:
            self._back_end.kick(self._back_end.channel_of(page))

    def _moved(self, operation: Operation) -> None:
        self.moves[operation.tenant] += 1
        self._mapping.block_of(operation.page).programs -= 1
        self.locked.discard(operation.logical)
        block = self._mapping.blocks[operation.block]
        block.left -= 1
        erase = block.erase
        if not block.left and erase is not None:
            erase.ready = True
            if self._lent(block):
                self._back_end.queue(erase)
                self._back_end.kick(self._back_end.channel_of(erase.page))
        self._unlocked(operation.logical)

    def _erased(self, operation: Operation) -> None:
        pool = self._mapping.pool_of_block[operation.block]
        self._mapping.erased(operation.block)
        state = self._mapping.pools[pool]
        state.collecting -= 1
        self._roomier(pool)
        if len(state.free) < self._mapping.layout.pools[pool].stop:
            self.check(pool)
        if self._lending:
            for other in range(len(self._mapping.pools)):  # what was lent may have waited for room at home
                self.check_stalled(other)

    def _victim(self, pool: int) -> int:
        """The block to collect next, -1 when there is none. What was lent is taken back before all else."""
        plan = self._mapping.layout.pools[pool]
        everything = range(plan.first, plan.first + plan.blocks)
        if self._policy is Policy.CHOICES:
            drawn = self._best([plan.first + self._draw.below(plan.blocks) for _ in range(self._choices)])
            if drawn >= 0:
                return drawn
        return self._best(everything)

    def _best(self, candidates: Iterable[int]) -> int:
        best, best_key = -1, 0
        for number in candidates:
            block = self._mapping.blocks[number]
            if self._takes(block) and (best < 0 or self._key(block) < best_key):
                best, best_key = number, self._key(block)
        return best

    def _takes(self, block: Block) -> bool:
        if block.slot < 0 or block.programs or block.collected:
            return False
        if self._lent(block):
            return block.written > 0 and self._room_at_home(block.slot)
        return block.written == self._mapping.pages_per_block and block.stale > 0

    def _room_at_home(self, slot: int) -> bool:
        """Nothing else of that pool is being sent home, and the borrower has blocks for it."""
        tenant, pool = self._mapping.layout.slots[slot]
        if self._mapping.pools[pool].collecting:
            return False
        pools = [self._mapping.pool_of(own) for own in self._mapping.layout.stripes[tenant]]
        plans = self._mapping.layout.pools
        return all(len(self._mapping.pools[own].free) >= min(ROOM_AT_HOME, plans[own].start - 1) for own in pools)

    def _key(self, block: Block) -> int:
        """The least is collected first."""
        if self._lent(block):
            return block.written - block.stale - self._mapping.pages_per_block
        return block.filled if self._policy is Policy.FIFO else block.written - block.stale
