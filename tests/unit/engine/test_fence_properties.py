"""What must hold for every spec: a plan after apply is empty, undo restores, two applies take turns."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ringfence.core.model import Tenant, Vm
from ringfence.core.spec import Spec
from ringfence.core.spec_read import document, merged
from ringfence.engine import fences, journal, recovery, snapshot, transaction
from ringfence.engine.driver import Edges
from ringfence.engine.journal import Author, Journal
from ringfence.engine.transaction import Doors, Options
from ringfence.errors import MonitorRefusedError
from ringfence.testing.obedient_vm import ObedientVm
from ringfence.testing.script import Event, Refuse, Return, unfold

MIB = 1 << 20
AUTHOR = Author("me", 1, "now", "a test")


def tenant(name: str) -> Vm:
    nothing: Any = ()
    return Vm(name, 1, "", "q35", "tcg", 0, 0, 2, 4, nothing, None, nothing, nothing, "plain", "", nothing)


class Slow:
    """A session with an obedient VM that lets others go on before each answer, as often as it was told."""

    def __init__(self, answers: Mapping[str, Any], turns: Iterable[int]) -> None:
        self._answers = answers
        self._turns = itertools.cycle(turns)
        self._events: list[dict[str, Any]] = []

    async def execute(self, command: str, arguments: Any = None, *, timeout_s: float) -> Any:
        for _ in range(next(self._turns)):
            await asyncio.sleep(0)
        value: Any = None
        answer = self._answers.get(command, Refuse("CommandNotFound", f"{command} has not been found"))
        for act in unfold(answer, arguments or {}):
            match act:
                case Return(value):
                    pass
                case Refuse(error_class, description):
                    raise MonitorRefusedError(description, error_class=error_class)
                case Event(name, data):
                    self._events.append({"event": name, "data": data})
        return value

    async def execute_all(self, commands: Sequence[tuple[str, Any]], *, timeout_s: float) -> list[Any]:
        return [await self.execute(command, arguments, timeout_s=timeout_s) for command, arguments in commands]

    @contextmanager
    def listen(self, _: Collection[str]) -> Iterator[Slow]:
        yield self

    async def get(self, _: float | None) -> Any:
        return self._events.pop(0) if self._events else None


class Opened:
    def __init__(self, info: Tenant, edges: Edges) -> None:
        self.info = info
        self.edges = edges

    async def close(self) -> None:
        return


class World:
    """Obedient VMs behind doors whose turns are locks."""

    def __init__(self, names: Iterable[str] = ("web1",), turns: Iterable[int] = (0,)) -> None:
        self.vms = {name: ObedientVm() for name in names}
        self.tenants: list[Tenant] = [tenant(name) for name in self.vms]
        self.journal = Journal(":memory:")
        self._turns = list(turns)
        self._locks: dict[str, asyncio.Lock] = {name: asyncio.Lock() for name in self.vms}

    def doors(self) -> Doors:
        async def open_(one: Tenant) -> Opened:
            return Opened(one, Edges(Slow(self.vms[one.name].answers, self._turns)))  # type: ignore[arg-type]

        @asynccontextmanager
        async def turn(one: Tenant, _: Iterable[str]) -> AsyncIterator[None]:
            async with self._locks[one.name]:
                yield

        return Doors(open_, turn, lambda one: one.name, lambda: 1.0)

    async def apply(self, spec: Spec) -> transaction.Report:
        return await transaction.apply(spec, self.tenants, self.doors(), self.journal, AUTHOR, Options())

    async def undo(self) -> recovery.Undo:
        last = recovery.latest(self.journal)
        return await recovery.undo(self.journal, last, self.tenants, self.doors(), AUTHOR)

    async def values(self) -> dict[str, dict[str, Any]]:
        found = {}
        for one in self.tenants:
            edges = (await self.doors().open(one)).edges
            knobs = snapshot.knobs_of(("vcpus", "disk.vda.iops", "memory.target"))
            found[one.name] = snapshot.values(await snapshot.look(edges, knobs))
        return found


def spec(fences_: Mapping[str, Any]) -> Spec:
    import yaml

    text = yaml.safe_dump({"fences": dict(fences_)})
    return merged([("f.yaml", document(text, "f.yaml", fences.words(), fences.read_value))])


RATE = st.integers(1, 10**6) | st.just("unlimited")
DISK = st.fixed_dictionaries(
    {}, optional={"iops": RATE, "bps": RATE, "iops_read": st.just("unlimited"), "io_size": st.just("unlimited")}
)
BURST = st.integers(1, 1000).flatmap(
    lambda rate: st.integers(rate, 10**6).map(lambda burst: {"iops": rate, "iops_burst": f"{burst} for 3s"})
)
FENCE = st.fixed_dictionaries(
    {},
    optional={
        "vcpus": st.integers(2, 4),
        "memory": st.integers(600, 1024).map(lambda mib: {"target": mib * MIB}),
        "disks": st.fixed_dictionaries({}, optional={"vda": DISK | BURST, "vdb": DISK | BURST}),
    },
)
FENCES = st.fixed_dictionaries({"web1": FENCE}, optional={"web*": FENCE, "web2": FENCE})


@settings(max_examples=12, deadline=None)
@given(FENCES)
def test_a_plan_after_apply_is_empty_and_undo_restores(wanted: dict[str, Any]) -> None:
    async def check() -> None:
        world = World(("web1", "web2"))
        before = await world.values()
        report = await world.apply(spec(wanted))
        assert all(not one.problems for one in report.plan.tenants), report
        assert {one.state for one in report.tenants} <= {journal.NEW, transaction.UNTOUCHED}
        assert (await world.apply(spec(wanted))).plan.empty
        if report.number is not None:
            undone = await world.undo()
            assert {one.back.state for one in undone.tenants} == {journal.OLD}, undone
        assert await world.values() == before

    asyncio.run(check())


@settings(max_examples=8, deadline=None)
@given(FENCES, FENCES, st.lists(st.integers(0, 4), min_size=1, max_size=5))
def test_two_applies_at_once_are_as_one_after_the_other(
    one: dict[str, Any], other: dict[str, Any], turns: list[int]
) -> None:
    async def at_once() -> object:
        world = World(("web1", "web2"), turns)
        await asyncio.gather(world.apply(spec(one)), world.apply(spec(other)))
        return await world.values()

    async def in_turn(first: dict[str, Any], second: dict[str, Any]) -> object:
        world = World(("web1", "web2"))
        await world.apply(spec(first))
        await world.apply(spec(second))
        return await world.values()

    assert asyncio.run(at_once()) in (asyncio.run(in_turn(one, other)), asyncio.run(in_turn(other, one)))
