"""The blocks of one die in the live model: where pages are, which block is collected next, what is saved."""

from __future__ import annotations

from array import array
from collections import deque

PoolState = dict[str, list[int]]


class Pool:
    """The blocks of one die that are collected together, and what lies in them.

    :ivar erases: of each block, so far.
    :ivar place: of each logical page in this pool, the page that holds it, -1 where it was never written.
    """

    def __init__(self, die: int, blocks: int, pages: int) -> None:
        self.die, self.pages = die, pages
        self.erases = array("q", [0]) * blocks
        self.place: dict[int, int] = {}
        self.owner: dict[int, int] = {}
        self.valid = array("q", [0]) * blocks
        self.free = deque(range(1, blocks))
        self.open, self.written = 0, 0
        self.collecting: int | None = None
        self.waiting: deque[tuple[int, int]] = deque()  # logical page and request, until there is a free page

    def take(self, logical: int) -> int:
        """The next free page, for that logical page; its old one is stale. There must be one: see `has_room`."""
        if self.written == self.pages:
            self.open, self.written = self.free.popleft(), 0
        page = self.open * self.pages + self.written
        self.written += 1
        self.drop(logical)
        self.place[logical] = page
        self.owner[page] = logical
        self.valid[self.open] += 1
        return page

    def drop(self, logical: int) -> None:
        """What the page held is of no use any more."""
        old = self.place.pop(logical, None)
        if old is not None:
            del self.owner[old]
            self.valid[old // self.pages] -= 1

    def has_room(self, reserve: int) -> bool:
        return self.written < self.pages or len(self.free) > reserve

    def victim(self) -> int | None:
        """The block with the fewest pages in use, of those written to the end; of equals the least worn."""
        free = set(self.free)
        candidates = [n for n in range(len(self.erases)) if n != self.open and n not in free]
        best = min(candidates, key=lambda n: (self.valid[n], self.erases[n]), default=None)
        return best if best is not None and self.valid[best] < self.pages else None

    def pages_in(self, block: int) -> list[int]:
        first = block * self.pages
        return [page for page in range(first, first + self.pages) if page in self.owner]

    def state(self) -> PoolState:
        """Where pages are and how worn blocks are, as JSON takes it. Work under way is not in it."""
        return {
            "erases": list(self.erases),
            "logical": list(self.place),
            "page": list(self.place.values()),
            "open": [self.open, self.written],
            "free": list(self.free),
        }

    def check(self, state: PoolState) -> None:
        """:raise ValueError: the state is none of a pool like this one; `KeyError` and `TypeError` likewise."""
        blocks, pages = len(self.erases), len(self.erases) * self.pages
        opened, written = state["open"]
        held = set(state["page"])
        if len(state["erases"]) != blocks or not 0 <= opened < blocks or not 0 <= written <= self.pages:
            raise ValueError("another number of blocks")
        if len(state["logical"]) != len(state["page"]) or len(held) != len(state["page"]):
            raise ValueError("two pages in one place")
        if not held <= set(range(pages)) or not set(state["free"]) <= set(range(blocks)):
            raise ValueError("a page beyond the end")

    def restore(self, state: PoolState) -> None:
        """Take a state that `check` found to be one of this pool's."""
        self.erases = array("q", state["erases"])
        self.place = dict(zip(state["logical"], state["page"], strict=True))
        self.owner = {page: logical for logical, page in self.place.items()}
        self.valid = array("q", [0]) * len(self.erases)
        for page in self.owner:
            self.valid[page // self.pages] += 1
        self.open, self.written = state["open"]
        in_use = {page // self.pages for page in self.owner} | {self.open}
        self.free = deque(n for n in state["free"] if n not in in_use)
        # A block that was being collected holds nothing and is not free: its erase was cut off, and is done now.
        for block in sorted(set(range(len(self.erases))) - in_use - set(self.free)):
            self.erases[block] += 1
            self.free.append(block)
        self.collecting = None
        self.waiting.clear()
