"""The heap of events, chains of rows, and free operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

from ringfence.flash.compiled import fields as f

Function = TypeVar("Function", bound=Callable[..., Any])
Memory = Any
"""The array, see `fields`."""


def compiled(function: Function) -> Function:
    """Compile it when it is first called, as a part of its caller."""
    njit: Any = numba.njit  # its types leave these options out
    return cast(Function, njit(no_cpython_wrapper=True, no_cfunc_wrapper=True)(function))


@compiled
def at(m: Memory, time_ns: int, what: int, of: int) -> None:
    """Schedule an event. Of two at the same time, the one that was scheduled first comes first."""
    heap = m[f.HEAP_AT]
    order = m[f.SCHEDULED]
    m[f.SCHEDULED] = order + 1
    i = m[f.HEAP_N]
    m[f.HEAP_N] = i + 1
    while i > 0:
        parent = (i - 1) >> 1
        above = heap + 4 * parent
        if m[above] <= time_ns:
            break
        copy_event(m, above, heap + 4 * i)
        i = parent
    here = heap + 4 * i
    m[here], m[here + 1], m[here + 2], m[here + 3] = time_ns, order, what, of


@compiled
def copy_event(m: Memory, source: int, to: int) -> None:
    m[to], m[to + 1], m[to + 2], m[to + 3] = m[source], m[source + 1], m[source + 2], m[source + 3]


@compiled
def earlier(m: Memory, one: int, other: int) -> bool:
    return bool(m[one] < m[other] or (m[one] == m[other] and m[one + 1] < m[other + 1]))


@compiled
def drop_first(m: Memory) -> None:
    """Take the next event off the heap."""
    heap = m[f.HEAP_AT]
    n = m[f.HEAP_N] - 1
    m[f.HEAP_N] = n
    last = heap + 4 * n
    i = 0
    while True:
        child = 2 * i + 1
        if child >= n:
            break
        if child + 1 < n and earlier(m, heap + 4 * child + 4, heap + 4 * child):
            child += 1
        if earlier(m, last, heap + 4 * child):
            break
        copy_event(m, heap + 4 * child, heap + 4 * i)
        i = child
    copy_event(m, last, heap + 4 * i)


@compiled
def append(m: Memory, link: int, head: int, row: int) -> None:
    """Chain `row` behind the last one, through its column `link`; `head` is where the chain's head is."""
    m[row + link] = 0
    if m[head] == 0:
        m[head] = row
    else:
        m[m[head + 1] + link] = row
    m[head + 1] = row


@compiled
def take_first(m: Memory, link: int, head: int) -> int:
    """Unchain the first one, of a chain that is not empty."""
    row = m[head]
    m[head] = m[row + link]
    return int(row)


@compiled
def unchain(m: Memory, link: int, head: int, row: int) -> None:
    """Take one out of the middle."""
    before = 0
    here = m[head]
    while here != row:
        before = here
        here = m[here + link]
    if before == 0:
        m[head] = m[row + link]
    else:
        m[before + link] = m[row + link]
    if m[head + 1] == row:
        m[head + 1] = before


@compiled
def new_op(m: Memory, kind: int, tenant: int, request: int, logical: int, page: int, size_bytes: int) -> int:
    """An operation that is ready, and moves nothing."""
    row = m[f.OP_FREE]
    m[f.OP_FREE] = m[row + f.O_NEXT]
    m[row + f.O_KIND] = kind
    m[row + f.O_TENANT] = tenant
    m[row + f.O_REQUEST] = request
    m[row + f.O_LOGICAL] = logical
    m[row + f.O_PAGE] = page
    m[row + f.O_BYTES] = size_bytes
    m[row + f.O_MASK] = 0
    m[row + f.O_READY] = 1
    m[row + f.O_THEN] = 0
    m[row + f.O_FROM] = 0
    return int(row)


@compiled
def free_op(m: Memory, row: int) -> None:
    m[row + f.O_NEXT] = m[f.OP_FREE]
    m[f.OP_FREE] = row


@compiled
def below(m: Memory, limit: int) -> int:
    """`ringfence.flash.draw.Draw.below`, for limits up to a million."""
    m[f.DRAW_A] = m[f.DRAW_A] * 40_014 % 2_147_483_563
    m[f.DRAW_B] = m[f.DRAW_B] * 40_692 % 2_147_483_399
    return int((m[f.DRAW_A] - m[f.DRAW_B]) % 2_147_483_562 % limit)
