"""Where pages are. Blocks are written in the order in which they became free, page by page."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum

from ringfence.flash.scenario import Layout, Scenario


class Kind(IntEnum):
    """What a die is asked to do."""

    READ = 0
    WRITE = 1
    UPDATE = 2  # read of what a write does not replace of a page
    MOVE_READ = 3
    MOVE_WRITE = 4
    ERASE = 5


@dataclass(slots=True, eq=False)
class Operation:
    """One thing for one die.

    :param page: where in the flash; of a MOVE_WRITE, where to. :param logical: page of the tenant, over all
        tenants.
    :param ready: False while an UPDATE must be done before.
    :param then: of a WRITE, the UPDATE that it needs and that is not yet queued; of an UPDATE, its WRITE.
    :param block: of a move, the block that is being emptied; :param order: in which it was queued.
    """

    kind: Kind
    tenant: int
    request: int
    logical: int
    page: int
    size_bytes: int
    mask: int = 0
    ready: bool = True
    then: Operation | None = None
    block: int = -1
    order: int = 0


@dataclass(slots=True)
class Block:
    """:param written: pages so far; :param slot: whose it is, -1 while it is free.
    :param reads: of tenants under way; :param programs: under way.
    """

    slot: int = -1
    written: int = 0
    stale: int = 0
    erases: int = 0
    reads: int = 0
    programs: int = 0
    filled: int = 0
    collected: bool = False
    moving: bool = False
    left: int = 0
    erase: Operation | None = None


@dataclass(slots=True)
class PoolState:
    """:param waiting: writes that came while there were too few free blocks."""

    free: deque[int]
    collecting: int = 0
    waiting: deque[Operation] = field(default_factory=deque)


class Mapping:
    """Logical to physical pages and back.

    :param filled: called with a pool's number when a block of it was filled and another one opened.
    """

    def __init__(self, scenario: Scenario, layout: Layout, filled: Callable[[int], None]) -> None:
        geometry = scenario.device.geometry
        self.layout = layout
        self.pages_per_block = geometry.pages
        self.plane_pages = geometry.blocks * geometry.pages
        self.planes_per_die = geometry.planes
        self.physical: dict[int, int] = {}
        self.logical: dict[int, int] = {}
        self.mask: dict[int, int] = {}
        self.blocks = [Block() for _ in range(geometry.plane_count * geometry.blocks)]
        self.pools = [PoolState(deque(range(pool.first, pool.first + pool.blocks))) for pool in layout.pools]
        self.pool_of_block = {
            block: number
            for number, pool in enumerate(layout.pools)
            for block in range(pool.first, pool.first + pool.blocks)
        }
        self._filled = filled
        self._fills = 0
        self.open = [-1] * len(layout.slots)
        self.open_for_moves = [-1] * len(layout.slots)
        for stripe in layout.stripes:
            for slot in stripe:
                self.open[slot] = self._take(slot)
                self._take(slot)  # what a device keeps of each for its own tables
                self.open_for_moves[slot] = self._take(slot)

    def pool_of(self, slot: int) -> int:
        return self.layout.slots[slot][1]

    def die_of(self, page: int) -> int:
        return page // self.plane_pages // self.planes_per_die

    def block_of(self, page: int) -> Block:
        return self.blocks[page // self.pages_per_block]

    def free(self, slot: int) -> int:
        """Free blocks that the slot's pool has."""
        return len(self.pools[self.pool_of(slot)].free)

    def home(self, tenant: int, logical: int) -> int:
        stripe = self.layout.stripes[tenant]
        return stripe[(logical - self.layout.first_page[tenant]) % len(stripe)]

    def place(self, logical: int, slot: int, *, move: bool) -> int:
        """The next page of the slot's open block, for that logical page."""
        opened = self.open_for_moves if move else self.open
        if opened[slot] < 0:
            opened[slot] = self._take(slot)
        number = opened[slot]
        block = self.blocks[number]
        page = number * self.pages_per_block + block.written
        block.written += 1
        self.physical[logical] = page
        self.logical[page] = logical
        return page

    def advance(self, slot: int, *, move: bool) -> None:
        """Open another block if the last page of the open one was just placed."""
        opened = self.open_for_moves if move else self.open
        block = self.blocks[opened[slot]]
        if block.written < self.pages_per_block:
            return
        self._fills += 1
        block.filled = self._fills
        lent = slot not in self.layout.stripes[self.layout.slots[slot][0]]
        # A borrower opens a block of another's only when it has something to put there.
        opened[slot] = -1 if lent else self._take(slot)
        self._filled(self.pool_of(slot))

    def drop(self, page: int) -> None:
        """What the page holds is stale from now on."""
        del self.logical[page]
        self.block_of(page).stale += 1

    def erased(self, number: int) -> None:
        block = self.blocks[number]
        self.blocks[number] = Block(erases=block.erases + 1)
        self.pools[self.pool_of_block[number]].free.append(number)

    def _take(self, slot: int) -> int:
        number = self.pools[self.pool_of(slot)].free.popleft()  # there is one: `lay_out` and `check` see to that
        self.blocks[number].slot = slot
        return number
