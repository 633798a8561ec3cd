"""From keys and values to verdicts: everything checked before the first change, everything said after it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple

from ringfence.core.knob import Foresees, Knob, Makes, Observation, Outcome, Part, Row, Value, Verdict, Wants
from ringfence.core.requests import Agent, Qmp
from ringfence.engine.driver import Edges, ProgressCallback, no_progress, run
from ringfence.errors import RingfenceError, UsageError
from ringfence.knobs import registry


class Result(NamedTuple):
    """What became of one key.

    :param before: what it was; None is unlimited. `asked` what was wanted; `target` what QEMU now holds;
        `actual` what is so, in the guest where that can be known.
    :param by: who refused, empty when nobody did; `detail` why; `hint` what to do.
    :param took_ms: from the first request of its change to the read-back, shared by keys of one part.
    :param exit_code: what a command line should end with for this key alone.
    """

    key: str
    row: Row
    before: Value | None
    asked: Value | None
    target: Value | None
    actual: Value | None
    verdict: Verdict
    by: str
    detail: str
    notes: tuple[str, ...]
    took_ms: float
    exit_code: int


class Step(NamedTuple):
    """The change of one part of the VM: several keys of one disk are one step."""

    knob: Knob
    part: Part
    wants: Wants
    keys: Mapping[str, registry.Key]

    def requests(self) -> list[Qmp | Agent]:
        """Exactly what would be sent to change the VM."""
        return self.knob.changes(self.part, self.wants)

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
            verdict=outcome.verdict,
            by=outcome.by,
            detail=outcome.detail,
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
    Verdict.NOT_ATTEMPTED: 4,
}
_REFUSER_CODES = {"QEMU": 4, "ringfence": 2, "guest": 6}


async def plan(edges: Edges, values: Mapping[str, str | int | float | None], *, force: bool = False) -> list[Step]:
    """Read what the values concern and check all of them. Changes nothing.

    :param values: key to a value as a user writes it, a number in the key's base unit, or None for unlimited.
    :raise UsageError: an unknown key or instance, a bad or impossible value.
    :raise TenantError: this VM cannot do it as it was started.
    """
    keys = [registry.parse_key(text) for text in values]
    wanted = {key.text: registry.parse_value(key, values[key.text]) for key in keys}
    observed: dict[Knob, tuple[Part, ...]] = {}
    steps: dict[tuple[Knob, str], Step] = {}
    for key in keys:
        if key.knob not in observed:
            observed[key.knob] = await run(key.knob.observe(), edges)
        part = registry.pick(observed[key.knob], key)
        step = steps.setdefault((key.knob, part.name), Step(key.knob, part, {}, {}))
        if key.leaf in step.keys:
            raise UsageError(f"{key.text} and {step.keys[key.leaf].text} are the same", hint="give it once")
        steps[key.knob, part.name] = step._replace(
            wants={**step.wants, key.leaf: wanted[key.text]}, keys={**step.keys, key.leaf: key}
        )
    ordered = _in_order(list(steps.values()))
    for step in ordered:
        step.knob.check(step.part, step.wants, force=force)
    return ordered


def _in_order(steps: list[Step]) -> list[Step]:
    """Steps that make what others need first, else as the user wrote them; each as the ones before leave it."""
    ordered: list[Step] = []
    for step in sorted(steps, key=lambda step: not isinstance(step.knob, Makes)):
        if isinstance(step.knob, Foresees):
            part = step.knob.foresee(step.part, [(earlier.part, earlier.wants) for earlier in ordered])
            ordered.append(step._replace(part=part))
        else:
            ordered.append(step)
    return ordered


async def apply(
    edges: Edges,
    steps: list[Step],
    *,
    timeout_s: float,
    force: bool = False,
    progress: ProgressCallback = no_progress,
) -> list[Result]:
    """Apply the steps in order and say what became of each key.

    A step that is not wholly applied ends it: later ones are `not attempted`, earlier ones stay as applied.
    Errors on the way are verdicts here, not exceptions: what had been done by then is always told.
    """
    results: list[Result] = []
    stopped = ""
    for step in steps:
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
            outcome, code = await _failed(edges, step, error), error.exit_code
        took_ms = (time.perf_counter() - start) * 1e3
        results += [step.result(leaf, outcome, took_ms, exit_code=code) for leaf in step.keys]
        if outcome.verdict is not Verdict.APPLIED:
            stopped = f"{results[-1].key} was {outcome.verdict}"
    return results


async def _failed(edges: Edges, step: Step, error: RingfenceError) -> Outcome:
    """What an error in the middle left behind: read back where QEMU still answers, else said to be unknown."""
    detail = f"{error.message}; {error.hint}" if error.hint else error.message
    try:
        parts = await run(step.knob.observe(), edges)
        part = next(part for part in parts if part.name == step.part.name)
    except (RingfenceError, StopIteration):
        state = error.state or "whether the change took effect is not known"
        return Outcome(Verdict.FAILED, None, detail=f"{detail} ({state})")
    return Outcome(Verdict.FAILED, part, detail=f"{detail} (read back after it)")
