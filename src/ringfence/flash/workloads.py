"""What tenants ask of a disk: built-in mixes, and traces.

A mix stands for a kind of application by what reaches the disk: share of reads, sizes, how often which addresses,
and how many requests are under way. The YCSB mixes follow their definition (Cooper et al., SoCC 2010); the others
are named after what they resemble, and are not recordings.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import NamedTuple

from ringfence.errors import UsageError
from ringfence.flash.draw import Draw
from ringfence.flash.scenario import Flow


class Mix(NamedTuple):
    """:param reads: share of requests that read.
    :param where: `uniform`, `zipfian` (few addresses get most), `latest` (zipfian over what was written last), or
        `sequential`.
    :param log: writes go one after the other, as in log-structured stores, wherever the reads go.
    :param read_kib: size of a read; :param write_kib: of a write; :param depth: requests under way.
    """

    name: str
    help: str
    reads: float
    where: str
    read_kib: int = 16
    write_kib: int = 16
    depth: int = 16
    log: bool = False


MIXES = {
    mix.name: mix
    for mix in (
        Mix("ycsb-a", "half reads, half updates", 0.5, "zipfian"),
        Mix("ycsb-b", "mostly reads", 0.95, "zipfian"),
        Mix("ycsb-c", "reads only", 1.0, "zipfian"),
        Mix("ycsb-d", "reads of what was written last", 0.95, "latest"),
        Mix("ycsb-e", "short scans", 0.95, "zipfian", read_kib=64),
        Mix("ycsb-f", "read, modify, write", 0.667, "zipfian"),
        Mix("ycsb-a-log", "ycsb-a on a log-structured store", 0.5, "zipfian", write_kib=64, log=True),
        Mix("tpcc", "orders: two reads to a write", 0.65, "zipfian", depth=16),
        Mix("tpcb", "a bank's updates", 0.5, "uniform"),
        Mix("tpce", "brokerage, mostly reads", 0.9, "zipfian"),
        Mix("tatp", "a telephone exchange's lookups", 0.8, "uniform", read_kib=4, write_kib=4),
        Mix("websearch", "a search engine's reads", 1.0, "uniform", depth=8),
        Mix("index", "building an index: scans in, log out", 0.5, "sequential", 128, 128, 4, log=True),
        Mix("pagerank", "a graph in passes", 0.85, "sequential", 128, 128, 8),
        Mix("database", "transactions with a log", 0.7, "zipfian", write_kib=32, log=True),
        Mix("randread", "random reads", 1.0, "uniform", depth=4),
        Mix("randwrite", "random writes", 0.0, "uniform", depth=64),
        Mix("randrw", "70 % random reads", 0.7, "uniform", depth=64),
        Mix("seqread", "reads one after the other", 1.0, "sequential", 128, 128, 8),
        Mix("seqwrite", "writes one after the other", 0.0, "sequential", 128, 128, 8),
    )
}


def mix(name: str) -> Mix:
    """A built-in mix.

    :raise UsageError: there is none of that name.
    """
    if name not in MIXES:
        raise UsageError(f"no workload called {name!r}", hint=f"there are {', '.join(MIXES)}")
    return MIXES[name]


class _Zipf:
    """Ranks drawn so that rank r comes up about r^-0.99 as often as the first (Gray et al., SIGMOD 1994)."""

    THETA = 0.99

    def __init__(self, items: int) -> None:
        self._items = items
        self._zeta = sum(rank**-self.THETA for rank in range(1, items + 1))
        self._alpha = 1 / (1 - self.THETA)
        self._eta = (1 - (2 / items) ** (1 - self.THETA)) / (1 - (1 + 0.5**self.THETA) / self._zeta)

    def rank(self, unit: float) -> int:
        scaled = unit * self._zeta
        if scaled < 1:
            return 0
        if scaled < 1 + 0.5**self.THETA:
            return 1
        return min(self._items - 1, int(self._items * (self._eta * unit - self._eta + 1) ** self._alpha))


def flow_of(
    mix: Mix, tenant: int, capacity_bytes: int, count: int, *, seed: int = 1, stop_ns: int = 0, depth: int = 0
) -> Flow:
    """Requests of a mix over all of a tenant's capacity, always `depth` of them under way.

    :param depth: instead of the mix's own; :param stop_ns: no more after this.
    :raise UsageError: the capacity does not hold one request.
    """
    sizes = (mix.read_kib * 2, mix.write_kib * 2)
    pages = capacity_bytes // 512 // max(sizes)
    if pages < 2:
        raise UsageError(
            f"{capacity_bytes} bytes are too few for {mix.name}", hint="give the tenant more capacity"
        )
    places = _Places(mix, pages, max(sizes), Draw(seed * 1000 + tenant))
    writes, sectors, counts = array("b"), array("q"), array("q")
    reads = int(mix.reads * 1_000_000)
    draw = Draw(seed * 1000 + tenant + 500)
    for _ in range(count):
        write = int(draw.below(1_000_000) >= reads)
        writes.append(write)
        sectors.append(places.next(write=write))
        counts.append(sizes[write])
    return Flow(tenant, writes, sectors, counts, depth=depth or mix.depth, stop_ns=stop_ns)


class _Places:
    """Where the next request begins, in sectors."""

    def __init__(self, mix: Mix, pages: int, page_sectors: int, draw: Draw) -> None:
        self._mix, self._pages, self._sectors, self._draw = mix, pages, page_sectors, draw
        self._step = mix.read_kib * 2
        self._zipf = _Zipf(min(pages, 1 << 16)) if mix.where in ("zipfian", "latest") else None
        self._head = draw.below(pages)
        self._scan = draw.below(pages) * page_sectors

    def next(self, *, write: int) -> int:
        if write and (self._mix.log or self._mix.where in ("sequential", "latest")):
            self._head = (self._head + 1) % self._pages
            return self._head * self._sectors
        if self._mix.where == "sequential":
            self._scan = (self._scan + self._step) % (self._pages * self._sectors - self._step)
            return self._scan
        if self._zipf is None:
            return self._draw.below(self._pages) * self._sectors
        rank = self._zipf.rank(self._draw.unit())
        if self._mix.where == "latest":
            return (self._head - rank) % self._pages * self._sectors
        return rank * 2_654_435_761 % self._pages * self._sectors


def read_trace(lines: Iterable[str], tenant: int, capacity_bytes: int, name: str = "trace") -> Flow:
    """A trace as text: `arrival_ns device lba sectors type` (0 writes, 1 reads; as MQSim has it) or MSR's CSV,
    `timestamp,host,disk,Read|Write,offset,size,...` with timestamps in 100 ns. Addresses beyond the capacity wrap.

    :raise UsageError: a line that is neither, or times that go back.
    """
    end = capacity_bytes // 512
    rows: list[tuple[int, int, int, int]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            row = _msr_row(line) if "," in line else _plain_row(line)
        except (ValueError, IndexError):
            row = None
        if row is None or row[3] < 1 or row[3] > end or row[2] < 0:
            raise UsageError(
                f"{name}, line {number}: cannot read {line.strip()[:60]!r}",
                hint="lines are `arrival_ns device lba sectors type`, or MSR's CSV",
            )
        rows.append(row)
    rows.sort(key=lambda entry: entry[0])
    first = rows[0][0] if rows and rows[0][0] > 1 << 50 else 0
    return Flow(
        tenant,
        array("b", [row[1] for row in rows]),
        array("q", [row[2] % (end - row[3] + 1) for row in rows]),
        array("q", [row[3] for row in rows]),
        array("q", [row[0] - first for row in rows]),
    )


def _plain_row(line: str) -> tuple[int, int, int, int]:
    arrival, _, lba, sectors, kind = line.split()
    return int(arrival), int(kind == "0"), int(lba), int(sectors)


def _msr_row(line: str) -> tuple[int, int, int, int]:
    cells = line.split(",")
    if cells[3].strip().lower() not in ("read", "write"):
        raise ValueError(cells[3])
    offset, size = int(cells[4]), int(cells[5])
    return int(cells[0]) * 100, int(cells[3].strip().lower() == "write"), offset // 512, -(-size // 512)
