"""The knob `memory.target`: how much memory a guest may use, by its balloon.

QEMU's `balloon` only notes a target. The guest's driver moves towards it page by page, or does not: so the
target is watched until it is met, stands still, or the deadline passes, and what was reached is what counts.
Sources: QEMU qapi/machine.json (balloon, query-balloon, BALLOON_CHANGE), docs/interop/virtio-balloon-stats.rst.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ringfence import units
from ringfence.core.answers import entries, fields, number, text
from ringfence.core.knob import Advice, Observation, Outcome, Part, Row, Verdict, Wants
from ringfence.core.requests import Agent, Clock, HostRss, Progress, Qmp, Steps, Wait, WallClock
from ringfence.errors import MonitorRefusedError, RingfenceError, UsageError

PAGE_BYTES = 4096
UNKNOWN_STAT = 2**64 - 1
GUEST_RESERVE_BYTES = 32 * units.MIB
"""Left to a guest above what it cannot give up: below this the lab's guests began to kill processes."""
STANDSTILL_S = 5.0
"""QEMU reports a moving balloon at least once a second; five times that without a move is a standstill."""
_NOTICED_MOVE_BYTES = units.MIB
_POLL_S = 0.1
_STATS_INTERVAL_S = 1

ROWS = (
    Row(
        key="memory.target",
        unit=units.BYTES,
        mechanism="virtio-balloon",
        help="memory the guest may use; its maximum is what QEMU was started with (-m)",
    ),
)
_OPTIONS = {
    "deflate-on-oom": "the balloon gives memory back before the guest kills processes",
    "free-page-reporting": "memory the guest frees returns to the host by itself",
}
_NO_DEVICE = Advice(
    "-device virtio-balloon-pci," + ",".join(f"{option}=on" for option in _OPTIONS),
    "memory can be taken and given",
)


_NO_DRIVER = (
    "it has no balloon driver, or has not booted far enough to load it",
    "set it again once the guest has booted; Linux's driver is the module virtio_balloon",
)
_DEAF_DRIVER = ("its driver does not answer", "see on the guest's console whether it hangs")


class Stats(NamedTuple):
    """What the guest's driver last said of its memory; None where it said nothing.

    :param age_s: seconds since then; None when it never said anything.
    """

    available_bytes: int | None
    total_bytes: int | None
    age_s: float | None


class State(NamedTuple):
    """:param path: QOM path of the balloon device, empty without one.
    :param size_bytes: boot memory and plugged DIMMs, which is the balloon's largest target.
    :param poll_s: how often the guest reports statistics; 0 is never.
    :param runstate: QEMU's word, such as `running` or `paused`.
    :param options: which of the recommended options of the device are on.
    """

    path: str
    size_bytes: int
    actual_bytes: int
    poll_s: int
    stats: Stats
    runstate: str
    options: frozenset[str]


class MemoryTarget:
    """See the module."""

    prefix = "memory"
    rows: tuple[Row, ...] = ROWS
    events: tuple[str, ...] = ("BALLOON_CHANGE",)

    def observe(self) -> Steps[tuple[Part, ...]]:
        """Read the balloon and the guest's statistics; one Part."""
        named, anonymous, summary, status = yield [
            Qmp("qom-list", {"path": "/machine/peripheral"}),
            Qmp("qom-list", {"path": "/machine/peripheral-anon"}),
            Qmp("query-memory-size-summary"),
            Qmp("query-status"),
        ]
        memory = fields(summary)
        size = number(memory["base-memory"]) + number(memory.get("plugged-memory", 0))
        path = _balloon_path("/machine/peripheral", named) or _balloon_path("/machine/peripheral-anon", anonymous)
        runstate = text(fields(status)["status"])
        if not path:
            state = State("", size, size, 0, Stats(None, None, None), runstate, frozenset())
            return (Part("", (), state),)
        options = {text(entry["name"]) for entry in entries((yield Qmp("qom-list", {"path": path})))}
        asked = sorted(options & _OPTIONS.keys())
        balloon, poll_s, report, *answers = yield [
            Qmp("query-balloon"),
            _qom_get(path, "guest-stats-polling-interval"),
            _qom_get(path, "guest-stats"),
            *(_qom_get(path, name) for name in asked),
        ]
        on = frozenset(name for name, value in zip(asked, answers, strict=True) if value)
        actual = number(fields(balloon)["actual"])
        stats = _stats(report, (yield WallClock()))
        return (Part("", (), State(path, size, actual, number(poll_s), stats, runstate, on)),)

    def observation(self, part: Part, row: Row) -> Observation:
        """What the balloon leaves to the guest."""
        state: State = part.state
        if not state.path:
            why = "it has no balloon device"
            return Observation(row, row.key, None, state.size_bytes, unavailable=why, advice=(_NO_DEVICE,))
        return Observation(
            row,
            row.key,
            target=state.actual_bytes,
            actual=state.actual_bytes,
            minimum=floor_bytes(state),
            maximum=state.size_bytes,
            notes=(_stats_note(state),),
            advice=tuple(
                Advice(f"-device virtio-balloon-pci,{option}=on", why)
                for option, why in _OPTIONS.items()
                if option not in state.options
            ),
        )

    def check(self, part: Part, wants: Wants, *, force: bool) -> None:
        """Raise UsageError out of range, TenantError without a balloon; `force` allows to press the guest."""
        state: State = part.state
        self.observation(part, self.rows[0]).refuse_unavailable()
        want = _want(wants)
        size = units.format_bytes(state.size_bytes)
        if want > state.size_bytes:
            raise UsageError(
                f"memory.target={units.format_bytes(want)} is above the VM's memory, {size}",
                hint=f"at most {size}: more has to be plugged in first",
            )
        if want < PAGE_BYTES:
            raise UsageError(f"memory.target={want} bytes is less than a page", hint="write a size such as 512MiB")
        floor = floor_bytes(state)
        if floor is not None and want < min(floor, state.actual_bytes) and not force:
            raise _too_low(want, floor)

    def changes(self, part: Part, wants: Wants) -> list[Qmp | Agent]:
        """Statistics on while it is needed, the new target, statistics off again if they were."""
        state: State = part.state
        want = _want(wants)
        if abs(state.actual_bytes - want) < PAGE_BYTES:
            return []
        balloon: list[Qmp | Agent] = [Qmp("balloon", {"value": want})]
        if state.poll_s or want > state.actual_bytes:
            return balloon
        return [_set_polling(state.path, _STATS_INTERVAL_S), *balloon, _set_polling(state.path, 0)]

    def apply(self, part: Part, wants: Wants, *, timeout_s: float, force: bool) -> Steps[Outcome]:
        """Set the target, then watch the guest until it is there, stands still, or `timeout_s` is over.

        A target that was not met is replaced by what was reached, so that the guest is not pressed on unseen.
        """
        state: State = part.state
        want = _want(wants)
        if not self.changes(part, wants):
            return Outcome(Verdict.APPLIED, part, notes=("already so",))
        if state.runstate != "running":
            detail = f"the VM is {state.runstate}: its guest cannot move before it runs (`cont`)"
            return Outcome(Verdict.REFUSED, part, "guest", detail, hint="let it run: ringfence monitor VM cont")
        if state.poll_s or want > state.actual_bytes:
            return (yield from _move(part, want, timeout_s))
        return (yield from _watched_shrink(part, want, timeout_s, force))


def _watched_shrink(part: Part, want: int, timeout_s: float, force: bool) -> Steps[Outcome]:
    """Move with the guest's statistics on, which are switched off again whatever becomes of it."""
    path = part.state.path
    try:
        yield _set_polling(path, _STATS_INTERVAL_S)
        state = yield from _first_stats(part.state, timeout_s)
        floor = floor_bytes(state)
        if floor is not None and want < floor and not force:
            error = _too_low(want, floor)
            outcome = Outcome(Verdict.REFUSED, part, "ringfence", error.message, hint=error.hint)
        else:
            known = part._replace(state=part.state._replace(stats=state.stats))
            outcome = yield from _move(known, want, timeout_s)
    except RingfenceError as error:
        try:
            yield _set_polling(path, 0)
        except RingfenceError:
            error.add_state(f"its guest is still asked for statistics every {_STATS_INTERVAL_S} s")
        raise
    yield _set_polling(path, 0)
    return outcome


def floor_bytes(state: State) -> int | None:
    """The lowest target the guest can meet without killing processes; None when it does not say.

    Only statistics that come regularly count: others may be from before the balloon's last move.
    """
    stats = state.stats
    if not state.poll_s or stats.available_bytes is None or stats.age_s is None:
        return None
    if stats.age_s > 3 * state.poll_s + 2 or stats.available_bytes > state.actual_bytes:
        return None
    return max(PAGE_BYTES, state.actual_bytes - stats.available_bytes + GUEST_RESERVE_BYTES)


def _too_low(want: int, floor: int) -> UsageError:
    return UsageError(
        f"memory.target={units.format_bytes(want)} is less than the guest now uses: it would kill processes",
        hint=f"at least {units.format_bytes(floor)} now; --force presses the guest all the same",
    )


def _want(wants: Wants) -> int:
    return int(wants["target"] or 0)


def _qom_get(path: str, name: str) -> Qmp:
    return Qmp("qom-get", {"path": path, "property": name})


def _set_polling(path: str, interval_s: int) -> Qmp:
    return Qmp("qom-set", {"path": path, "property": "guest-stats-polling-interval", "value": interval_s})


def _balloon_path(container: str, children: object) -> str:
    """The balloon among the children of a QOM container: by type, as its name is the user's."""
    names = [e["name"] for e in entries(children) if e["type"].startswith("child<virtio-balloon")]
    return f"{container}/{text(names[0])}" if names else ""


def _stats(report: Mapping[str, Any], now_s: float) -> Stats:
    """All ones is QEMU's word for a statistic the guest never gave."""
    updated = number(fields(report).get("last-update", 0))
    if not updated:
        return Stats(None, None, None)
    stats = fields(report["stats"])
    available, total = (
        None if stats.get(name, UNKNOWN_STAT) == UNKNOWN_STAT else number(stats[name])
        for name in ("stat-available-memory", "stat-total-memory")
    )
    return Stats(available, total, max(0.0, now_s - updated))


def _stats_note(state: State) -> str:
    stats = state.stats
    if stats.age_s is None:
        return "the guest has given no statistics"
    if stats.available_bytes is not None and stats.available_bytes > state.actual_bytes:
        return "the guest's last statistics are from before the balloon moved"
    available = "unknown" if stats.available_bytes is None else units.format_bytes(stats.available_bytes)
    off = "" if state.poll_s else "; statistics are off"
    return f"available in the guest: {available}, {units.format_seconds(round(stats.age_s))} ago{off}"


def _first_stats(state: State, timeout_s: float) -> Steps[State]:
    """Wait for the statistics just switched on: they come within two intervals, or there is no driver."""
    start = yield Clock()
    patience_s = min(timeout_s, 2.5 * _STATS_INTERVAL_S)
    while True:
        yield Wait((), _POLL_S)
        report = yield _qom_get(state.path, "guest-stats")
        wall, now = (yield WallClock()), (yield Clock())
        stats = _stats(report, wall)
        fresh = stats.age_s is not None and stats.age_s <= _STATS_INTERVAL_S
        if fresh or now - start > patience_s:
            return state._replace(stats=stats, poll_s=_STATS_INTERVAL_S)


class _Watch(NamedTuple):
    """Where the balloon came to: `moved` tells whether the guest ever followed."""

    actual_bytes: int
    moved: bool
    seconds: float
    timed_out: bool


def _query_balloon() -> Steps[int]:
    return number(fields((yield Qmp("query-balloon")))["actual"])


def _watch(state: State, want: int, timeout_s: float) -> Steps[_Watch]:
    start = yield Clock()
    best, last_move, total = abs(state.actual_bytes - want), start, abs(state.actual_bytes - want)
    while True:
        yield Wait(("BALLOON_CHANGE",), _POLL_S)
        actual = yield from _query_balloon()
        now = yield Clock()
        gap = abs(actual - want)
        yield Progress("memory.target", total - min(gap, total), total, units.BYTES)
        if gap < PAGE_BYTES:
            return _Watch(actual, True, now - start, False)
        if gap <= best - _NOTICED_MOVE_BYTES:
            best, last_move = gap, now
        timed_out = now - start > timeout_s
        if timed_out or now - last_move > STANDSTILL_S:
            return _Watch(actual, best < total, now - start, timed_out)


def _move(part: Part, want: int, timeout_s: float) -> Steps[Outcome]:
    state: State = part.state
    rss_before = yield HostRss()
    try:
        yield Qmp("balloon", {"value": want})
        seen = yield from _watch(state, want, timeout_s)
    except MonitorRefusedError as refusal:
        return Outcome(Verdict.REFUSED, part, "QEMU", refusal.message, hint=refusal.hint)
    except RingfenceError as error:
        yield from _let_be(want, error)
        raise
    rss_after = yield HostRss()
    met = abs(seen.actual_bytes - want) < PAGE_BYTES
    if not met:
        yield Qmp("balloon", {"value": seen.actual_bytes})
    after = Part("", (), state._replace(actual_bytes=seen.actual_bytes))
    notes: tuple[str, ...] = ()
    if rss_before is not None and rss_after is not None:
        notes = (f"host RSS {units.format_bytes(rss_before)} -> {units.format_bytes(rss_after)}",)
    if met:
        return Outcome(Verdict.APPLIED, after, notes=notes)
    how = f"in {units.format_seconds(round(seen.seconds, 1))}"
    if seen.moved:
        why = "the deadline passed" if seen.timed_out else f"it has stood still for {STANDSTILL_S:.0f} s"
        detail = f"the guest came to {units.format_bytes(seen.actual_bytes)} {how} ({why}); that is its target now"
        hint = "set the rest once the guest uses less, or with a longer --timeout"
        return Outcome(Verdict.PARTIAL, after, "guest", detail, notes, hint)
    never = state.stats.age_s is None
    reason, hint = _NO_DRIVER if never else _DEAF_DRIVER
    detail = f"QEMU accepted the target and nothing moved {how}: {reason}; the target is set back"
    return Outcome(Verdict.REFUSED, after, "guest", detail, notes, hint)


def _let_be(want: int, error: RingfenceError) -> Steps[None]:
    """Press the guest no further, now that nobody watches it any more: what it has reached becomes its target."""
    try:
        reached = yield from _query_balloon()
        yield Qmp("balloon", {"value": reached})
    except RingfenceError:
        error.add_state(
            f"the balloon's target may be {units.format_bytes(want)}, to which the guest may still move"
        )
    else:
        error.add_state(f"the guest came to {units.format_bytes(reached)}, which is its target now")
