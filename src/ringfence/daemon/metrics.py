"""What Prometheus is told: every knob's target and actual, how fences stand, and what disks do.

A scrape looks at tenants whose figures are older than a few seconds, a few at a time; between scrapes nothing is
read for it. Names end in their unit, as https://prometheus.io/docs/practices/naming/ asks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from ringfence.core.answers import ILL_FORMED, entries, fields
from ringfence.core.model import Container
from ringfence.core.requests import Qmp, Steps
from ringfence.daemon.service import log
from ringfence.engine import api
from ringfence.engine.driver import observe
from ringfence.errors import HostError, RingfenceError
from ringfence.knobs.disk import names as disk_names

if TYPE_CHECKING:
    from ringfence.core.knob import Observation
    from ringfence.core.model import Tenant
    from ringfence.daemon.warden import Warden

FRESH_S = 5.0
"""Prometheus asks every 15 s or less often; two that ask at once share one look."""

_AT_ONCE = 20
_OPERATIONS = {"read": "rd", "write": "wr", "flush": "flush"}


class _Figures(NamedTuple):
    """What was read of one tenant. :param at_s: monotonic. :param disks: counters by disk, as QEMU names them."""

    at_s: float
    knobs: tuple[Observation, ...]
    disks: dict[str, dict[str, int]]
    problem: bool


class Metrics:
    """Collects; `text` is what a scrape gets."""

    def __init__(self, warden: Warden) -> None:
        self._warden = warden
        self._figures: dict[str, _Figures] = {}
        self._looking = asyncio.Lock()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    async def text(self) -> str:
        """Everything, in Prometheus' text format, no older than `FRESH_S`."""
        async with self._looking:
            await self._refresh()
        return generate_latest(self._registry).decode()

    async def _refresh(self) -> None:
        running = self._warden.office.running
        self._figures = {identity: one for identity, one in self._figures.items() if identity in running}
        now_s = time.monotonic()
        stale = [
            (identity, tenant)
            for identity, tenant in running.items()
            if identity not in self._figures or now_s - self._figures[identity].at_s > FRESH_S
        ]
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(identity: str, tenant: Tenant) -> None:
            async with gate:
                self._figures[identity] = await _read(tenant)

        await asyncio.gather(*(one(identity, tenant) for identity, tenant in stale))

    def collect(self) -> Iterator[Metric]:
        """For prometheus_client."""
        named = [
            (tenant.name, self._figures[identity])
            for identity, tenant in self._warden.office.running.items()
            if identity in self._figures
        ]
        yield from _knobs(named)
        yield from _disks(named)
        yield from self._fences()
        yield from self._daemon()

    def _fences(self) -> Iterator[Metric]:
        labels = ["tenant", "kind"]
        in_step = GaugeMetricFamily(
            "ringfence_fence_in_step", "1 when this kind is as its fence says", labels=labels
        )
        state = GaugeMetricFamily(
            "ringfence_fence_state", "1 for the state that a kind is in", labels=[*labels, "state"]
        )
        repairs = GaugeMetricFamily(
            "ringfence_fence_disputes",
            "how often a kind was put right since it was last left alone",
            labels=labels,
        )
        looked = GaugeMetricFamily(
            "ringfence_fence_looked_at_timestamp_seconds", "when a kind was last looked at", labels=labels
        )
        for keeper in self._warden.keepers.values():
            for kind, kept in keeper.kept.items():
                where = [keeper.tenant.name, kind]
                in_step.add_metric(where, float(kept.state == "in step"))
                state.add_metric([*where, kept.state], 1.0)
                repairs.add_metric(where, kept.repairs)
                looked.add_metric(where, kept.at_s)
        yield from (in_step, state, repairs, looked)

    def _daemon(self) -> Iterator[Metric]:
        office = self._warden.office
        yield CounterMetricFamily("ringfence_repairs", "what drifted and was put right", value=office.repairs)
        verdicts = CounterMetricFamily(
            "ringfence_verdicts", "what became of the daemon's changes", labels=["verdict"]
        )
        for verdict, count in sorted(office.verdicts.items()):
            verdicts.add_metric([verdict], count)
        yield verdicts
        yield GaugeMetricFamily(
            "ringfence_look_interval_seconds", "between two looks for drift", value=office.interval_s()
        )
        yield GaugeMetricFamily("ringfence_tenants", "tenants that run", value=len(office.running))
        yield GaugeMetricFamily("ringfence_tenants_fenced", "those with a fence", value=len(self._warden.keepers))
        yield CounterMetricFamily("ringfence_cpu_seconds", "CPU time of the daemon", value=time.process_time())


def _knobs(named: Iterable[tuple[str, _Figures]]) -> Iterator[Metric]:
    labels = ["tenant", "key", "unit"]
    target = GaugeMetricFamily("ringfence_knob_target", "what was asked of QEMU or the kernel", labels=labels)
    actual = GaugeMetricFamily("ringfence_knob_actual", "what is so", labels=labels)
    readable = GaugeMetricFamily(
        "ringfence_tenant_readable", "0 when some of it could not be read", labels=["tenant"]
    )
    for name, figures in named:
        readable.add_metric([name], float(not figures.problem))
        for one in figures.knobs:
            where = [name, one.key, one.row.unit]
            if isinstance(one.target, int):
                target.add_metric(where, one.target)
            if isinstance(one.actual, int):
                actual.add_metric(where, one.actual)
    yield from (target, actual, readable)


def _disks(named: Iterable[tuple[str, _Figures]]) -> Iterator[Metric]:
    labels = ["tenant", "disk", "operation"]
    done = CounterMetricFamily("ringfence_disk_operations", "requests that QEMU has finished", labels=labels)
    moved = CounterMetricFamily("ringfence_disk_bytes", "bytes that they moved", labels=labels)
    took = CounterMetricFamily("ringfence_disk_seconds", "how long they took together", labels=labels)
    for name, figures in named:
        for disk, stats in figures.disks.items():
            for operation, short in _OPERATIONS.items():
                where = [name, disk, operation]
                done.add_metric(where, stats.get(f"{short}_operations", 0))
                took.add_metric(where, stats.get(f"{short}_total_time_ns", 0) / 1e9)
                if operation != "flush":
                    moved.add_metric(where, stats.get(f"{short}_bytes", 0))
    yield from (done, moved, took)


async def _read(tenant: Tenant) -> _Figures:
    async with api.open_tenant(tenant) as opened:
        try:
            knobs = tuple(await opened.show())
            problem = opened.trouble is not None
        except RingfenceError:
            return _Figures(time.monotonic(), (), {}, True)
        disks: dict[str, dict[str, int]] = {}
        if not isinstance(tenant, Container):
            try:
                disks = await observe(_blockstats(), opened.edges)
            except RingfenceError:
                problem = True
    return _Figures(time.monotonic(), knobs, disks, problem)


def _blockstats() -> Steps[dict[str, dict[str, int]]]:
    found = yield from disk_names.observe()
    names = {disk.qdev: disk.name for disk in found}
    stats: dict[str, dict[str, int]] = {}
    for entry in entries((yield Qmp("query-blockstats"))):
        name = names.get(entry.get("qdev", ""))
        if name:
            stats[name] = {key: value for key, value in fields(entry["stats"]).items() if isinstance(value, int)}
    return stats


async def serve_metrics(where: str, metrics: Metrics) -> Callable[[], Awaitable[None]]:
    """Answer `GET /metrics` on `HOST:PORT` of the loopback, or on a unix socket's path; returns what ends it.

    :raise HostError: it cannot be had, or others than this host could ask.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(30.0):
                request = await reader.readuntil(b"\r\n\r\n")
                writer.write(await _response(request, metrics))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        except ILL_FORMED as error:
            log("error", f"metrics: {error!r}")
        finally:
            writer.close()

    host, _, port = where.rpartition(":")
    try:
        if "/" in where:
            server = await asyncio.start_unix_server(answer, where)
        elif host in ("127.0.0.1", "localhost", "[::1]", "") and port.isdecimal():
            server = await asyncio.start_server(answer, host.strip("[]") or "127.0.0.1", int(port))
        else:
            raise HostError(
                f"metrics are not told on {where!r}", hint="use a path, or 127.0.0.1:PORT with a proxy before it"
            )
    except OSError as error:
        raise HostError(
            f"cannot tell metrics on {where}: {error.strerror}", path=where, errno=error.errno or 0
        ) from None

    async def close() -> None:
        server.close()

    return close


async def _response(request: bytes, metrics: Metrics) -> bytes:
    method, _, rest = request.decode("latin-1").partition(" ")
    path = rest.split(" ", 1)[0].partition("?")[0]
    if method not in ("GET", "HEAD"):
        return _http("405 Method Not Allowed", "text/plain", "only GET\n")
    if path != "/metrics":
        return _http("404 Not Found", "text/plain", "see /metrics\n")
    return _http("200 OK", CONTENT_TYPE_LATEST, await metrics.text() if method == "GET" else "")


def _http(status: str, kind: str, body: str) -> bytes:
    data = body.encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    return head.encode() + data
