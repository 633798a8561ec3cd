"""Fills the arrays, runs, and reads the result out of them."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from typing import Any, cast

import numba
import numpy as np

from ringfence.flash.compiled import dies, fields, flash, host, lending, lists
from ringfence.flash.compiled import fields as f
from ringfence.flash.compiled.fill import Filled, fill
from ringfence.flash.compiled.lists import Memory, compiled
from ringfence.flash.scenario import Result, Scenario

CHUNK_EVENTS = 400_000
"""How often progress is told: several times a second."""


@compiled
def operation_done(m: Memory, row: int) -> None:
    """What a die did has ended, before the die takes something else."""
    kind = m[row + f.O_KIND]
    if m[f.LENDS] > 0:
        lending.ended(m, row)
    if kind == f.MOVE_READ:
        flash.move_read_done(m, row)
        return
    if kind == f.READ:
        flash.read_done(m, m[row + f.O_PAGE])
        host.part_done(m, m[row + f.O_REQUEST])
    elif kind == f.WRITE:
        block = flash.block_of(m, m[row + f.O_PAGE])
        m[block + f.B_PROGRAMS] -= 1
        m[m[row + f.O_TENANT] + f.T_PROGRAMS] += 1
        flash.check_stalled(m, m[block + f.B_POOL])
        host.part_done(m, m[row + f.O_REQUEST])
    elif kind == f.UPDATE:
        flash.read_done(m, m[row + f.O_PAGE])
        write = m[row + f.O_THEN]
        m[write + f.O_READY] = 1
        dies.kick(m, m[m[write + f.O_DIE] + f.D_CHANNEL])
    elif kind == f.MOVE_WRITE:
        flash.move_write_done(m, row)
        host.unlocked(m, m[row + f.O_LOGICAL])
    else:
        erase_done(m, row)
    lists.free_op(m, row)


@compiled
def erase_done(m: Memory, row: int) -> None:
    pool = flash.erased(m, m[row + f.O_FROM])
    host.roomier(m, pool)
    if m[pool + f.P_FREE_N] < m[pool + f.P_STOP]:
        flash.check(m, pool)
    if m[f.LENDS] > 0:
        for number in range(m[f.POOLS]):
            flash.check_stalled(m, m[f.POOL_AT] + number * f.P_N)


@compiled
def die_event(m: Memory, what: int, die: int) -> None:
    if what == f.COMMAND_SENT:
        dies.command_sent(m, die)
        return
    row, channel = m[die + f.D_DOING], m[die + f.D_CHANNEL]
    if what == f.DIE_READY and m[row + f.O_KIND] in (f.READ, f.UPDATE, f.MOVE_READ):
        dies.data_ready(m, die)
        return
    operation_done(m, row)
    dies.die_free(m, die)
    if what == f.DATA_SENT:
        dies.free_bus(m, channel)
    elif m[channel + f.C_DOING] == 0:
        dies.kick(m, channel)


@compiled
def host_event(m: Memory, what: int, of: int) -> None:
    if what == f.DOWN:
        host.down_delivered(m)
    elif what == f.UP:
        host.up_delivered(m)
    elif what == f.ARRIVE:
        host.arrive(m, of)
    elif what == f.NEXT_OF_FLOW:
        host.next_of_flow(m, of)
    elif what == f.GATE:
        host.open_gate(m, of)
    else:
        for _ in range(m[of + f.F_DEPTH]):
            host.next_of_flow(m, of)


def _outermost(fingerprint: str) -> Callable[[Any, int], int]:
    """The loop, compiled under a name of its own for each text of the simulator."""

    def run(m: Memory, events: int) -> int:
        version = fingerprint  # numba's name on disk depends on what is enclosed
        for _ in range(events):
            if m[f.HEAP_N] == 0:
                break
            first = m[f.HEAP_AT]
            m[f.NOW] = m[first]
            what, of = m[first + 2], m[first + 3]
            lists.drop_first(m)
            m[f.EVENTS] += 1
            if f.COMMAND_SENT <= what <= f.DATA_SENT:
                die_event(m, what, of)
            else:
                host_event(m, what, of)
        return int(m[f.HEAP_N]) if len(version) else 0

    return cast(Callable[[Any, int], int], numba.njit(cache=True)(run))


def _fingerprint() -> str:
    texts = "".join(inspect.getsource(module) for module in (dies, fields, flash, host, lending, lists))
    parts: tuple[Any, ...] = (operation_done, erase_done, die_event, host_event)
    own = "".join(inspect.getsource(part.py_func) for part in parts)
    return hashlib.sha256((texts + own).encode()).hexdigest()


_run: Any = None


def simulate(scenario: Scenario, progress: Callable[[int, int], None] | None = None) -> Result:
    """Run the scenario to its end.

    :param progress: called now and then with the number of requests that are done, and of all.
    :raise UsageError: it cannot be simulated.
    """
    global _run
    scenario.check()
    memory = fill(scenario)
    if _run is None:
        _run = _outermost(_fingerprint())
    while _run(memory.m, CHUNK_EVENTS):
        if progress is not None:
            progress(int(memory.m[f.DONE_N]), len(memory.requests))
    return _result(memory)


def _result(memory: Filled) -> Result:
    m = memory.m
    erases = memory.blocks[:, f.B_ERASES].reshape(memory.planes, -1).sum(axis=1)
    arrived: Any = np.ascontiguousarray(memory.requests[:, f.R_ARRIVED])
    done: Any = np.ascontiguousarray(memory.requests[:, f.R_DONE])
    return Result(
        arrived,
        done,
        memory.firsts,
        int(m[f.NOW]),
        memory.channels[:, f.C_BUSY].tolist(),
        memory.dies[:, f.D_BUSY].tolist(),
        memory.tenants[:, f.T_PROGRAMS].tolist(),
        memory.tenants[:, f.T_MOVES].tolist(),
        erases.tolist(),
        int(memory.lends[:, f.L_PAGES].sum()),
        int(memory.lends[:, f.L_RETURN].max()) if len(memory.lends) else 0,
        int(m[f.EVENTS]),
    )
