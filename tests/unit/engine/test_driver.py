"""The driver: requests become I/O, errors are thrown in, deadlines are kept, and no answer is too odd for it."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterator
from typing import Any

import pytest

from ringfence.core.knob import Knob
from ringfence.core.requests import Agent, Clock, HostRss, Progress, Qmp, Steps, Wait, WallClock
from ringfence.engine import changes, figures
from ringfence.engine.driver import Edges, observe, run
from ringfence.errors import (
    AgentAbsentError,
    GuestError,
    InterruptError,
    MonitorError,
    MonitorProtocolError,
    MonitorRefusedError,
    MonitorTimeoutError,
    RingfenceError,
)
from ringfence.knobs import registry
from ringfence.testing.obedient_vm import ObedientVm
from ringfence.testing.script import Event, Return, Script


def ask(*requests: Any) -> Steps[list[Any]]:
    """Steps that make these requests, and return the answers, errors among them."""
    answers: list[Any] = []
    for request in requests:
        try:
            answers.append((yield request))
        except RingfenceError as error:
            answers.append(error)
    return answers


async def test_each_request_gets_its_answer(edges: Edges) -> None:
    seen: list[Progress] = []
    step = Progress("x", 1, 2, "bytes")
    answers = await run(
        ask(Qmp("query-kvm"), [Qmp("query-kvm"), Qmp("query-version")], Clock(), WallClock(), HostRss(), step),
        edges,
        progress=seen.append,
    )
    assert answers[0] == answers[1][0] == {"enabled": True, "present": True}
    assert answers[2] < answers[3]
    assert answers[4:] == [None, None]
    assert seen == [step]


async def test_errors_are_thrown_into_the_steps(edges: Edges) -> None:
    refused, absent = await run(ask(Qmp("unheard-of"), Agent("guest-ping")), edges)
    assert isinstance(refused, MonitorRefusedError)
    assert "too old" in refused.hint
    assert isinstance(absent, AgentAbsentError)


async def test_a_wait_gives_the_event_that_came_since(vm: ObedientVm, edges: Edges) -> None:
    edges.session.answers["cont"] = Script((Return({}), Event("STOP"), Event("RESUME", {"x": 1})))  # type: ignore[attr-defined]
    _, event, nothing = await run(ask(Qmp("cont"), Wait(("RESUME",), 1), Wait((), 0)), edges, events=("RESUME",))
    assert event == {"event": "RESUME", "data": {"x": 1}}
    assert nothing is None


async def test_to_wait_where_nobody_listens_is_an_error(edges: Edges) -> None:
    (error,) = await run(ask(Wait(("RESUME",), 1)), edges)
    assert isinstance(error, MonitorError)


# Deadlines


async def test_each_change_has_the_whole_time_and_what_follows_a_late_one_shares_it(session: Any) -> None:
    session.answers |= {"late": MonitorTimeoutError("late"), "slow": lambda _: session.answers["query-kvm"]}
    edges = Edges(session, None, 0, answer_timeout_s=7.0)
    await run(ask(Qmp("slow"), Qmp("slow"), Qmp("late"), Qmp("slow"), Qmp("slow")), edges)
    assert session.timeouts_s[:4] == [7.0] * 4
    assert session.timeouts_s[4] < 7.0


async def test_questions_share_the_time_and_leave_no_doubt_behind(session: Any) -> None:
    edges = Edges(session, None, 0, answer_timeout_s=7.0)
    await observe(ask(Qmp("query-kvm"), Qmp("query-kvm")), edges)
    assert 0 < session.timeouts_s[1] < session.timeouts_s[0] == 7.0
    session.answers["query-kvm"] = MonitorTimeoutError("late", state="It may have taken effect.")
    with pytest.raises(MonitorTimeoutError) as caught:
        await observe(registry.parse_key("vcpus").knob.observe(), edges)
    assert caught.value.state == ""


# Interruption


async def test_an_interruption_ends_the_next_wait_and_leaves_time_for_order(edges: Edges) -> None:
    asyncio.get_running_loop().call_soon(edges.interrupt)
    first, second, order = await run(ask(Wait((), 0.001), Wait((), 60), Qmp("query-version")), edges)
    assert isinstance(first, InterruptError)
    assert isinstance(second, InterruptError)
    assert order == {"qemu": {"major": 7}}


# Answers that cannot be read


def reads(command: Any, *path: Any) -> Steps[Any]:
    answer = yield command
    for member in path:
        answer = answer[member]
    return answer


@pytest.mark.parametrize(
    ("steps", "error", "words"),
    [
        (reads(Qmp("query-kvm"), "nothing"), MonitorProtocolError, "answer to query-kvm .* has no 'nothing'"),
        (reads(Qmp("query-kvm"), "enabled", 0), MonitorProtocolError, "answer to query-kvm .* not subscriptable"),
        (
            reads([Qmp("query-kvm"), Qmp("query-version"), Qmp("query-kvm")], 7),
            MonitorProtocolError,
            "one of query-kvm, query-version .* index out of range",
        ),
    ],
)
async def test_an_answer_that_cannot_be_read_is_told_by_its_command(
    edges: Edges, steps: Steps[Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        await run(steps, edges)
    assert "--qmp query-kvm" in caught.value.hint  # type: ignore[attr-defined]


async def test_so_is_an_event(vm: ObedientVm, edges: Edges) -> None:
    edges.session.answers["cont"] = Event("RESUME")  # type: ignore[attr-defined]

    def steps() -> Steps[Any]:
        yield Qmp("cont")
        event = yield Wait(("RESUME",), 1)
        return event["data"]["x"]

    with pytest.raises(MonitorProtocolError, match="event RESUME"):
        await run(steps(), edges, events=("RESUME",))


async def test_a_mistake_of_ours_is_no_answer_of_theirs(edges: Edges) -> None:
    def steps() -> Steps[Any]:
        {}["ours"]
        yield Clock()

    with pytest.raises(KeyError):
        await run(steps(), edges)


ODD: tuple[Any, ...] = (None, True, -1, 2**70, 1.5, float("inf"), "", "\udcff", [], [[]], [7], {}, {"a": {}})
QUESTIONS = (
    "query-block",
    "query-blockstats",
    "query-named-block-nodes",
    "query-iothreads",
    "qom-list",
    "qom-get",
    "query-memory-size-summary",
    "query-memory-devices",
    "query-status",
    "query-balloon",
    "query-hotpluggable-cpus",
    "query-cpus-fast",
    "query-kvm",
)


def mutations(answer: Any) -> Iterator[Any]:
    """The answer with something odd in the place of one of its parts, or without that part."""
    yield from ODD
    if isinstance(answer, dict):
        for key in answer:
            yield {name: value for name, value in answer.items() if name != key}
            for odd in mutations(answer[key]):
                yield {**answer, key: odd}
    elif isinstance(answer, list) and answer:
        yield answer * 2
        for odd in mutations(answer[0]):
            yield [odd, *answer[1:]]


def mutated(answers: dict[str, Any], command: str) -> Iterator[Any]:
    """Answers to one command that are each wrong in one way; where it depends on the arguments, so is that."""
    answer = answers[command]
    if command == "qom-get":
        for name in ("type", "addr", "parent_bus", "hotplugged", "guest-stats", "guest-stats-polling-interval"):
            right = answer({"path": "/machine/peripheral/a", "property": name})
            for odd in mutations(right):
                yield lambda asked, name=name, odd=odd: odd if asked["property"] == name else answer(asked)
        return
    right = answer({"path": "/machine/peripheral"}) if callable(answer) else answer
    yield from mutations(copy.deepcopy(right))


WANTED = {
    "iops": 100,
    "group": "g",
    "pool": None,
    "latency_histogram": "on",
    "target": 1 << 29,
    "": 3,
}
"""By leaf of a key, what is tried."""


async def use(knob: Knob, edges: Edges) -> None:
    """All that is done with what was read, up to the first change."""
    leaves = [
        row.key.partition(">.")[2] or row.key.removeprefix(knob.prefix).removeprefix(".") for row in knob.rows
    ]
    wants = {leaf: WANTED[leaf] for leaf in leaves if leaf in WANTED}
    for part in await observe(knob.observe(), edges):
        for row in knob.rows:
            repr(knob.observation(part, row))
        try:
            knob.check(part, wants, force=False)
        except RingfenceError:
            continue
        knob.changes(part, wants)


@pytest.mark.parametrize("command", QUESTIONS)
async def test_no_answer_is_too_odd(vm: ObedientVm, session: Any, edges: Edges, command: str) -> None:
    """Each answer wrong in each place, one at a time: there is an error that says so, or it is borne."""
    vm.limits["a"]["iops"] = 7
    hints: list[str] = []
    for odd in mutated(vm.answers, command):
        session.answers[command] = odd
        for knob in registry.knobs():
            try:
                await use(knob, edges)
            except (MonitorError, GuestError) as error:
                hints.append(error.hint)
        try:
            await observe(figures.observe(), edges)
        except MonitorError as error:
            hints.append(error.hint)
    assert len(hints) > 5
    assert all(hints)


@pytest.mark.parametrize(
    ("values", "command"),
    [
        ({"disk.vda.iops": 100}, "query-block"),
        ({"memory.target": "512MiB"}, "query-balloon"),
        ({"vcpus": 3}, "query-hotpluggable-cpus"),
        ({"vcpus": 1}, "query-hotpluggable-cpus"),
    ],
    ids=str,
)
async def test_nor_in_the_middle_of_a_change(
    vm: ObedientVm, session: Any, edges: Edges, values: dict[str, Any], command: str
) -> None:
    verdicts: set[str] = set()
    steps = await changes.plan(edges, values)
    for odd in mutated(vm.answers, command):
        session.answers[command] = odd
        (result,) = await changes.apply(edges, steps, timeout_s=0.001)
        assert (result.exit_code == 0) == (result.verdict == "applied")
        verdicts.add(result.verdict)
    assert "failed" in verdicts


async def test_nor_an_event(vm: ObedientVm, session: Any, edges: Edges) -> None:
    steps = await changes.plan(edges, {"vcpus": 1})
    info = {"device": "cpu", "source": 3, "status": 1, "slot": "1", "slot-type": "CPU"}
    verdicts: set[str] = set()
    for data in mutations({"info": info}):
        session.answers["device_del"] = Script((Return({}), Event("ACPI_DEVICE_OST", data)))
        (result,) = await changes.apply(edges, steps, timeout_s=0.001)
        verdicts.add(result.verdict)
    assert {"failed", "refused"} <= verdicts


async def test_bridges_without_end(vm: ObedientVm, session: Any, edges: Edges) -> None:
    plain = vm.answers["qom-get"]

    def below_itself(asked: Any) -> Any:
        return f"{asked['path']}/pcie.0" if asked["property"] == "parent_bus" else plain(asked)

    def ever_deeper(asked: Any) -> Any:
        return f"{asked['path']}/x/pcie.0" if asked["property"] == "parent_bus" else plain(asked)

    for answer, words in ((below_itself, "behind itself"), (ever_deeper, "more than 256 PCI bridges")):
        session.answers["qom-get"] = answer
        with pytest.raises(MonitorProtocolError, match=words):
            await observe(registry.parse_key("disk.vda.iops").knob.observe(), edges)
