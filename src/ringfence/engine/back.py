"""Putting a tenant back to what it was before a change, as far as that can be, and saying where it cannot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ringfence.core.knob import Knob, Makes, Part, Value, Verdict
from ringfence.engine import changes, journal, snapshot
from ringfence.engine.changes import Result
from ringfence.engine.driver import Edges, observe
from ringfence.engine.journal import Change
from ringfence.errors import MonitorError, RingfenceError
from ringfence.knobs import registry


class Back(NamedTuple):
    """How a tenant was put back. :param state: as in the journal. :param said: what is to be known of it."""

    state: str
    said: str
    results: tuple[Result, ...] = ()
    elsewhere: Mapping[str, object] = {}


async def put_back(
    edges: Edges, change: Change, *, timeout_s: float, touched: Sequence[Knob] = (), force: bool = False
) -> Back:
    """Bring a tenant back to what it was before a change. Raises nothing: what could not be is told.

    :param force: also what somebody else has set since.
    """
    edges.interrupted = False
    knobs = list(touched) or snapshot.knobs_of(change.asked)
    try:
        seen = await look_again(edges, knobs)
    except RingfenceError as error:
        return Back(journal.GONE, f"it cannot be read any more: {error.message}")
    way = snapshot.way_back(change.before, change.after, snapshot.values(seen), force=force)
    if not way.wants:
        said = f"set by somebody else since, and left: {', '.join(way.elsewhere)}" if way.elsewhere else ""
        return Back(journal.MIXED if way.elsewhere else journal.OLD, said, (), way.elsewhere)
    results, left = await go(edges, way.wants, seen, timeout_s=timeout_s, force=force)
    try:
        now = snapshot.values(await look_again(edges, knobs))
    except RingfenceError as error:
        return Back(journal.GONE, f"it cannot be read any more: {error.message}", tuple(results))
    for key in snapshot.way_back(change.before, change.after, now, force=True).wants:
        left.setdefault(key, "it is not what it was")
    for key in way.elsewhere:
        left[key] = "somebody else has set it since"
    if not left:
        return Back(journal.OLD, "", tuple(results), way.elsewhere)
    said = "could not be put back: " + "; ".join(f"{key} ({why})" for key, why in left.items())
    return Back(journal.MIXED, said, tuple(results), way.elsewhere)


async def look_again(edges: Edges, knobs: Sequence[Knob]) -> dict[Knob, tuple[Part, ...]]:
    """Read, over a new connection where the old one broke."""
    try:
        return await snapshot.look(edges, knobs)
    except MonitorError:
        await edges.session.reopen(timeout_s=edges.answer_timeout_s)
        return await snapshot.look(edges, knobs)


async def go(
    edges: Edges,
    wants: Mapping[str, Value | None],
    seen: Mapping[Knob, tuple[Part, ...]],
    *,
    timeout_s: float,
    force: bool,
) -> tuple[list[Result], dict[str, str]]:
    """Set each of these values as far as it can be; one that cannot stops none of the others.

    :return: what became of them, and why some could not be, by key.
    """
    keys = [(registry.parse_key(key), value) for key, value in wants.items()]
    steps, problems = changes.gathered([pair for pair in keys if pair[0].knob in seen], seen)
    left = {key: problem.error.message for problem in problems for key in problem.keys}
    results: list[Result] = []
    for step in steps:
        fresh = await _fresh(edges, step)
        if fresh is None or fresh.in_step():
            continue
        refused = changes.refusals([fresh], force=force)
        if refused:
            left.update(dict.fromkeys(refused[0].keys, refused[0].error.message))
            continue
        told = await changes.apply(edges, [fresh], timeout_s=timeout_s, force=force)
        results += told
        left.update({r.key: r.detail or str(r.verdict) for r in told if r.verdict is not Verdict.APPLIED})
    return results, left


async def _fresh(edges: Edges, step: changes.Step) -> changes.Step | None:
    """The step on its part as it is by now; one to be made stays as it is, one that is gone is None."""
    try:
        parts = await observe(step.knob.observe(), edges)
    except RingfenceError:
        return step
    part = changes.same(parts, step.part)
    if part is not None:
        return step._replace(part=part)
    return step if isinstance(step.knob, Makes) and any(v is not None for v in step.wants.values()) else None
