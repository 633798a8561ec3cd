"""From keys and values to verdicts: everything checked before the first change, everything said after it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple

from ringfence.core.knob import (
    VM,
    Foresees,
    InStep,
    Knob,
    Makes,
    Observation,
    Outcome,
    Part,
    Row,
    Value,
    Verdict,
    Wants,
    Watches,
)
from ringfence.core.requests import Change
from ringfence.engine.driver import Edges, ProgressCallback, no_progress, observe, run
from ringfence.errors import (
    HostError,
    InterruptError,
    MonitorGoneError,
    MonitorProtocolError,
    RingfenceError,
    TenantError,
    UsageError,
)
from ringfence.knobs import registry


class Result(NamedTuple):
    """What became of one key.

    :param before: what it was; None is unlimited. `asked` what was wanted; `target` what QEMU now holds;
        `actual` what is so, in the guest where that can be known.
    :param known: whether `target` and `actual` were read after the change; else they are None.
    :param by: who refused, empty when nobody did; `detail` why; `hint` what to do.
    :param state: what is left behind that the values do not tell.
    :param took_ms: from the first request of its change to the read-back, shared by keys of one part.
    :param exit_code: what a command line should end with for this key alone.
    """

    key: str
    row: Row
    before: Value | None
    asked: Value | None
    target: Value | None
    actual: Value | None
    known: bool
    verdict: Verdict
    by: str
    detail: str
    hint: str
    state: str
    notes: tuple[str, ...]
    took_ms: float
    exit_code: int


class Step(NamedTuple):
    """The change of one part of the VM: several keys of one disk are one step."""

    knob: Knob
    part: Part
    wants: Wants
    keys: Mapping[str, registry.Key]

    def requests(self) -> Sequence[Change]:
        """Exactly what would be sent to change the VM."""
        return self.knob.changes(self.part, self.wants)

    def in_step(self) -> bool:
        """Whether the part is as wanted already."""
        tells = _as_in_step(self.knob)  # type: ignore[arg-type]  # a knob is hashed by what it is
        if tells is not None:
            return tells.in_step(self.part, self.wants)
        return not self.knob.changes(self.part, self.wants)

    def names(self) -> set[str]:
        """The keys as results name them."""
        return {self._observation(leaf, self.part).key for leaf in self.keys}

    def notes(self) -> tuple[str, ...]:
        """What else is to be known of what would be changed, such as who shares it."""
        found = (note for leaf in self.keys for note in self._observation(leaf, self.part).notes)
        return tuple(dict.fromkeys(found))

    def _observation(self, leaf: str, part: Part) -> Observation:
        return self.knob.observation(part, self.keys[leaf].row)

    def result(self, leaf: str, outcome: Outcome, took_ms: float, *, exit_code: int | None = None) -> Result:
        """The result of one leaf of this step."""
        code = _EXIT_CODES[outcome.verdict] if exit_code is None else exit_code
        if outcome.verdict is Verdict.REFUSED and exit_code is None:
            code = _REFUSER_CODES.get(outcome.by, code)
        before = self._observation(leaf, self.part)
        after = self._observation(leaf, outcome.after) if outcome.after else None
        return Result(
            key=before.key,
            row=before.row,
            before=before.actual,
            asked=self.wants[leaf],
            target=after.target if after else None,
            actual=after.actual if after else None,
            known=after is not None,
            verdict=outcome.verdict,
            by=outcome.by,
            detail=outcome.detail,
            hint=outcome.hint,
            state=outcome.state,
            notes=outcome.notes,
            took_ms=took_ms,
            exit_code=code,
        )


_EXIT_CODES = {
    Verdict.APPLIED: 0,
    Verdict.PARTIAL: 6,
    Verdict.REFUSED: 6,
    Verdict.NEEDS_REBOOT: 3,
    Verdict.UNSUPPORTED: 3,
    Verdict.FAILED: 4,
    Verdict.INTERRUPTED: InterruptError.exit_code,
    Verdict.NOT_ATTEMPTED: 4,
}
_PARTLY = _EXIT_CODES[Verdict.PARTIAL]
_REFUSER_CODES = {"QEMU": 4, "ringfence": 2, "guest": 6, "kernel": 5, "systemd": 5}


async def plan(
    edges: Edges, values: Mapping[str, str | int | float | None], *, force: bool = False, kind: str = VM
) -> list[Step]:
    """Read what the values concern and check all of them. Changes nothing.

    :param kind: of tenant: a knob that does not concern it is refused.

    :param values: key to a value as a user writes it, a number in the key's base unit, or None for unlimited.
    :raise UsageError: an unknown key or instance, a bad or impossible value; tells of every such one.
    :raise TenantError: this VM cannot do it as it was started.
    """
    problems: list[RingfenceError] = []
    wanted: list[tuple[registry.Key, Value | None]] = []
    for text, value in values.items():
        try:
            key = registry.parse_key(text)
            if kind not in key.knob.tenants:
                raise _not_for(text, kind)
            wanted.append((key, registry.parse_value(key, value)))
        except UsageError as error:
            problems.append(error)
    observed = await observe_all(edges, (key.knob for key, _ in wanted))
    steps, found = steps_of(wanted, observed, force=force)
    problems += [problem.error for problem in found]
    if problems:
        raise together(problems)
    return steps


class Problem(NamedTuple):
    """Why some keys cannot be what is wanted of them: UsageError or TenantError."""

    keys: tuple[str, ...]
    error: RingfenceError


def steps_of(
    wanted: Iterable[tuple[registry.Key, Value | None]], observed: Mapping[Knob, tuple[Part, ...]], *, force: bool
) -> tuple[list[Step], list[Problem]]:
    """The steps from what was observed to what is wanted, in order, and all that stands against it. Pure.

    :param observed: the parts of every knob that `wanted` names.
    """
    steps, problems = gathered(wanted, observed)
    return steps, problems + refusals(steps, force=force)


def gathered(
    wanted: Iterable[tuple[registry.Key, Value | None]], observed: Mapping[Knob, tuple[Part, ...]]
) -> tuple[list[Step], list[Problem]]:
    """One step for each part that is named, in order, not yet checked; and the keys that name none. Pure."""
    problems: list[Problem] = []
    steps: dict[tuple[Knob, str], Step] = {}
    for key, wish in wanted:
        try:
            part = registry.pick(observed[key.knob], key)
            identity = part.identity or part.name
            step = steps.get((key.knob, identity)) or Step(key.knob, part, {}, {})
            if key.leaf in step.keys:
                same = step.keys[key.leaf].text
                raise UsageError(f"{key.text} and {same} are the same", hint="give it once")
        except UsageError as error:
            problems.append(Problem((key.text,), error))
            continue
        steps[key.knob, identity] = Step(
            step.knob, part, {**step.wants, key.leaf: wish}, {**step.keys, key.leaf: key}
        )
    return _in_order(list(steps.values())), problems


def refusals(steps: Iterable[Step], *, force: bool) -> list[Problem]:
    """Why steps cannot be taken, by their knobs' own checks. Pure."""
    problems: list[Problem] = []
    for step in steps:
        try:
            step.knob.check(step.part, step.wants, force=force)
        except (UsageError, TenantError) as error:
            problems.append(Problem(tuple(key.text for key in step.keys.values()), error))
    return problems


async def observe_all(edges: Edges, knobs: Iterable[Knob]) -> dict[Knob, tuple[Part, ...]]:
    """Read every instance of these knobs, each knob once.

    :raise MonitorError: QEMU went away, does not answer, or answers what cannot be read. Nothing was changed.
    """
    return {knob: await _observe(edges, knob) for knob in dict.fromkeys(knobs)}


def _not_for(key: str, kind: str) -> UsageError:
    first, _, leaf = key.rpartition(".")
    hint = (
        f"at the host's device: {first}.host.{leaf}"
        if key.startswith("disk.")
        else "`ringfence show` lists its keys"
    )
    return UsageError(f"{key} is not for a {kind}", hint=hint)


# Whether a protocol is met takes 30 us to find out, for each of three, which counts with thousands of tenants.
@lru_cache(maxsize=256)
def _makes(knob: Knob) -> bool:
    return isinstance(knob, Makes)


@lru_cache(maxsize=256)
def _as_foreseeing(knob: Knob) -> Foresees | None:
    return knob if isinstance(knob, Foresees) else None


@lru_cache(maxsize=256)
def _as_in_step(knob: Knob) -> InStep | None:
    return knob if isinstance(knob, InStep) else None


def _in_order(steps: list[Step]) -> list[Step]:
    """Steps that make what others need first, else as the user wrote them; each as the ones before leave it."""
    if len(steps) < 2:
        return steps
    ordered: list[Step] = []
    for step in sorted(steps, key=lambda step: not _makes(step.knob)):  # type: ignore[arg-type]  # as above
        foresees = _as_foreseeing(step.knob)  # type: ignore[arg-type]  # as above
        if foresees is not None:
            part = foresees.foresee(step.part, [(earlier.part, earlier.wants) for earlier in ordered])
            ordered.append(step._replace(part=part))
        else:
            ordered.append(step)
    return ordered


async def _observe(edges: Edges, knob: Knob) -> tuple[Part, ...]:
    try:
        return await observe(knob.observe(), edges)
    except RingfenceError as error:
        error.state = "nothing was changed"
        raise


def together(problems: Sequence[RingfenceError]) -> RingfenceError:
    """One error of several; what the VM lacks matters only once the request itself can be meant."""
    if len(problems) == 1:
        return problems[0]
    kind = TenantError if all(isinstance(problem, TenantError) for problem in problems) else UsageError
    lines = [f"{problem.message} ({problem.hint})" if problem.hint else problem.message for problem in problems]
    return kind(
        "\n  ".join((f"{len(problems)} things are wrong, and nothing was changed:", *lines)),
        hint="put them right, or leave them out",
    )


async def apply(
    edges: Edges,
    steps: list[Step],
    *,
    timeout_s: float,
    force: bool = False,
    progress: ProgressCallback = no_progress,
    ended: Callable[[Step, Outcome], None] = lambda *_: None,
) -> list[Result]:
    """Apply the steps in order and say what became of each key.

    :param ended: called with each step that was attempted, and what became of it.

    A step that is not wholly applied ends it: later ones are `not attempted`, earlier ones stay as applied.
    Errors on the way are verdicts here, not exceptions: what had been done by then is always told.
    """
    results: list[Result] = []
    stopped, changed = "", False
    for step in steps:
        if edges.interrupted and not stopped:
            stopped = "it was interrupted"
        if stopped:
            outcome = Outcome(Verdict.NOT_ATTEMPTED, step.part, detail=f"because {stopped}")
            results += [step.result(leaf, outcome, 0.0) for leaf in step.keys]
            continue
        start = time.perf_counter()
        code: int | None = None
        try:
            outcome = await run(
                step.knob.apply(step.part, step.wants, timeout_s=timeout_s, force=force),
                edges,
                events=step.knob.events,
                progress=progress,
            )
        except RingfenceError as error:
            outcome, code = await _ended(edges, step, error), error.exit_code
        took_ms = (time.perf_counter() - start) * 1e3
        ended(step, outcome)
        told = [step.result(leaf, outcome, took_ms, exit_code=code) for leaf in step.keys]
        changed = changed or any(result.known and result.actual != result.before for result in told)
        if changed:  # a code of 2 promises that nothing was
            told = [r._replace(exit_code=_PARTLY) if r.exit_code == UsageError.exit_code else r for r in told]
        results += told
        if step.knob.prefix == "vcpus" and changed:
            await _join(edges)
        if outcome.verdict is not Verdict.APPLIED:
            stopped = f"{results[-1].key} was not applied"
    return results


async def watched(edges: Edges, steps: list[Step], results: list[Result]) -> list[Result]:
    """The results, with a note where what was applied shows within seconds that something went wrong."""
    found: dict[str, str] = {}
    for step in steps:
        keys = step.names()
        applied = all(r.verdict is Verdict.APPLIED for r in results if r.key in keys)
        if not applied or not isinstance(step.knob, Watches):
            continue
        try:
            wrong = await run(step.knob.watch(step.part, step.wants), edges)
        except RingfenceError:
            continue  # the change itself was read back
        found |= dict.fromkeys(keys, wrong) if wrong else {}
    return [r._replace(notes=(*r.notes, found[r.key])) if r.key in found else r for r in results]


async def _join(edges: Edges) -> None:
    """Threads of new vCPUs join the groups of the others; where none can be told, there is nothing to join."""
    from ringfence.knobs.host.join import join

    with suppress(HostError):
        await observe(join(), edges)


async def _ended(edges: Edges, step: Step, error: RingfenceError) -> Outcome:
    """What an error in the middle left behind: read back where QEMU still answers, else said to be unknown."""
    part = await _read_back(edges, step)
    error.add_state(
        "the value shown was read back after it" if part else "whether the change took effect is not known"
    )
    return Outcome(
        Verdict.INTERRUPTED if isinstance(error, InterruptError) else Verdict.FAILED,
        part,
        detail=error.message,
        hint=error.hint or ("" if part else "`ringfence show VM` tells, once QEMU answers again"),
        state=error.state,
    )


async def _read_back(edges: Edges, step: Step) -> Part | None:
    """The part as it is after an error; None when QEMU does not tell. A connection that broke is made anew."""
    try:
        try:
            parts = await observe(step.knob.observe(), edges)
        except (MonitorGoneError, MonitorProtocolError):
            await edges.session.reopen(timeout_s=edges.answer_timeout_s)
            parts = await observe(step.knob.observe(), edges)
    except RingfenceError:
        return None
    return same(parts, step.part)


def same(parts: tuple[Part, ...], wanted: Part) -> Part | None:
    """The same instance as it is now; None when there is none any more."""
    identity = wanted.identity or wanted.name
    return next((part for part in parts if (part.identity or part.name) == identity), None)
