"""Lays a scenario out in memory, as `fields` says."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ringfence.flash.compiled import fields as f
from ringfence.flash.draw import Draw
from ringfence.flash.scenario import Collector, Layout, Scenario, lay_out


class Filled(NamedTuple):
    """The memory, and views of its rows.

    :param firsts: number of each flow's first request.
    """

    m: Any
    requests: Any
    flows: Any
    tenants: Any
    slots: Any
    pools: Any
    blocks: Any
    dies: Any
    channels: Any
    lends: Any
    firsts: list[int]
    planes: int


def fill(scenario: Scenario) -> Filled:
    """:raise UsageError: tenants do not fit."""
    layout = lay_out(scenario)
    memory = _reserve(scenario, layout)
    _constants(scenario, memory.m, len(layout.pools))
    _flows(scenario, memory)
    _blocks(layout, memory)
    _dies(scenario, layout, memory)
    _tenants(scenario, layout, memory)
    _lending(scenario, layout, memory)
    _begin(scenario, memory)
    return memory


def _reserve(scenario: Scenario, layout: Layout) -> Filled:
    """The whole array. What is not written here stays untouched until it is used."""
    geometry, tenants = scenario.device.geometry, len(scenario.tenants)
    requests = sum(len(flow.writes) for flow in scenario.flows)
    depths = sum(flow.depth for flow in scenario.flows)
    link = 1 << (2 * requests + 4 * depths + 64).bit_length()
    die_size = f.D_QUEUES + 5 * tenants
    slots = sum(len(stripe) for stripe in layout.stripes)
    operations = _operations(scenario, layout)
    timing = scenario.device.timing
    sizes = {
        f.HEAP_AT: 4 * (geometry.die_count + geometry.channels + 2 * len(scenario.flows) + tenants + depths + 16),
        f.DOWN_AT: 3 * link,
        f.UP_AT: 3 * link,
        f.REQ_AT: requests * f.R_N,
        f.FLOW_AT: len(scenario.flows) * f.F_N,
        f.TENANT_AT: tenants * f.T_N,
        f.STRIPE_AT: slots,
        f.SLOT_AT: len(layout.slots) * f.S_N,
        f.POOL_AT: len(layout.pools) * f.P_N,
        f.BLOCK_AT: geometry.plane_count * geometry.blocks * f.B_N,
        f.DIE_AT: geometry.die_count * die_size,
        f.CHANNEL_AT: geometry.channels * f.C_N,
        f.LEND_AT: len(scenario.lending) * f.L_N,
        f.LENT_SLOT_AT: len(layout.slots) - slots,
        f.LENT_DIE_AT: len(scenario.lending) * geometry.die_count,
        f.OP_AT: operations * f.O_N,
        f.READ_NS_AT: len(timing.read_ns),
        f.PROGRAM_NS_AT: len(timing.program_ns),
        f.PHYSICAL_AT: layout.pages,
        f.LOGICAL_AT: geometry.plane_count * geometry.blocks * geometry.pages,
        f.MASK_AT: layout.pages,
        f.LOCKED_AT: layout.pages,
    }
    m = np.zeros(f.SCALARS + sum(sizes.values()), np.int64)
    here = f.SCALARS
    for column, size in sizes.items():
        m[column] = here
        here += size
    m[f.LINK_MASK], m[f.DIE_SIZE] = link - 1, die_size

    def rows(column: int, columns: int) -> Any:
        begin = int(m[column])
        return m[begin : begin + sizes[column]].reshape(-1, columns)

    operation = rows(f.OP_AT, f.O_N)
    m[f.OP_FREE] = m[f.OP_AT]
    operation[:-1, f.O_NEXT] = m[f.OP_AT] + f.O_N * np.arange(1, operations)
    columns = (
        (f.REQ_AT, f.R_N),
        (f.FLOW_AT, f.F_N),
        (f.TENANT_AT, f.T_N),
        (f.SLOT_AT, f.S_N),
        (f.POOL_AT, f.P_N),
        (f.BLOCK_AT, f.B_N),
        (f.DIE_AT, die_size),
        (f.CHANNEL_AT, f.C_N),
        (f.LEND_AT, f.L_N),
    )
    first = [0]
    for flow in scenario.flows:
        first.append(first[-1] + len(flow.writes))
    views: list[Any] = [m, *(rows(*pair) for pair in columns), first[:-1], geometry.plane_count]
    return Filled(*views)


def _operations(scenario: Scenario, layout: Layout) -> int:
    """As many as can ever be under way."""
    geometry = scenario.device.geometry
    longest = max((max(flow.counts) for flow in scenario.flows if len(flow.counts)), default=1)
    parts = 2 * (int(longest) // geometry.sectors_per_page + 2)
    of_hosts = sum(min(scenario.fetch_limit, len(flow.writes)) for flow in scenario.flows) * parts
    at_once = sum(min(plan.start, scenario.device.gc_parallel) for plan in layout.pools)
    return of_hosts + at_once * (geometry.pages + 1) + 16


def _constants(scenario: Scenario, m: Any, pools: int) -> None:
    device, timing, link = scenario.device, scenario.device.timing, scenario.device.link
    geometry = device.geometry
    values = {
        f.PAGES: geometry.pages,
        f.DIE_PAGES: geometry.planes * geometry.blocks * geometry.pages,
        f.PAGE_BYTES: geometry.page_bytes,
        f.SECTORS: geometry.sectors_per_page,
        f.TENANTS: len(scenario.tenants),
        f.CHANNELS: geometry.channels,
        f.DIES: geometry.die_count,
        f.LENDS: len(scenario.lending),
        f.TWO_BYTE_NS: timing.two_byte_ns,
        f.READY_NS: timing.read_ready_ns,
        f.READ_CMD_NS: timing.read_command_ns,
        f.PROGRAM_CMD_NS: timing.program_command_ns,
        f.ERASE_CMD_NS: timing.erase_command_ns,
        f.ERASE_NS: timing.erase_ns,
        f.READ_KINDS: len(timing.read_ns),
        f.PROGRAM_KINDS: len(timing.program_ns),
        f.BYTES_PER_US: link.bytes_per_us,
        f.PAYLOAD: link.payload_bytes,
        f.OVERHEAD: link.packet_overhead_bytes,
        f.DOORBELL_NS: link.doorbell_ns,
        f.REQUEST_NS: link.read_request_ns,
        f.SUBMISSION_NS: link.message_ns(link.submission_bytes),
        f.COMPLETION_NS: link.message_ns(link.completion_bytes),
        f.GC_PARALLEL: device.gc_parallel,
        f.POLICY: list(Collector).index(scenario.collector),
        f.CHOICES: max(2, geometry.blocks.bit_length() - 1),
        f.FAIR: scenario.fair,
        f.URGENT_ALWAYS: scenario.urgent,
        f.FETCH_LIMIT: scenario.fetch_limit,
    }
    for column, value in values.items():
        m[column] = value
    m[f.POOLS] = pools
    m[f.DRAW_A], m[f.DRAW_B] = Draw(1).state
    for column, times in ((f.READ_NS_AT, timing.read_ns), (f.PROGRAM_NS_AT, timing.program_ns)):
        m[m[column] : m[column] + len(times)] = times


def _flows(scenario: Scenario, memory: Filled) -> None:
    m = memory.m
    memory.requests[:, [f.R_ARRIVED, f.R_DONE]] = -1
    for number, flow in enumerate(scenario.flows):
        first, count = memory.firsts[number], len(flow.writes)
        part = memory.requests[first : first + count]
        part[:, f.R_FLOW] = m[f.FLOW_AT] + number * f.F_N
        part[:, f.R_TENANT] = m[f.TENANT_AT] + flow.tenant * f.T_N
        part[:, f.R_WRITE], part[:, f.R_SECTOR], part[:, f.R_COUNT] = flow.writes, flow.sectors, flow.counts
        if len(flow.arrivals_ns):
            part[:, f.R_AT] = flow.arrivals_ns
        begin = m[f.REQ_AT] + first * f.R_N
        end = begin + count * f.R_N
        memory.flows[number, : f.F_FETCHED] = begin, end, flow.depth, flow.stop_ns, flow.on_ns, flow.off_ns


def _blocks(layout: Layout, memory: Filled) -> None:
    """Blocks, pools and slots, with the open blocks taken as `reference.mapping.Mapping` takes them."""
    m, block, pools = memory.m, memory.blocks, memory.pools
    at = m[f.BLOCK_AT] + f.B_N * np.arange(len(block) + 1)
    block[:, f.B_PAGE] = np.arange(len(block)) * m[f.PAGES]
    for number, plan in enumerate(layout.pools):
        end = plan.first + plan.blocks
        block[plan.first : end, f.B_POOL] = m[f.POOL_AT] + number * f.P_N
        block[plan.first : end - 1, f.B_NEXT] = at[plan.first + 1 : end]
        pools[number, : f.P_COLLECTING] = [
            at[plan.first], plan.blocks, plan.start, plan.stop, plan.urgent, at[plan.first], at[end - 1],
            plan.blocks
        ]  # fmt: skip
    for number, (tenant, pool) in enumerate(layout.slots):
        memory.slots[number] = m[f.TENANT_AT] + tenant * f.T_N, m[f.POOL_AT] + pool * f.P_N, 0, 0, 1, 0
    for stripe in layout.stripes:
        for number in stripe:
            slot, pool = memory.slots[number], layout.slots[number][1]
            slot[f.S_LENT] = 0
            taken = [_take(memory, pool, number) for _ in range(3)]
            slot[f.S_OPEN], slot[f.S_OPEN_MOVES] = taken[0], taken[2]


def _take(memory: Filled, pool: int, slot: int) -> int:
    m, row = memory.m, memory.pools[pool]
    block = int(row[f.P_FREE])
    row[f.P_FREE] = m[block + f.B_NEXT]
    row[f.P_FREE_N] -= 1
    m[block + f.B_SLOT] = m[f.SLOT_AT] + slot * f.S_N
    return block


def _dies(scenario: Scenario, layout: Layout, memory: Filled) -> None:
    m, geometry = memory.m, scenario.device.geometry
    channel = np.arange(geometry.die_count) // geometry.dies_per_channel
    memory.dies[:, f.D_CHANNEL] = m[f.CHANNEL_AT] + channel * f.C_N
    first = np.arange(geometry.channels) * geometry.dies_per_channel
    memory.channels[:, f.C_DIE] = m[f.DIE_AT] + first * m[f.DIE_SIZE]
    memory.channels[:, f.C_DIES] = geometry.dies_per_channel
    for number, plan in enumerate(layout.pools):
        die = memory.dies[plan.plane // geometry.planes]
        memory.pools[number, f.P_NEXT] = die[f.D_POOL]
        die[f.D_POOL] = m[f.POOL_AT] + number * f.P_N


def _tenants(scenario: Scenario, layout: Layout, memory: Filled) -> None:
    here = int(memory.m[f.STRIPE_AT])
    buckets = scenario.buckets or (None,) * len(scenario.tenants)
    for number, (tenant, bucket) in enumerate(zip(scenario.tenants, buckets, strict=True)):
        row, stripe = memory.tenants[number], layout.stripes[number]
        row[: f.T_GATE] = number, layout.first_page[number], here, len(stripe), tenant.weight
        memory.m[here : here + len(stripe)] = memory.m[f.SLOT_AT] + f.S_N * np.array(stripe)
        here += len(stripe)
        if bucket is not None:
            burst_ns = bucket.burst * 1_000_000 // bucket.per_ms
            row[f.T_GATE : f.T_FULL_NS] = 1, bucket.read_cost, bucket.write_cost, bucket.per_ms, burst_ns


def _lending(scenario: Scenario, layout: Layout, memory: Filled) -> None:
    m, geometry = memory.m, scenario.device.geometry
    slot_at, die_at = int(m[f.LENT_SLOT_AT]), int(m[f.LENT_DIE_AT])
    for number, lending in enumerate(scenario.lending):
        slots = layout.lent_slots(lending)
        lender, borrower = (m[f.TENANT_AT] + t * f.T_N for t in (lending.lender, lending.borrower))
        home = len(layout.stripes[lending.borrower])
        row = memory.lends[number]
        row[: f.L_UNDER_WAY] = [
            lender, borrower, lending.idle_ns, slot_at, len(slots), home
        ]  # fmt: skip
        row[f.L_RECALLED], row[f.L_DIES] = -1, die_at
        m[slot_at : slot_at + len(slots)] = m[f.SLOT_AT] + f.S_N * np.array(slots)
        memory.slots[slots, f.S_RESERVE] = layout.lent_reserves(lending)
        for slot in slots:
            m[die_at + layout.pools[layout.slots[slot][1]].plane // geometry.planes] = 1
        slot_at, die_at = slot_at + len(slots), die_at + geometry.die_count


def _begin(scenario: Scenario, memory: Filled) -> None:
    """Schedule the first request of each flow."""
    first: list[tuple[int, int, int, int]] = []
    for number, flow in enumerate(scenario.flows):
        at = int(memory.m[f.FLOW_AT]) + number * f.F_N
        if len(flow.arrivals_ns):
            first.append((int(flow.arrivals_ns[0]), len(first), f.ARRIVE, at))
        elif len(flow.writes):
            first.append((1, len(first), f.FILL, at))
    first.sort()  # a sorted list is a heap
    heap = int(memory.m[f.HEAP_AT])
    for order, event in enumerate(first):
        memory.m[heap + 4 * order : heap + 4 * order + 4] = event
    memory.m[f.HEAP_N] = memory.m[f.SCHEDULED] = len(first)
