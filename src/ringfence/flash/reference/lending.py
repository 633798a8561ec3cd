"""Idle dies of one tenant take writes of another.

The lender has them back at once when it asks for something: what waits there for the borrower is given other
places,
at the borrower's home; only what a die already does is waited for. What the borrower has written there stays, as
blocks of its own in the lender's pool, until the lender's collection needs the room and sends it home.
"""

from __future__ import annotations

from ringfence.flash.reference.back_end import BackEnd
from ringfence.flash.reference.mapping import Kind, Mapping, Operation
from ringfence.flash.scenario import Lending


class Lender:
    """:param pages: written by the borrower; :param return_ns: see `Result`."""

    def __init__(self, lending: Lending, mapping: Mapping) -> None:
        self._lending, self._mapping = lending, mapping
        layout = mapping.layout
        self._slots = layout.lent_slots(lending)
        planes = sorted({layout.pools[layout.slots[slot][1]].plane for slot in self._slots})
        self._dies = sorted({plane // mapping.planes_per_die for plane in planes})
        self._reserve = layout.lent_reserves(lending)
        self._home = len(layout.stripes[lending.borrower])
        self._under_way = 0
        self._idle_since = 0
        self._recalled_at = -1
        self._turn = 0
        self.pages = 0
        self.return_ns = 0

    def slot(self, tenant: int, now: int) -> int:
        """Where the borrower's next write goes; -1 is home. Homes and lent places take turns."""
        if tenant != self._lending.borrower or self._under_way:
            return -1
        if now - self._idle_since < self._lending.idle_ns:
            return -1
        turn = self._turn % (self._home + len(self._slots)) - self._home
        self._turn += 1
        if turn < 0 or self._mapping.free(self._slots[turn]) <= self._reserve[turn]:
            return -1
        self.pages += 1
        return self._slots[turn]

    def wanted(self, tenant: int, now: int) -> bool:
        """A request of the tenant has come: does that end the lending?"""
        if tenant != self._lending.lender:
            return False
        self._under_way += 1
        if self._under_way > 1:
            return False
        self._recalled_at = now
        return True

    def finished(self, tenant: int, now: int) -> None:
        """A request of the tenant has been served."""
        if tenant == self._lending.lender:
            self._under_way -= 1
            self._idle_since = now

    def take_back(self, back_end: BackEnd) -> list[Operation]:
        """What the borrower has waiting on the lender's dies, except what a later write has already replaced."""
        taken: list[Operation] = []
        for number in self._dies:
            die = back_end.dies[number]
            for operation in die.writes.recall(self._lending.borrower):
                if self._mapping.physical.get(operation.logical) == operation.page:
                    taken.append(operation)
                else:
                    back_end.queue(operation)
        return taken

    def ended(self, operation: Operation, now: int) -> None:
        """An operation has ended: if it was the borrower's on a lent die, the lender may have waited for it."""
        if operation.tenant != self._lending.borrower or operation.kind is not Kind.WRITE:
            return
        if self._under_way and self._mapping.die_of(operation.page) in self._dies:
            self.return_ns = max(self.return_ns, now - self._recalled_at)
