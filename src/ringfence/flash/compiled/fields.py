"""Where everything is in the one array of 64-bit integers that the compiled simulator works on.

A row (a request, an operation, a block, a die, ...) is known by where it begins; its columns are named below and
added to that. 0 is no row, for there the scalars are. Each chain has its head in one column and its tail in the
next. What is stored of pages in PHYSICAL and LOGICAL is their number plus one: memory that was never touched
says "none", and costs nothing. One array and not many: compiled code is handed each of them at each call.
"""

from __future__ import annotations

# what a die is asked to do
READ, WRITE, UPDATE, MOVE_READ, MOVE_WRITE, ERASE = range(6)

# what happens next
ARRIVE, FILL, NEXT_OF_FLOW, DOWN, UP, COMMAND_SENT, DIE_READY, DATA_SENT, GATE = range(9)

# messages on the link: towards the device, and towards the host
DOORBELL, HEAD_DOORBELL, SUBMISSION, WRITE_DATA = range(4)
FETCH, FETCH_DATA, READ_DATA, COMPLETION = range(4)

# scalars
(
    NOW, SCHEDULED, EVENTS, HEAP_N, ORDER, FILLS, OP_FREE, BLOCKED, BLOCKED_TAIL, BLOCKED_N, DRAW_A, DRAW_B,
    DONE_N, PAGES, DIE_PAGES, PAGE_BYTES, SECTORS, TENANTS, CHANNELS, DIES, POOLS, LENDS,
    TWO_BYTE_NS, READY_NS, READ_CMD_NS, PROGRAM_CMD_NS, ERASE_CMD_NS, ERASE_NS, READ_KINDS, PROGRAM_KINDS,
    BYTES_PER_US, PAYLOAD, OVERHEAD, DOORBELL_NS, REQUEST_NS, SUBMISSION_NS, COMPLETION_NS,
    GC_PARALLEL, POLICY, CHOICES, FAIR, URGENT_ALWAYS, FETCH_LIMIT, LINK_MASK,
    DOWN_AT, DOWN_HEAD, DOWN_N, UP_AT, UP_HEAD, UP_N,
    HEAP_AT, REQ_AT, FLOW_AT, TENANT_AT, STRIPE_AT, SLOT_AT, POOL_AT, BLOCK_AT, DIE_AT, DIE_SIZE, CHANNEL_AT,
    LEND_AT, LENT_SLOT_AT, LENT_DIE_AT, OP_AT, READ_NS_AT, PROGRAM_NS_AT, PHYSICAL_AT, LOGICAL_AT, MASK_AT,
    LOCKED_AT, SCALARS,
) = range(72)  # fmt: skip

# request
R_FLOW, R_TENANT, R_WRITE, R_SECTOR, R_COUNT, R_AT, R_ARRIVED, R_DONE, R_PARTS, R_NEXT, R_N = range(11)
# flow: F_NEXT is its next request, F_END where they end
(
    F_NEXT, F_END, F_DEPTH, F_STOP, F_ON, F_OFF, F_FETCHED, F_BACKLOG, F_BACKLOG_TAIL, F_N,
) = range(10)  # fmt: skip
# tenant
(
    T_NUMBER, T_FIRST, T_STRIPE, T_STRIPE_N, T_WEIGHT, T_GATE, T_READ_COST, T_WRITE_COST, T_PER_MS, T_BURST_NS,
    T_FULL_NS, T_WAIT, T_WAIT_TAIL, T_PROGRAMS, T_MOVES, T_N,
) = range(16)  # fmt: skip
# slot
S_TENANT, S_POOL, S_OPEN, S_OPEN_MOVES, S_LENT, S_RESERVE, S_N = range(7)
# pool
(
    P_FIRST, P_BLOCKS, P_START, P_STOP, P_URGENT, P_FREE, P_FREE_TAIL, P_FREE_N, P_COLLECTING,
    P_WAIT, P_WAIT_TAIL, P_WAIT_N, P_NEXT, P_N,
) = range(14)  # fmt: skip
# block: B_PAGE is the number of its first page
(
    B_SLOT, B_WRITTEN, B_STALE, B_READS, B_PROGRAMS, B_FILLED, B_COLLECTED, B_MOVING, B_LEFT, B_ERASE, B_NEXT,
    B_ERASES, B_POOL, B_PAGE, B_N,
) = range(15)  # fmt: skip
# operation: O_FROM is the block that is being emptied
(
    O_KIND, O_TENANT, O_REQUEST, O_LOGICAL, O_PAGE, O_BYTES, O_MASK, O_READY, O_THEN, O_FROM, O_ORDER, O_DIE,
    O_NEXT, O_LATER, O_N,
) = range(15)  # fmt: skip
# die: behind its columns the chains of tenants' reads, then of their writes, then what each has used of it
(
    D_DOING, D_SINCE, D_BUSY, D_READS, D_WRITES, D_MOVE_READ, D_MOVE_READ_TAIL, D_MOVE_WRITE, D_MOVE_WRITE_TAIL,
    D_ERASE, D_ERASE_TAIL, D_PASS, D_POOL, D_CHANNEL, D_QUEUES,
) = range(15)  # fmt: skip
# channel
C_DOING, C_TURN, C_DATA, C_DATA_TAIL, C_MOVED, C_MOVED_TAIL, C_BUSY, C_TOUCHED, C_DIE, C_DIES, C_N = range(11)
# lending
(
    L_LENDER, L_BORROWER, L_IDLE, L_SLOTS, L_SLOT_N, L_HOME, L_UNDER_WAY, L_IDLE_SINCE, L_RECALLED, L_TURN,
    L_PAGES, L_RETURN, L_DIES, L_N,
) = range(14)  # fmt: skip
