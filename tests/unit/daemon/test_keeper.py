"""The keeper against an office on paper, with a clock that only moves when it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, cast

import pytest

from ringfence.core.model import Container
from ringfence.core.spec import Fence, Setting
from ringfence.core.spec_yaml import Place
from ringfence.daemon import keeper as keepers
from ringfence.daemon.keeper import Keeper
from ringfence.engine.changes import Problem
from ringfence.engine.fences import Plan, Seen, TenantPlan
from ringfence.engine.transaction import Ended, Report
from ringfence.errors import MonitorGoneError, RingfenceError, TenantError

TENANT = Container("web", "", "cgroup", 0, "/web")
CPU = "cpu.cap"


class PaperOffice:
    """What a keeper asks of its office; tests say what comes of it.

    :ivar drifted: whether a look finds something. :ivar error: raised by the next applies; `problem` is planned.
    """

    def __init__(self) -> None:
        self.clock_s = 1000.0
        self.applied: list[tuple[str, float]] = []
        self.looked: list[float] = []
        self.told: list[Sequence[str]] = []
        self.drifted = False
        self.error: RingfenceError | None = None
        self.problem: RingfenceError | None = None
        self.meanwhile: Callable[[], object] = lambda: None

    def now_s(self) -> float:
        return self.clock_s

    def interval_s(self) -> float:
        return 30.0

    def repaired(self, tenant: object, kind: str, differs: Sequence[str]) -> None:
        self.told.append(differs)

    def _plan(self, fence: Fence) -> TenantPlan:
        problems = (Problem((CPU,), self.problem),) if self.problem else ()
        steps: tuple[Any, ...] = (_Step(),) if self.drifted else ()
        return TenantPlan(Seen(TENANT, fence, {}), steps, 1, problems, {})

    async def apply(self, tenant: object, fence: Fence, kind: str, options: object) -> Report:
        self.applied.append((kind, self.clock_s))
        self.meanwhile()
        if self.error:
            raise self.error
        plan = self._plan(fence)
        self.drifted = False
        ended = Ended(plan, (), "untouched")
        return Report(Plan((plan,), ()), 1, (ended,))

    async def look(self, tenant: object, fence: Fence, kind: str) -> TenantPlan:
        self.looked.append(self.clock_s)
        return self._plan(fence)


class _Step:
    """A step of a plan that differs in nothing a person is told."""

    def __init__(self) -> None:
        self.wants: dict[str, Any] = {}
        self.keys: dict[str, Any] = {}


def fence(drift: str = "repair", *keys: str) -> Fence:
    settings = {key: Setting(key, 50, Place("f.yaml", 1, 1), "web") for key in keys or (CPU,)}
    return Fence(settings, {}, ("web",), drift)


@pytest.fixture
def office() -> PaperOffice:
    return PaperOffice()


def make(office: PaperOffice, wanted: Fence | None = None) -> Keeper:
    return Keeper(TENANT, wanted or fence(), cast(Any, office), lambda *_: None)


async def turn(keeper: Keeper) -> None:
    """Let the keeper do all that is due now."""
    task = asyncio.create_task(keeper.run())
    for _ in range(6):
        await asyncio.sleep(0)
    task.cancel()


async def test_a_fence_is_met_at_once_and_then_looked_at_from_time_to_time(office: PaperOffice) -> None:
    keeper = make(office)
    await turn(keeper)
    assert office.applied == [("cpu", 1000.0)]
    assert keeper.kept["cpu"].state == keepers.IN_STEP
    office.clock_s += 29
    await turn(keeper)
    assert office.looked == []
    office.clock_s += 2
    await turn(keeper)
    assert office.looked == [1031.0]
    assert len(office.applied) == 1


async def test_what_cannot_be_done_yet_is_tried_again_with_growing_pauses(office: PaperOffice) -> None:
    keeper = make(office)
    office.error = MonitorGoneError("nobody listens")
    for _ in range(200):
        await turn(keeper)
        office.clock_s += 0.5
    tried = [when for _, when in office.applied]
    pauses = [later - earlier for earlier, later in pairwise(tried)]
    assert keeper.kept["cpu"].state == keepers.WAITING
    assert pauses == sorted(pauses)
    assert pauses[-1] >= 30.0
    assert max(pauses) <= keepers.LAST_PAUSE_S + 0.5
    office.error = None
    office.clock_s += keepers.LAST_PAUSE_S
    await turn(keeper)
    assert keeper.kept["cpu"].state == keepers.IN_STEP


async def test_what_the_vm_cannot_as_it_was_started_is_refused_and_not_hurried(office: PaperOffice) -> None:
    keeper = make(office)
    office.problem = TenantError("no such thing", hint="start it with one")
    await turn(keeper)
    assert keeper.kept["cpu"].state == keepers.REFUSED
    assert "start it with one" in keeper.kept["cpu"].reason
    office.clock_s += 29
    await turn(keeper)
    assert len(office.applied) == 1


async def test_drift_is_put_right_and_more_and_more_rarely_when_disputed(office: PaperOffice) -> None:
    keeper = make(office)
    await turn(keeper)
    for _ in range(300):
        office.drifted = True
        office.clock_s += 10
        await turn(keeper)
    repairs = [when for _, when in office.applied[1:]]
    pauses = [later - earlier for earlier, later in pairwise(repairs)]
    assert len(repairs) == len(office.told)
    assert 4 <= len(repairs) <= 9
    assert pauses == sorted(pauses)
    assert keeper.kept["cpu"].state == keepers.DRIFTED
    assert "keeps changing it" in keeper.kept["cpu"].reason


async def test_a_dispute_that_has_ended_is_forgotten(office: PaperOffice) -> None:
    keeper = make(office)
    await turn(keeper)
    office.drifted = True
    office.clock_s += 31
    await turn(keeper)
    assert keeper.kept["cpu"].repairs == 1
    for _ in range(30):
        office.clock_s += 31
        await turn(keeper)
    assert keeper.kept["cpu"].repairs == 0


async def test_warn_changes_nothing_and_off_does_not_look(office: PaperOffice) -> None:
    keeper = make(office, fence("warn"))
    await turn(keeper)
    office.drifted = True
    office.clock_s += 31
    await turn(keeper)
    assert keeper.kept["cpu"].state == keepers.DRIFTED
    assert len(office.applied) == 1
    quiet = make(office, fence("off"))
    looked = len(office.looked)
    await turn(quiet)
    office.clock_s += 100
    await turn(quiet)
    assert len(office.looked) == looked


async def test_a_kind_that_waits_holds_up_no_other(office: PaperOffice) -> None:
    keeper = make(office, fence("repair", "memory.target", CPU, "disk.vda.iops"))
    await turn(keeper)
    assert [kind for kind, _ in office.applied] == ["cpu", "disk", "memory"]


async def test_another_fence_is_met_only_where_it_says_something_else(office: PaperOffice) -> None:
    keeper = make(office, fence("repair", CPU, "disk.vda.iops"))
    await turn(keeper)
    changed = fence("repair", CPU, "disk.vda.iops")
    changed.settings["disk.vda.iops"] = changed.settings["disk.vda.iops"]._replace(value=70)  # type: ignore[index]
    keeper.refence(changed)
    await turn(keeper)
    assert [kind for kind, _ in office.applied] == ["cpu", "disk", "disk"]
    assert len(office.looked) == 1


async def test_a_reset_of_the_guest_has_all_of_it_met_anew(office: PaperOffice) -> None:
    keeper = make(office)
    await turn(keeper)
    keeper.poke(fresh=True)
    await turn(keeper)
    assert len(office.applied) == 2


async def test_what_is_asked_for_while_a_change_is_under_way_is_not_forgotten(office: PaperOffice) -> None:
    keeper = make(office)

    def poke_once() -> None:
        office.meanwhile = lambda: None
        keeper.poke(fresh=True)

    office.meanwhile = poke_once
    await turn(keeper)
    assert len(office.applied) == 2
