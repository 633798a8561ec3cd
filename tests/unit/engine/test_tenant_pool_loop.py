"""The pool over VMs of which one misbehaves: it leaves, and the others go on with what it had."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ringfence.core.model import Address
from ringfence.engine.api import OpenVm
from ringfence.engine.driver import Edges
from ringfence.engine.tenant_pool import Member, PoolLoop, parse_member
from ringfence.errors import MonitorError, MonitorGoneError, MonitorTimeoutError, UsageError
from ringfence.qemu.discovery import vm_at
from ringfence.testing.obedient_vm import ObedientVm
from ringfence.testing.script import Refuse

QUOTA = 1000


class Tenant:
    """A VM on paper, open; its disks do nothing."""

    def __init__(self, name: str, paper: Any) -> None:
        self.vm = ObedientVm()
        self.session = paper(self.vm.answers | {"query-blockstats": [self.done("a"), self.done("b")], "cont": {}})
        info = vm_at(Address("/nowhere"))._replace(name=name)
        self.open = OpenVm(info, Edges(self.session, None, 0))

    def done(self, disk: str) -> dict[str, Any]:
        counters = ("rd_operations", "wr_operations", "rd_bytes", "wr_bytes")
        return {"qdev": f"/machine/peripheral/{disk}/virtio-backend", "stats": dict.fromkeys(counters, 7)}

    @property
    def iops(self) -> int:
        return self.vm.limits["a"]["iops"]


@pytest.fixture
def tenants(session: Any) -> list[Tenant]:
    return [Tenant(name, type(session)) for name in ("web1", "web2")]


async def started(tenants: list[Tenant]) -> PoolLoop:
    loop = PoolLoop([Member(tenant.open, "vda") for tenant in tenants], "iops", QUOTA)
    await loop.start()
    return loop


async def test_the_limits_keep_the_quota_from_the_start(tenants: list[Tenant]) -> None:
    await started(tenants)
    assert tenants[0].iops == tenants[1].iops > 0
    assert sum(tenant.iops for tenant in tenants) <= QUOTA


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (MonitorGoneError("QEMU closed the connection"), "closed the connection"),
        (MonitorTimeoutError("no answer"), "no answer"),
        (Refuse("GenericError", "not now"), "not now"),
        ({}, "answer to query-blockstats .* an array is expected"),
        ([{"qdev": "/machine/peripheral/a/virtio-backend"}], "has no 'stats'"),
        ([], "the disk is gone"),
    ],
)
async def test_who_cannot_be_asked_leaves_and_the_others_go_on(
    tenants: list[Tenant], answer: object, why: str
) -> None:
    loop = await started(tenants)
    tenants[0].session.answers["query-blockstats"] = answer
    tick = await loop.tick()
    assert list(tick.dropped) == ["web1:vda"]
    assert re.search(why, tick.dropped["web1:vda"])
    assert list(tick.shares) == ["web2:vda"]
    assert (await loop.tick()).dropped == {}


async def test_without_members_there_is_no_pool(tenants: list[Tenant]) -> None:
    loop = await started(tenants[:1])
    tenants[0].session.answers["query-blockstats"] = []
    with pytest.raises(UsageError, match="no member of the pool is left") as caught:
        await loop.tick()
    assert "the disk is gone" in caught.value.hint


async def test_a_limit_that_is_refused_at_the_start_is_qemus_no(tenants: list[Tenant]) -> None:
    tenants[1].session.answers["block_set_io_throttle"] = Refuse("GenericError", "not today")
    with pytest.raises(MonitorError, match=r"web2:vda: limit \d+ refused: not today") as caught:
        await started(tenants)
    assert caught.value.hint


@pytest.mark.parametrize("text", ["web1", "web1:", ":vda", "a:b=x", "a:b=0", "a:b=-1", "a:b=inf", "a:b=nan"])
def test_what_is_no_member(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_member(text)
    assert caught.value.hint


def test_a_member() -> None:
    assert parse_member("web1:vda=0.5") == ("web1", "vda", 0.5)
    assert parse_member("a:b:vda") == ("a:b", "vda", 1.0)


def test_a_disk_that_is_given_twice_is_refused(tenants: list[Tenant]) -> None:
    with pytest.raises(UsageError, match="named twice"):
        PoolLoop([Member(tenants[0].open, "vda"), Member(tenants[0].open, "vda", 9)], "iops", QUOTA)


async def test_a_burst_would_void_the_quota(tenants: list[Tenant]) -> None:
    await tenants[0].open.set({"disk.vda.iops": 100, "disk.vda.iops.burst": 5000})
    with pytest.raises(UsageError, match="web1:vda has a burst"):
        await started(tenants)


async def test_who_is_silent_but_alive_is_waited_for_and_then_keeps_its_part_of_the_quota(
    tenants: list[Tenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = await started(tenants)
    held = tenants[0].iops
    monkeypatch.setattr(tenants[0].open.edges, "rss_bytes", lambda: 1)
    tenants[0].session.answers["query-blockstats"] = MonitorTimeoutError("no answer")
    for _ in range(2):
        tick = await loop.tick()
        assert tick.dropped == {}
        assert [tenant.iops for tenant in tenants] == [held, held]
    assert list((await loop.tick()).dropped) == ["web1:vda"]
    await loop.settle()
    assert held + tenants[1].iops <= QUOTA
