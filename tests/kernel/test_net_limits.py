"""net on a real kernel: a veth pair between two namespaces of our own, limited, measured, and left as it was."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from ringfence.core.knob import Verdict
from ringfence.core.model import Container
from ringfence.engine.api import open_tenant
from ringfence.engine.changes import Result
from ringfence.errors import TenantError
from ringfence.host import made

MBIT = 10**6
PAYLOAD_BYTES = 1448
FRAME = (PAYLOAD_BYTES + 42) / PAYLOAD_BYTES
"""The kernel counts Ethernet frames, iperf3 what is in them."""
FRAME_BITS = 8 * (PAYLOAD_BYTES + 42)

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(not shutil.which("iperf3"), reason="iperf3 is not installed"),
]


def ran(line: str) -> str:
    return subprocess.run(line.split(), capture_output=True, text=True, check=True).stdout


class Pair(NamedTuple):
    """A container's namespace, the one that stands for the host's, and the container."""

    host: str
    inside: str
    container: Container

    def queues(self) -> str:
        """Everything there is of queues, filters and devices on the host's side."""
        shown = ran(f"tc -n {self.host} qdisc show") + ran(f"ip -n {self.host} -br link show")
        return shown + ran(f"tc -n {self.host} filter show dev vh0 ingress")

    def holds(self, limit_mbit: int, *, to_container: bool, tries: int = 5) -> bool:
        """Whether more than the limit is sent, and it arrives within 5 %.

        More than 5 % above it at any time is a limit that does not hold; less is a sender that had no CPU, and is
        measured again.
        """
        rates: list[float] = []
        while len(rates) < tries and not (rates and rates[-1] >= 0.95 * limit_mbit):
            rates.append(self._arriving_mbit(2 * limit_mbit + 10, "-R" if to_container else ""))
            assert rates[-1] <= 1.05 * limit_mbit
        return rates[-1] >= 0.95 * limit_mbit

    def _arriving_mbit(self, offered_mbit: int, way: str) -> float:
        """Frames that reach the other side, in Mbit/s, whether or not a program there reads them in time."""
        flow = f"iperf3 -c 10.99.0.1 -u -l {PAYLOAD_BYTES} -b {offered_mbit}M -t 2 {way}"
        client = started(f"ip netns exec {self.inside} {flow}")
        receiver = self.inside if way else self.host
        time.sleep(0.6)
        came, start = _arrived(receiver), time.monotonic()
        time.sleep(1)
        rate = (_arrived(receiver) - came) * FRAME_BITS / (time.monotonic() - start) / MBIT
        assert client.wait(timeout=30) == 0
        return rate


def started(line: str, stdout: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    return subprocess.Popen(line.split(), stdout=stdout, stderr=subprocess.DEVNULL)


def _udp(netns: str, counter: str) -> int:
    """One of the kernel's counters of UDP (/proc/net/snmp)."""
    rows = ran(f"ip netns exec {netns} cat /proc/net/snmp").splitlines()
    names, counts = (row.split() for row in rows if row.startswith("Udp:"))
    return int(counts[names.index(counter)])


def _unread(netns: str) -> int:
    """Packets that came, and found the buffer of a socket full."""
    return _udp(netns, "RcvbufErrors")


def _arrived(netns: str) -> int:
    return _udp(netns, "InDatagrams") + _unread(netns)


@pytest.fixture
def pair() -> Iterator[Pair]:
    host, inside = f"rfnet-h{os.getpid()}", f"rfnet-c{os.getpid()}"
    running: list[subprocess.Popen[bytes]] = []
    try:
        for line in (
            f"ip netns add {host}",
            f"ip netns add {inside}",
            f"ip -n {host} link add vh0 type veth peer name eth0 netns {inside}",
            f"ip -n {host} addr add 10.99.0.1/24 dev vh0",
            f"ip -n {inside} addr add 10.99.0.2/24 dev eth0",
            f"ip -n {host} link set vh0 up",
            f"ip -n {inside} link set eth0 up",
        ):
            ran(line)
        running += [started(f"ip netns exec {inside} sleep 600"), started(f"ip netns exec {host} iperf3 -s")]
        deadline = time.monotonic() + 10
        while "5201" not in ran(f"ip netns exec {host} ss -ltn"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield Pair(host, inside, Container("web", "", "cgroup", running[0].pid, "/web"))
    finally:
        for process in running:
            process.kill()
            process.wait()
        for name in (host, inside):
            subprocess.run(["ip", "netns", "del", name], check=False)


async def set_(pair: Pair, **values: str) -> list[Result]:
    """`egress_burst` stands for `net.eth0.egress.burst`."""
    async with open_tenant(pair.container) as tenant:
        return await tenant.set({f"net.eth0.{key.replace('_', '.')}": value for key, value in values.items()})


async def shown(pair: Pair) -> dict[str, object]:
    async with open_tenant(pair.container) as tenant:
        seen = await tenant.show()
    return {o.key: o.actual for o in seen if o.key.startswith("net.") and o.actual is not None}


def verdicts(results: list[Result]) -> set[Verdict]:
    return {result.verdict for result in results}


async def test_limits_hold_both_ways_and_leave_no_trace(pair: Pair) -> None:
    before = pair.queues()
    assert verdicts(await set_(pair, egress="20Mbit", ingress="100Mbit")) == {Verdict.APPLIED}
    assert await shown(pair) == {"net.eth0.egress": 20 * MBIT, "net.eth0.ingress": 100 * MBIT}
    assert pair.holds(20, to_container=False)
    assert pair.holds(100, to_container=True)
    assert verdicts(await set_(pair, egress="80Mbit", ingress="10Mbit")) == {Verdict.APPLIED}
    assert pair.holds(80, to_container=False)
    assert pair.holds(10, to_container=True)
    assert verdicts(await set_(pair, egress="unlimited", ingress="unlimited")) == {Verdict.APPLIED}
    assert await shown(pair) == {}
    assert pair.queues() == before


@pytest.mark.parametrize("direction", ["egress", "ingress"])
async def test_no_packet_is_lost_by_a_change(pair: Pair, direction: str) -> None:
    await set_(pair, **{direction: "100Mbit"})
    flow = f"iperf3 -c 10.99.0.1 -u -l {PAYLOAD_BYTES} -b 40M -t 2 -J {'-R' if direction == 'ingress' else ''}"
    receiver = pair.inside if direction == "ingress" else pair.host
    missed = _unread(receiver)
    client = started(f"ip netns exec {pair.inside} {flow}", stdout=subprocess.PIPE)
    changes = 0
    async with open_tenant(pair.container) as tenant:
        while client.poll() is None and changes < 25:
            rate = ("80Mbit", "120Mbit")[changes % 2]
            assert verdicts(await tenant.set({f"net.eth0.{direction}": rate})) == {Verdict.APPLIED}
            changes += 1
    out, _ = client.communicate(timeout=30)
    total = json.loads(out)["end"]["sum"]
    assert changes >= 10
    assert total["lost_packets"] == _unread(receiver) - missed  # a receiver that had no CPU lost them, nobody else
    assert total["packets"] > 3000


async def test_a_burst_goes_at_its_ceiling_and_the_rate_holds_after_it(pair: Pair) -> None:
    await set_(pair, ingress="10Mbit", ingress_burst="4MB", ingress_ceiling="80Mbit")
    held = await shown(pair)
    assert held["net.eth0.ingress.burst"] == pytest.approx(4_000_000, rel=0.01)
    assert held["net.eth0.ingress.ceiling"] == 80 * MBIT
    burst = ran(f"ip netns exec {pair.inside} iperf3 -c 10.99.0.1 -u -l {PAYLOAD_BYTES} -b 200M -t 3 -i 0.1 -J -R")
    rates = [step["sum"]["bits_per_second"] * FRAME / MBIT for step in json.loads(burst)["intervals"]]
    assert sum(rates[1:3]) / 2 == pytest.approx(80, rel=0.1)
    assert sum(rates[-10:]) / 10 == pytest.approx(10, rel=0.1)


async def test_queues_of_others_are_named_and_kept(pair: Pair) -> None:
    ran(f"tc -n {pair.host} qdisc add dev vh0 root handle 1: tbf rate 50mbit burst 64k latency 50ms")
    ran(f"tc -n {pair.host} qdisc add dev vh0 clsact")
    before = pair.queues()
    with pytest.raises(TenantError, match="'tbf 1:' that ringfence did not make"):
        await set_(pair, ingress="10Mbit")
    assert pair.queues() == before
    assert verdicts(await set_(pair, egress="10Mbit")) == {Verdict.APPLIED}
    assert pair.holds(10, to_container=False)
    await set_(pair, egress="unlimited")
    assert pair.queues() == before


async def test_filters_of_others_are_named_and_kept(pair: Pair) -> None:
    ran(f"tc -n {pair.host} qdisc add dev vh0 ingress")
    ran(f"tc -n {pair.host} filter add dev vh0 ingress protocol ip prio 5 u32 match u32 0 0 flowid 1:1")
    before = pair.queues()
    with pytest.raises(TenantError, match=r"ingress filters \(u32\)"):
        await set_(pair, egress="10Mbit")
    assert pair.queues() == before


async def test_what_a_crash_left_is_taken_over(pair: Pair) -> None:
    before = pair.queues()
    await set_(pair, egress="10Mbit", ingress="10Mbit")
    ran(f"tc -n {pair.host} filter del dev vh0 ingress")
    ran(f"tc -n {pair.host} class change dev vh0 classid 7266:1 htb rate 5mbit")
    assert verdicts(await set_(pair, egress="20Mbit", ingress="20Mbit")) == {Verdict.APPLIED}
    assert pair.holds(20, to_container=False)
    await set_(pair, egress="unlimited", ingress="unlimited")
    assert pair.queues() == before


async def test_clean_finds_what_was_made_and_puts_things_back(pair: Pair) -> None:
    before = pair.queues()
    await set_(pair, egress="10Mbit", ingress="10Mbit")
    ran(f"ip -n {pair.host} link add rf-i4711 type ifb")
    ran(f"ip -n {pair.host} link set rf-i4711 alias ringfence:made:tap9:gone")
    found = [thing for thing in made.find() if thing.name.startswith(f"{pair.host}:")]
    assert {(thing.kind, thing.name.partition(":")[2], thing.holds) for thing in found} == {
        ("device", "rf-i4711", ""),
        ("device", "rf-i2", "interface vh0"),
        ("queue", "vh0", "interface vh0"),
    }
    assert [error for _, error in await made.remove(found)] == [None, None, None]
    assert pair.queues() == before


async def test_a_priority_is_a_mark_that_the_hosts_own_queues_see(pair: Pair) -> None:
    if not _has(pair, "act_skbedit"):
        pytest.skip("this kernel has no act_skbedit")
    before = pair.queues()
    assert verdicts(await set_(pair, egress_priority="high")) == {Verdict.APPLIED}
    assert "priority :6" in pair.queues()
    assert verdicts(await set_(pair, egress_priority="low", egress="20Mbit")) == {Verdict.APPLIED}
    assert "priority :1" in pair.queues()
    assert pair.holds(20, to_container=False)
    await set_(pair, egress_priority="normal", egress="unlimited")
    assert pair.queues() == before


def _has(pair: Pair, action: str) -> bool:
    add = f"tc -n {pair.host} actions add action {action.removeprefix('act_')} priority 6 index 77"
    found = subprocess.run(add.split(), capture_output=True, check=False).returncode == 0
    if found:
        ran(f"tc -n {pair.host} actions del action {action.removeprefix('act_')} index 77")
    return found


def test_the_processes_of_a_container_without_a_network_of_its_own(tmp_path: object) -> None:
    """A process in ringfence's own namespace shares the host's network."""
    import asyncio

    async def refused() -> str:
        container = Container("web", "", "cgroup", os.getpid(), "/web")
        async with open_tenant(container) as tenant:
            with pytest.raises(TenantError) as error:
                await tenant.set({"net.host.egress": "1Mbit"})
        return str(error.value)

    assert "shares the network of the host" in asyncio.run(refused())
