"""Buses and dies: `reference.back_end`."""

from __future__ import annotations

from ringfence.flash.compiled import fields as f
from ringfence.flash.compiled.lists import Memory, append, at, compiled, take_first, unchain
from ringfence.flash.reference.back_end import FAIR_UNIT


@compiled
def waiting_at(m: Memory, die: int, writes: int, tenant: int) -> int:
    """Where the chain of a tenant's reads or writes for a die has its head; `tenant` is its number."""
    return int(die + f.D_QUEUES + 2 * (writes * m[f.TENANTS] + tenant))


@compiled
def queue(m: Memory, row: int) -> None:
    die = m[f.DIE_AT] + m[row + f.O_PAGE] // m[f.DIE_PAGES] * m[f.DIE_SIZE]
    kind = m[row + f.O_KIND]
    m[row + f.O_DIE] = die
    m[row + f.O_ORDER] = m[f.ORDER]
    m[f.ORDER] += 1
    if kind <= f.UPDATE:
        writes = 1 if kind == f.WRITE else 0
        m[die + f.D_READS + writes] += 1
        append(m, f.O_NEXT, waiting_at(m, die, writes, m[m[row + f.O_TENANT] + f.T_NUMBER]), row)
    elif kind == f.MOVE_READ:
        append(m, f.O_NEXT, die + f.D_MOVE_READ, row)
    elif kind == f.MOVE_WRITE:
        append(m, f.O_NEXT, die + f.D_MOVE_WRITE, row)
    else:
        append(m, f.O_NEXT, die + f.D_ERASE, row)


@compiled
def kick(m: Memory, channel: int) -> None:
    if m[channel + f.C_DOING] != 0:
        return
    turn, dies = m[channel + f.C_TURN], m[channel + f.C_DIES]
    for _ in range(dies):
        next_of(m, m[channel + f.C_DIE] + turn * m[f.DIE_SIZE])
        turn += 1
        if turn == dies:
            turn = 0
        if m[channel + f.C_DOING] != 0:
            break
    m[channel + f.C_TURN] = turn


@compiled
def next_of(m: Memory, die: int) -> None:
    if m[die + f.D_DOING] != 0:
        return
    row = pick_urgent(m, die) if is_urgent(m, die) else pick(m, die)
    if row != 0:
        m[die + f.D_DOING] = row
        m[die + f.D_SINCE] = m[f.NOW]
        hold_bus(m, row, command_ns(m, row), f.COMMAND_SENT)


@compiled
def is_urgent(m: Memory, die: int) -> bool:
    if m[f.URGENT_ALWAYS] > 0:
        return True
    pool = m[die + f.D_POOL]
    while pool != 0:
        if m[pool + f.P_FREE_N] < m[pool + f.P_URGENT]:
            return True
        pool = m[pool + f.P_NEXT]
    return False


@compiled
def pick_urgent(m: Memory, die: int) -> int:
    if m[die + f.D_MOVE_READ] != 0:
        return take_first(m, f.O_NEXT, die + f.D_MOVE_READ)
    if m[die + f.D_READS] > 0 and m[die + f.D_MOVE_WRITE] == 0 and m[die + f.D_ERASE] == 0:
        return serve(m, die, 0)
    if m[die + f.D_MOVE_WRITE] != 0:
        return take_first(m, f.O_NEXT, die + f.D_MOVE_WRITE)
    if m[die + f.D_WRITES] > 0 and m[die + f.D_ERASE] == 0:
        return serve(m, die, 1)
    return pick_erase(m, die)


@compiled
def pick(m: Memory, die: int) -> int:
    if m[die + f.D_READS] > 0:
        return serve(m, die, 0)
    if m[die + f.D_WRITES] > 0:
        return serve(m, die, 1)
    if m[die + f.D_MOVE_READ] != 0:
        return take_first(m, f.O_NEXT, die + f.D_MOVE_READ)
    if m[die + f.D_MOVE_WRITE] != 0:
        return take_first(m, f.O_NEXT, die + f.D_MOVE_WRITE)
    return pick_erase(m, die)


@compiled
def pick_erase(m: Memory, die: int) -> int:
    row = m[die + f.D_ERASE]
    while row != 0 and m[row + f.O_READY] == 0:
        row = m[row + f.O_NEXT]
    if row != 0:
        unchain(m, f.O_NEXT, die + f.D_ERASE, row)
    return int(row)


@compiled
def serve(m: Memory, die: int, writes: int) -> int:
    """Whose turn it is: by order, or by weight."""
    fair, tenants = m[f.FAIR] > 0, m[f.TENANTS]
    passes = die + f.D_QUEUES + 4 * tenants
    best = best_start = chosen = 0
    for tenant in range(tenants):
        row = m[waiting_at(m, die, writes, tenant)]
        while row != 0 and m[row + f.O_READY] == 0:
            row = m[row + f.O_NEXT]
        if row == 0:
            continue
        begins = max(m[die + f.D_PASS], m[passes + tenant]) if fair else 0
        if best == 0 or begins < best_start or (begins == best_start and m[row + f.O_ORDER] < m[best + f.O_ORDER]):
            best, best_start, chosen = row, begins, tenant
    if best == 0:
        return 0
    unchain(m, f.O_NEXT, waiting_at(m, die, writes, chosen), best)
    m[die + f.D_READS + writes] -= 1
    if fair:
        cost = die_ns(m, best) + transfer_ns(m, best)
        m[die + f.D_PASS] = best_start
        m[passes + chosen] = best_start + cost * FAIR_UNIT // m[m[best + f.O_TENANT] + f.T_WEIGHT]
    return int(best)


@compiled
def page_kind(page: int, kinds: int) -> int:
    """`geometry.page_kind`."""
    if kinds < 3:
        return page % kinds
    if page < 8:
        return 0 if page <= 5 else 1
    return (page - 8 >> 1) % kinds


@compiled
def die_ns(m: Memory, row: int) -> int:
    kind = m[row + f.O_KIND]
    if kind == f.ERASE:
        return int(m[f.ERASE_NS])
    programs = kind in (f.WRITE, f.MOVE_WRITE)
    kinds = m[f.PROGRAM_KINDS] if programs else m[f.READ_KINDS]
    nth = 0 if kinds == 1 else page_kind(m[row + f.O_PAGE] % m[f.PAGES], kinds)
    return int(m[m[f.PROGRAM_NS_AT] + nth] if programs else m[m[f.READ_NS_AT] + nth] + m[f.READY_NS])


@compiled
def transfer_ns(m: Memory, row: int) -> int:
    return int((m[row + f.O_BYTES] >> 1) * m[f.TWO_BYTE_NS])


@compiled
def command_ns(m: Memory, row: int) -> int:
    kind = m[row + f.O_KIND]
    if kind in (f.WRITE, f.MOVE_WRITE):
        return int(m[f.PROGRAM_CMD_NS] + transfer_ns(m, row))
    return int(m[f.ERASE_CMD_NS] if kind == f.ERASE else m[f.READ_CMD_NS])


@compiled
def hold_bus(m: Memory, row: int, duration_ns: int, then: int) -> None:
    die = m[row + f.O_DIE]
    channel = m[die + f.D_CHANNEL]
    m[channel + f.C_DOING] = row
    m[channel + f.C_BUSY] += duration_ns
    at(m, m[f.NOW] + duration_ns, then, die)


@compiled
def command_sent(m: Memory, die: int) -> None:
    at(m, m[f.NOW] + die_ns(m, m[die + f.D_DOING]), f.DIE_READY, die)
    free_bus(m, m[die + f.D_CHANNEL])


@compiled
def data_ready(m: Memory, die: int) -> None:
    """A read's data goes out, or waits for the bus."""
    channel, row = m[die + f.D_CHANNEL], m[die + f.D_DOING]
    if m[channel + f.C_DOING] == 0:
        hold_bus(m, row, transfer_ns(m, row), f.DATA_SENT)
    elif m[row + f.O_KIND] == f.MOVE_READ:
        append(m, f.O_NEXT, channel + f.C_MOVED, row)
    else:
        append(m, f.O_NEXT, channel + f.C_DATA, row)


@compiled
def die_free(m: Memory, die: int) -> None:
    m[die + f.D_DOING] = 0
    m[die + f.D_BUSY] += m[f.NOW] - m[die + f.D_SINCE]


@compiled
def free_bus(m: Memory, channel: int) -> None:
    m[channel + f.C_DOING] = 0
    waiting = channel + (f.C_DATA if m[channel + f.C_DATA] != 0 else f.C_MOVED)
    if m[waiting] != 0:
        row = take_first(m, f.O_NEXT, waiting)
        hold_bus(m, row, transfer_ns(m, row), f.DATA_SENT)
    else:
        kick(m, channel)
