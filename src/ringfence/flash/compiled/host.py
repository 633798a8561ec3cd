"""Requests of tenants and the link to the host: `reference.link` and `reference.device`."""

from __future__ import annotations

from ringfence.flash.compiled import fields as f
from ringfence.flash.compiled.dies import kick, queue
from ringfence.flash.compiled.flash import advance, block_of, check_stalled, drop, home, place
from ringfence.flash.compiled.lending import chain, finished, lend_at, lent_place, take_back, wanted
from ringfence.flash.compiled.lists import Memory, append, at, compiled, new_op, take_first


@compiled
def message_ns(m: Memory, size_bytes: int) -> int:
    payload, overhead = m[f.PAYLOAD], m[f.OVERHEAD]
    rest = size_bytes % payload
    wire = size_bytes // payload * (payload + overhead)
    if rest > 0:
        wire += rest + overhead
    return int((wire * 1000 + m[f.BYTES_PER_US] - 1) // m[f.BYTES_PER_US])


@compiled
def send(m: Memory, link: int, duration_ns: int, what: int, request: int) -> None:
    """:param link: DOWN_AT or UP_AT; in the next columns are the first message and how many there are."""
    row = m[link] + 3 * ((m[link + 1] + m[link + 2]) & m[f.LINK_MASK])
    m[row], m[row + 1], m[row + 2] = duration_ns, what, request
    m[link + 2] += 1
    if m[link + 2] == 1:
        at(m, m[f.NOW] + duration_ns, f.DOWN if link == f.DOWN_AT else f.UP, 0)


@compiled
def next_message(m: Memory, link: int) -> None:
    m[link + 1] = (m[link + 1] + 1) & m[f.LINK_MASK]
    m[link + 2] -= 1
    if m[link + 2] > 0:
        duration = m[m[link] + 3 * m[link + 1]]
        at(m, m[f.NOW] + duration, f.DOWN if link == f.DOWN_AT else f.UP, 0)


@compiled
def down_delivered(m: Memory) -> None:
    row = m[f.DOWN_AT] + 3 * m[f.DOWN_HEAD]
    what, request = m[row + 1], m[row + 2]
    if what == f.DOORBELL:
        doorbell(m, request)
    elif what == f.SUBMISSION:
        submission(m, request)
    elif what == f.WRITE_DATA:
        admit(m, request)
    next_message(m, f.DOWN_AT)


@compiled
def up_delivered(m: Memory) -> None:
    row = m[f.UP_AT] + 3 * m[f.UP_HEAD]
    what, request = m[row + 1], m[row + 2]
    if what == f.FETCH:
        send(m, f.DOWN_AT, m[f.SUBMISSION_NS], f.SUBMISSION, request)
    elif what == f.FETCH_DATA:
        send(m, f.DOWN_AT, message_ns(m, m[request + f.R_COUNT] * 512), f.WRITE_DATA, request)
    elif what == f.COMPLETION:
        completed(m, request)
    next_message(m, f.UP_AT)


@compiled
def arrive(m: Memory, flow: int) -> None:
    submit(m, flow)
    if m[flow + f.F_NEXT] < m[flow + f.F_END]:
        at(m, m[m[flow + f.F_NEXT] + f.R_AT], f.ARRIVE, flow)


@compiled
def next_of_flow(m: Memory, flow: int) -> None:
    now, stop, on_ns = m[f.NOW], m[flow + f.F_STOP], m[flow + f.F_ON]
    if m[flow + f.F_NEXT] >= m[flow + f.F_END] or (stop > 0 and now > stop):
        return
    period = on_ns + m[flow + f.F_OFF]
    if on_ns > 0 and now % period >= on_ns:
        at(m, now - now % period + period, f.NEXT_OF_FLOW, flow)
    else:
        submit(m, flow)


@compiled
def submit(m: Memory, flow: int) -> None:
    request = m[flow + f.F_NEXT]
    m[flow + f.F_NEXT] += f.R_N
    m[request + f.R_ARRIVED] = m[f.NOW]
    send(m, f.DOWN_AT, m[f.DOORBELL_NS], f.DOORBELL, request)


@compiled
def completed(m: Memory, request: int) -> None:
    m[request + f.R_DONE] = m[f.NOW]
    m[f.DONE_N] += 1
    send(m, f.DOWN_AT, m[f.DOORBELL_NS], f.HEAD_DOORBELL, request)
    flow = m[request + f.R_FLOW]
    if m[flow + f.F_DEPTH] > 0:
        next_of_flow(m, flow)


@compiled
def doorbell(m: Memory, request: int) -> None:
    flow = m[request + f.R_FLOW]
    if m[flow + f.F_FETCHED] < m[f.FETCH_LIMIT]:
        fetch(m, request)
    else:
        append(m, f.R_NEXT, flow + f.F_BACKLOG, request)


@compiled
def fetch(m: Memory, request: int) -> None:
    m[m[request + f.R_FLOW] + f.F_FETCHED] += 1
    send(m, f.UP_AT, m[f.REQUEST_NS], f.FETCH, request)


@compiled
def submission(m: Memory, request: int) -> None:
    if m[f.LENDS] > 0:
        recall(m, m[request + f.R_TENANT])
    if m[request + f.R_WRITE] > 0:
        send(m, f.UP_AT, m[f.REQUEST_NS], f.FETCH_DATA, request)
    else:
        admit(m, request)


@compiled
def admit(m: Memory, request: int) -> None:
    tenant = m[request + f.R_TENANT]
    if m[tenant + f.T_GATE] == 0:
        dispatch(m, request)
        return
    opens = m[tenant + f.T_FULL_NS] - m[tenant + f.T_BURST_NS]
    waiting = m[tenant + f.T_WAIT] != 0
    if waiting or m[f.NOW] < opens:
        append(m, f.R_NEXT, tenant + f.T_WAIT, request)
        if not waiting:
            at(m, opens, f.GATE, tenant)
    else:
        charge(m, request, tenant)


@compiled
def open_gate(m: Memory, tenant: int) -> None:
    burst = m[tenant + f.T_BURST_NS]
    while m[tenant + f.T_WAIT] != 0 and m[f.NOW] >= m[tenant + f.T_FULL_NS] - burst:
        charge(m, take_first(m, f.R_NEXT, tenant + f.T_WAIT), tenant)
    if m[tenant + f.T_WAIT] != 0:
        at(m, m[tenant + f.T_FULL_NS] - burst, f.GATE, tenant)


@compiled
def page_count(m: Memory, request: int) -> int:
    sector, sectors = m[request + f.R_SECTOR], m[f.SECTORS]
    return int((sector + m[request + f.R_COUNT] - 1) // sectors - sector // sectors + 1)


@compiled
def charge(m: Memory, request: int, tenant: int) -> None:
    cost = m[tenant + f.T_WRITE_COST] if m[request + f.R_WRITE] > 0 else m[tenant + f.T_READ_COST]
    full = max(m[tenant + f.T_FULL_NS], m[f.NOW])
    m[tenant + f.T_FULL_NS] = full + page_count(m, request) * cost * 1_000_000 // m[tenant + f.T_PER_MS]
    dispatch(m, request)


@compiled
def dispatch(m: Memory, request: int) -> None:
    tenant = m[request + f.R_TENANT]
    kind = f.WRITE if m[request + f.R_WRITE] > 0 else f.READ
    sectors = m[f.SECTORS]
    sector, count = m[request + f.R_SECTOR], m[request + f.R_COUNT]
    first = last = 0
    m[request + f.R_PARTS] = page_count(m, request)
    while count > 0:
        page = sector // sectors
        offset = sector - page * sectors
        size = min(count, sectors - offset)
        row = new_op(m, kind, tenant, request, m[tenant + f.T_FIRST] + page, 0, size * 512)
        m[row + f.O_MASK] = -1 if size == 64 else ((1 << size) - 1) << offset
        sector += size
        count -= size
        if translate(m, row):
            first, last = chain(m, first, last, row)
    queue_all(m, first)


@compiled
def queue_all(m: Memory, first: int) -> None:
    if first == 0:
        return
    if m[first + f.O_LATER] == 0 and m[first + f.O_THEN] == 0:
        queue(m, first)
        kick(m, m[m[first + f.O_DIE] + f.D_CHANNEL])
        return
    row = first
    while row != 0:
        touch(m, row)
        update = m[row + f.O_THEN]
        if update != 0:
            touch(m, update)
            m[row + f.O_THEN] = 0
        row = m[row + f.O_LATER]
    for number in range(m[f.CHANNELS]):
        channel = m[f.CHANNEL_AT] + number * f.C_N
        if m[channel + f.C_TOUCHED] > 0:
            m[channel + f.C_TOUCHED] = 0
            kick(m, channel)


@compiled
def touch(m: Memory, row: int) -> None:
    queue(m, row)
    m[m[m[row + f.O_DIE] + f.D_CHANNEL] + f.C_TOUCHED] = 1


@compiled
def translate(m: Memory, row: int) -> bool:
    logical = m[row + f.O_LOGICAL]
    if m[m[f.LOCKED_AT] + logical] > 0:
        append(m, f.O_LATER, f.BLOCKED, row)
        m[f.BLOCKED_N] += 1
        return False
    if m[row + f.O_KIND] == f.READ:
        page = page_to_read(m, row)
        m[row + f.O_PAGE] = page
        m[block_of(m, page) + f.B_READS] += 1
        return True
    slot = lent_place(m, m[row + f.O_TENANT]) if m[f.LENDS] > 0 else 0
    if slot == 0:
        slot = home(m, m[row + f.O_TENANT], logical)
    pool = m[slot + f.S_POOL]
    if m[pool + f.P_FREE_N] < m[pool + f.P_STOP]:
        append(m, f.O_LATER, pool + f.P_WAIT, row)
        m[pool + f.P_WAIT_N] += 1
        check_stalled(m, pool)
        return False
    if m[m[f.PHYSICAL_AT] + logical] > 0:
        replace(m, row)
    page = place(m, logical, slot, f.S_OPEN)
    m[row + f.O_PAGE] = page
    m[m[f.MASK_AT] + logical] |= m[row + f.O_MASK]
    m[block_of(m, page) + f.B_PROGRAMS] += 1
    advance(m, slot, f.S_OPEN)
    return True


@compiled
def page_to_read(m: Memory, row: int) -> int:
    logical = m[row + f.O_LOGICAL]
    page = m[m[f.PHYSICAL_AT] + logical] - 1
    if page >= 0:
        return int(page)
    slot = home(m, m[row + f.O_TENANT], logical)
    pool = m[slot + f.S_POOL]
    if m[pool + f.P_FREE_N] <= m[pool + f.P_STOP]:
        return int(m[m[slot + f.S_OPEN] + f.B_PAGE])
    page = place(m, logical, slot, f.S_OPEN)
    m[m[f.MASK_AT] + logical] = m[row + f.O_MASK]
    advance(m, slot, f.S_OPEN)
    return int(page)


@compiled
def replace(m: Memory, row: int) -> None:
    logical = m[row + f.O_LOGICAL]
    old = m[m[f.PHYSICAL_AT] + logical] - 1
    kept = m[m[f.MASK_AT] + logical] & ~m[row + f.O_MASK]
    if kept != 0:
        sectors = 0
        while kept != 0:
            kept &= kept - 1
            sectors += 1
        update = new_op(m, f.UPDATE, m[row + f.O_TENANT], 0, logical, old, sectors * 512)
        m[update + f.O_THEN] = row
        m[block_of(m, old) + f.B_READS] += 1
        m[row + f.O_READY] = 0
        m[row + f.O_THEN] = update
    drop(m, old)


@compiled
def part_done(m: Memory, request: int) -> None:
    m[request + f.R_PARTS] -= 1
    if m[request + f.R_PARTS] > 0:
        return
    flow = m[request + f.R_FLOW]
    m[flow + f.F_FETCHED] -= 1
    if m[f.LENDS] > 0:
        finished(m, m[request + f.R_TENANT])
    if m[request + f.R_WRITE] == 0:
        send(m, f.UP_AT, message_ns(m, m[request + f.R_COUNT] * 512), f.READ_DATA, request)
    if m[flow + f.F_BACKLOG] != 0:
        fetch(m, take_first(m, f.R_NEXT, flow + f.F_BACKLOG))
    send(m, f.UP_AT, m[f.COMPLETION_NS], f.COMPLETION, request)


@compiled
def unlocked(m: Memory, logical: int) -> None:
    """Requests that waited for the page go on."""
    if m[f.BLOCKED_N] == 0:
        return
    row = m[f.BLOCKED]
    m[f.BLOCKED], m[f.BLOCKED_N] = 0, 0
    first = last = 0
    while row != 0:
        after = m[row + f.O_LATER]
        if m[row + f.O_LOGICAL] == logical:
            first, last = chain(m, first, last, row)
        else:
            append(m, f.O_LATER, f.BLOCKED, row)
            m[f.BLOCKED_N] += 1
        row = after
    queue_all(m, translate_chain(m, first))


@compiled
def translate_chain(m: Memory, row: int) -> int:
    """Those of the chain that need not wait, as a chain."""
    first = last = 0
    while row != 0:
        after = m[row + f.O_LATER]
        if translate(m, row):
            first, last = chain(m, first, last, row)
        row = after
    return int(first)


@compiled
def roomier(m: Memory, pool: int) -> None:
    first = last = 0
    for _ in range(m[pool + f.P_WAIT_N]):
        if m[pool + f.P_FREE_N] < m[pool + f.P_STOP]:
            break
        row = take_first(m, f.O_LATER, pool + f.P_WAIT)
        m[pool + f.P_WAIT_N] -= 1
        if translate(m, row):
            first, last = chain(m, first, last, row)
    queue_all(m, first)


@compiled
def recall(m: Memory, tenant: int) -> None:
    for number in range(m[f.LENDS]):
        lend = lend_at(m, number)
        if not wanted(m, lend, tenant):
            continue
        first = take_back(m, lend)
        done = last = 0
        while first != 0:
            row = first
            first = m[first + f.O_LATER]
            page = m[row + f.O_PAGE]
            m[block_of(m, page) + f.B_PROGRAMS] -= 1
            drop(m, page)
            m[m[f.PHYSICAL_AT] + m[row + f.O_LOGICAL]] = 0
            if translate(m, row):
                done, last = chain(m, done, last, row)
        queue_all(m, done)
