"""Where pages are, and garbage collection: `reference.mapping` and `reference.collector`."""

from __future__ import annotations

from ringfence.flash.compiled import fields as f
from ringfence.flash.compiled.dies import kick, queue
from ringfence.flash.compiled.lists import Memory, append, below, compiled, new_op, take_first
from ringfence.flash.reference.collector import ROOM_AT_HOME

FIFO, CHOICES = 2, 1
"""Numbers of `scenario.Collector`, in its order."""


@compiled
def block_of(m: Memory, page: int) -> int:
    return int(m[f.BLOCK_AT] + page // m[f.PAGES] * f.B_N)


@compiled
def home(m: Memory, tenant: int, logical: int) -> int:
    nth = (logical - m[tenant + f.T_FIRST]) % m[tenant + f.T_STRIPE_N]
    return int(m[m[tenant + f.T_STRIPE] + nth])


@compiled
def take_block(m: Memory, slot: int) -> int:
    pool = m[slot + f.S_POOL]
    if m[pool + f.P_FREE_N] == 0:
        raise IndexError("no free block")
    block = take_first(m, f.B_NEXT, pool + f.P_FREE)
    m[pool + f.P_FREE_N] -= 1
    m[block + f.B_SLOT] = slot
    return block


@compiled
def place(m: Memory, logical: int, slot: int, column: int) -> int:
    """:param column: S_OPEN or S_OPEN_MOVES."""
    if m[slot + column] == 0:
        m[slot + column] = take_block(m, slot)
    block = m[slot + column]
    page = m[block + f.B_PAGE] + m[block + f.B_WRITTEN]
    m[block + f.B_WRITTEN] += 1
    m[m[f.PHYSICAL_AT] + logical] = page + 1
    m[m[f.LOGICAL_AT] + page] = logical + 1
    return int(page)


@compiled
def drop(m: Memory, page: int) -> None:
    m[m[f.LOGICAL_AT] + page] = 0
    m[block_of(m, page) + f.B_STALE] += 1


@compiled
def takes(m: Memory, block: int) -> bool:
    slot = m[block + f.B_SLOT]
    if slot == 0 or m[block + f.B_PROGRAMS] > 0 or m[block + f.B_COLLECTED] > 0:
        return False
    if m[slot + f.S_LENT] > 0:
        return bool(m[block + f.B_WRITTEN] > 0) and room_at_home(m, slot)
    return bool(m[block + f.B_WRITTEN] == m[f.PAGES] and m[block + f.B_STALE] > 0)


@compiled
def room_at_home(m: Memory, slot: int) -> bool:
    if m[m[slot + f.S_POOL] + f.P_COLLECTING] > 0:
        return False
    tenant = m[slot + f.S_TENANT]
    first = m[tenant + f.T_STRIPE]
    for entry in range(first, first + m[tenant + f.T_STRIPE_N]):
        pool = m[m[entry] + f.S_POOL]
        if m[pool + f.P_FREE_N] < min(ROOM_AT_HOME, m[pool + f.P_START] - 1):
            return False
    return True


@compiled
def key(m: Memory, block: int) -> int:
    valid = m[block + f.B_WRITTEN] - m[block + f.B_STALE]
    if m[m[block + f.B_SLOT] + f.S_LENT] > 0:
        return int(valid - m[f.PAGES])
    return int(m[block + f.B_FILLED] if m[f.POLICY] == FIFO else valid)


@compiled
def best_of(m: Memory, pool: int, drawn: int) -> int:
    """:param drawn: how many are drawn by lot; 0 looks at all."""
    first, blocks = m[pool + f.P_FIRST], m[pool + f.P_BLOCKS]
    best = best_key = 0
    for i in range(drawn if drawn > 0 else blocks):
        block = first + (below(m, blocks) if drawn > 0 else i) * f.B_N
        if takes(m, block) and (best == 0 or key(m, block) < best_key):
            best, best_key = block, key(m, block)
    return int(best)


@compiled
def victim(m: Memory, pool: int) -> int:
    block = best_of(m, pool, m[f.CHOICES]) if m[f.POLICY] == CHOICES else 0
    return block if block != 0 else best_of(m, pool, 0)


@compiled
def check(m: Memory, pool: int) -> None:
    collecting = m[pool + f.P_COLLECTING]
    if m[pool + f.P_FREE_N] >= m[pool + f.P_START] or collecting >= m[f.GC_PARALLEL]:
        return
    if collecting > 0 and m[pool + f.P_FREE_N] <= collecting:
        return
    block = victim(m, pool)
    if block == 0:
        return
    if m[m[block + f.B_SLOT] + f.S_OPEN] == block:
        m[m[block + f.B_SLOT] + f.S_OPEN] = 0
    m[block + f.B_COLLECTED] = 1
    m[pool + f.P_COLLECTING] += 1
    first = m[f.LOGICAL_AT] + m[block + f.B_PAGE]
    for entry in range(first, first + m[block + f.B_WRITTEN]):
        if m[entry] > 0:
            m[m[f.LOCKED_AT] + m[entry] - 1] = 1
    if m[block + f.B_READS] == 0:
        begin(m, block)


@compiled
def check_stalled(m: Memory, pool: int) -> None:
    if m[pool + f.P_WAIT_N] > 0 and m[pool + f.P_COLLECTING] == 0:
        check(m, pool)


@compiled
def begin(m: Memory, block: int) -> None:
    m[block + f.B_MOVING] = 1
    slot = m[block + f.B_SLOT]
    tenant = m[slot + f.S_TENANT]
    first = m[block + f.B_PAGE]
    left = 0
    for page in range(first, first + m[block + f.B_WRITTEN]):
        logical = m[m[f.LOGICAL_AT] + page]
        if logical > 0:
            row = new_op(m, f.MOVE_READ, tenant, 0, logical - 1, page, m[f.PAGE_BYTES])
            m[row + f.O_FROM] = block
            queue(m, row)
            left += 1
    m[block + f.B_LEFT] = left
    erase = new_op(m, f.ERASE, tenant, 0, 0, first, 0)
    m[erase + f.O_FROM] = block
    m[erase + f.O_READY] = 1 if left == 0 else 0
    m[block + f.B_ERASE] = erase
    if m[slot + f.S_LENT] == 0 or left == 0:
        queue(m, erase)
    die = m[f.DIE_AT] + first // m[f.DIE_PAGES] * m[f.DIE_SIZE]
    kick(m, m[die + f.D_CHANNEL])


@compiled
def read_done(m: Memory, page: int) -> None:
    block = block_of(m, page)
    m[block + f.B_READS] -= 1
    if m[block + f.B_COLLECTED] > 0 and m[block + f.B_MOVING] == 0 and m[block + f.B_READS] == 0:
        begin(m, block)


@compiled
def advance(m: Memory, slot: int, column: int) -> None:
    block = m[slot + column]
    if m[block + f.B_WRITTEN] < m[f.PAGES]:
        return
    m[f.FILLS] += 1
    m[block + f.B_FILLED] = m[f.FILLS]
    m[slot + column] = 0 if m[slot + f.S_LENT] > 0 else take_block(m, slot)
    check(m, m[slot + f.S_POOL])


@compiled
def move_read_done(m: Memory, row: int) -> None:
    slot = m[m[row + f.O_FROM] + f.B_SLOT]
    logical = m[row + f.O_LOGICAL]
    lent = m[slot + f.S_LENT] > 0
    if lent:
        slot = home(m, m[row + f.O_TENANT], logical)
    drop(m, m[row + f.O_PAGE])
    page = place(m, logical, slot, f.S_OPEN_MOVES)
    m[block_of(m, page) + f.B_PROGRAMS] += 1
    advance(m, slot, f.S_OPEN_MOVES)
    m[row + f.O_KIND] = f.MOVE_WRITE
    m[row + f.O_PAGE] = page
    queue(m, row)
    if lent:
        kick(m, m[m[row + f.O_DIE] + f.D_CHANNEL])


@compiled
def move_write_done(m: Memory, row: int) -> None:
    """All but what waits for the page; the caller sees to that."""
    m[m[row + f.O_TENANT] + f.T_MOVES] += 1
    m[block_of(m, m[row + f.O_PAGE]) + f.B_PROGRAMS] -= 1
    m[m[f.LOCKED_AT] + m[row + f.O_LOGICAL]] = 0
    block = m[row + f.O_FROM]
    m[block + f.B_LEFT] -= 1
    if m[block + f.B_LEFT] == 0:
        erase = m[block + f.B_ERASE]
        m[erase + f.O_READY] = 1
        if m[m[block + f.B_SLOT] + f.S_LENT] > 0:
            queue(m, erase)
            kick(m, m[m[erase + f.O_DIE] + f.D_CHANNEL])


@compiled
def erased(m: Memory, block: int) -> int:
    """The block is free again; returns its pool."""
    pool = m[block + f.B_POOL]
    for column in range(f.B_ERASES):
        m[block + column] = 0
    m[block + f.B_ERASES] += 1
    append(m, f.B_NEXT, pool + f.P_FREE, block)
    m[pool + f.P_FREE_N] += 1
    m[pool + f.P_COLLECTING] -= 1
    return int(pool)
