"""PURE: changes carried out in order, and taken back in the opposite one when one of them is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ringfence import units
from ringfence.core.knob import Knob, Observation, Outcome, Part, Value, Verdict, Wants
from ringfence.core.requests import HostRequest, MakeDir, Steps
from ringfence.errors import HostError, RingfenceError
from ringfence.knobs.host.home import Do

_PAGE_BYTES = 65536
"""The largest page of any machine: the kernel counts memory in whole pages."""


def carry_out(steps: Sequence[Do]) -> Steps[None]:
    """Send each request; after a refusal, what takes back those before it.

    :raise RingfenceError: the refusal; its state says that all was taken back, or what could not be.
    """
    done: list[HostRequest] = []
    for step in steps:
        try:
            answer = yield step.request
        except RingfenceError as refusal:
            yield from _take_back(done, refusal)
            raise
        was_there = isinstance(step.request, MakeDir) and not answer
        if step.undo is not None and not was_there:
            done.append(step.undo)


def _take_back(done: Sequence[HostRequest], refusal: RingfenceError) -> Steps[None]:
    stuck: list[str] = []
    for undo in reversed(done):
        try:
            yield undo
        except HostError as error:
            stuck.append(error.message)
    refusal.add_state("; ".join(stuck) if stuck else "everything was put back as it was" if done else "")


def applied(
    knob: Knob,
    part: Part,
    wants: Wants,
    plan: Callable[[Part, Wants], Sequence[Do]],
    *,
    notes: tuple[str, ...] = (),
) -> Steps[Outcome]:
    """Carry out what is planned, read the part back, and say whether the kernel holds what was wanted.

    The part is read anew first: what was changed before it by the same command may have made its group.

    :raise RingfenceError: as `carry_out`.
    """
    now = yield from _again(knob, part)
    steps = plan(now or part, wants)
    if not steps:
        return Outcome(Verdict.APPLIED, now, notes=("already so",))
    yield from carry_out(steps)
    after = yield from _again(knob, part)
    if after is None:
        return Outcome(Verdict.FAILED, None, by="kernel", detail="its group is gone", hint="has the tenant ended?")
    off = [text for leaf, want in wants.items() if (text := _differs(knob, after, leaf, want))]
    if not off:
        return Outcome(Verdict.APPLIED, after, notes=notes)
    hint = "its manager may have set it again, or the kernel rounds it"
    return Outcome(Verdict.PARTIAL, after, by="kernel", detail="; ".join(off), notes=notes, hint=hint)


def _again(knob: Knob, part: Part) -> Steps[Part | None]:
    parts = yield from knob.observe()
    return next((other for other in parts if other.name == part.name), None)


def _differs(knob: Knob, part: Part, leaf: str, want: Value | None) -> str:
    row = next(row for row in knob.rows if leaf_of(knob, row.key) == leaf)
    found = knob.observation(part, row)
    if row.unit == units.BYTES and isinstance(found.target, int) and isinstance(want, int):
        return "" if 0 <= want - found.target < _PAGE_BYTES else _other(found, want)
    return "" if found.target == want else _other(found, want)


def _other(found: Observation, want: Value | None) -> str:
    return f"the kernel holds {found.target} for {found.key}, not {want}"


def leaf_of(knob: Knob, key: str) -> str:
    """The leaf of a row's key, as `registry.parse_key` has it."""
    return key.partition(">.")[2] or key.removeprefix(knob.prefix).removeprefix(".")
