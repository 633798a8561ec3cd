"""Idle dies of one tenant take writes of another: `reference.lending`."""

from __future__ import annotations

from ringfence.flash.compiled import fields as f
from ringfence.flash.compiled.dies import queue, waiting_at
from ringfence.flash.compiled.lists import Memory, compiled


@compiled
def lend_at(m: Memory, number: int) -> int:
    return int(m[f.LEND_AT] + number * f.L_N)


@compiled
def lent_place(m: Memory, tenant: int) -> int:
    for number in range(m[f.LENDS]):
        slot = place_with(m, lend_at(m, number), tenant)
        if slot != 0:
            return slot
    return 0


@compiled
def place_with(m: Memory, lend: int, tenant: int) -> int:
    if tenant != m[lend + f.L_BORROWER] or m[lend + f.L_UNDER_WAY] > 0:
        return 0
    if m[f.NOW] - m[lend + f.L_IDLE_SINCE] < m[lend + f.L_IDLE]:
        return 0
    turn = m[lend + f.L_TURN] % (m[lend + f.L_HOME] + m[lend + f.L_SLOT_N]) - m[lend + f.L_HOME]
    m[lend + f.L_TURN] += 1
    if turn < 0:
        return 0
    slot = m[m[lend + f.L_SLOTS] + turn]
    if m[m[slot + f.S_POOL] + f.P_FREE_N] <= m[slot + f.S_RESERVE]:
        return 0
    m[lend + f.L_PAGES] += 1
    return int(slot)


@compiled
def wanted(m: Memory, lend: int, tenant: int) -> bool:
    if tenant != m[lend + f.L_LENDER]:
        return False
    m[lend + f.L_UNDER_WAY] += 1
    if m[lend + f.L_UNDER_WAY] > 1:
        return False
    m[lend + f.L_RECALLED] = m[f.NOW]
    return True


@compiled
def finished(m: Memory, tenant: int) -> None:
    for number in range(m[f.LENDS]):
        lend = lend_at(m, number)
        if m[lend + f.L_LENDER] == tenant:
            m[lend + f.L_UNDER_WAY] -= 1
            m[lend + f.L_IDLE_SINCE] = m[f.NOW]


@compiled
def take_back(m: Memory, lend: int) -> int:
    """Head of the chain, through O_LATER, of what goes home."""
    first = last = 0
    borrower = m[m[lend + f.L_BORROWER] + f.T_NUMBER]
    for number in range(m[f.DIES]):
        if m[m[lend + f.L_DIES] + number] == 0:
            continue
        die = m[f.DIE_AT] + number * m[f.DIE_SIZE]
        head = waiting_at(m, die, 1, borrower)
        row = m[head]
        m[head] = 0
        while row != 0:
            after = m[row + f.O_NEXT]
            m[die + f.D_WRITES] -= 1
            if m[m[f.PHYSICAL_AT] + m[row + f.O_LOGICAL]] == m[row + f.O_PAGE] + 1:
                first, last = chain(m, first, last, row)
            else:
                queue(m, row)
            row = after
    return int(first)


@compiled
def chain(m: Memory, first: int, last: int, row: int) -> tuple[int, int]:
    """Put an operation behind the last one of a chain through O_LATER; returns its head and tail."""
    m[row + f.O_LATER] = 0
    if first == 0:
        return row, row
    m[last + f.O_LATER] = row
    return first, row


@compiled
def ended(m: Memory, row: int) -> None:
    if m[row + f.O_KIND] != f.WRITE:
        return
    for number in range(m[f.LENDS]):
        lend = lend_at(m, number)
        if m[lend + f.L_BORROWER] != m[row + f.O_TENANT] or m[lend + f.L_UNDER_WAY] == 0:
            continue
        die = (m[row + f.O_DIE] - m[f.DIE_AT]) // m[f.DIE_SIZE]
        if m[m[lend + f.L_DIES] + die] > 0:
            m[lend + f.L_RETURN] = max(m[lend + f.L_RETURN], m[f.NOW] - m[lend + f.L_RECALLED])
