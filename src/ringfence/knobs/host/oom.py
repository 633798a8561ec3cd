"""PURE: whom the kernel kills first when the host's memory runs out: `memory.oom_score`.

Source: proc(5), /proc/PID/oom_score_adj: from -1000, never, to 1000, first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ringfence import units
from ringfence.core.host import Placement
from ringfence.core.knob import EVERY_TENANT, Observation, Outcome, Part, Row, Wants
from ringfence.core.requests import Change, ReadFile, Steps, WriteFile
from ringfence.core.requests import Placement as AskPlacement
from ringfence.errors import UsageError
from ringfence.knobs.host import bandwidth
from ringfence.knobs.host.carry import applied
from ringfence.knobs.host.home import Do

ROW = Row(
    "memory.oom_score",
    units.INTEGER,
    "oom_score_adj",
    "whom the kernel kills first when memory runs out: from -1000 (never) to 1000 (first)",
    main=False,
)
_LEAST, _MOST = -1000, 1000


class State(NamedTuple):
    """:param scores: by process."""

    scores: tuple[tuple[int, int], ...]
    reason: str


class OomScore:
    """See the module. A container's processes have it each; those that start later have their parent's."""

    prefix = "memory"
    tenants = EVERY_TENANT
    rows: tuple[Row, ...] = (ROW,)
    events: tuple[str, ...] = ()

    def observe(self) -> Steps[tuple[Part, ...]]:
        """Read every process's; one Part."""
        placement: Placement = yield AskPlacement()
        texts = yield [ReadFile(_path(pid), optional=True) for pid in placement.pids]
        found = zip(placement.pids, texts, strict=True)
        scores = tuple((pid, int(text)) for pid, text in found if text is not None)
        return (Part("", (), State(scores, placement.absent or ("" if scores else "it has no process"))),)

    def observation(self, part: Part, row: Row) -> Observation:
        """That of its first process, and a note when others have others."""
        state: State = part.state
        values = dict.fromkeys(score for _, score in state.scores)
        score = next(iter(values), None)
        notes = (f"its processes have {', '.join(map(str, values))}",) if len(values) > 1 else ()
        return Observation(row, row.key, score, score, _LEAST, _MOST, state.reason, notes)

    def check(self, part: Part, wants: Wants, *, force: bool) -> None:
        """Raise UsageError out of range."""
        self.observation(part, ROW).refuse_unavailable()
        want = int(wants["oom_score"] or 0)
        if not _LEAST <= want <= _MOST:
            raise UsageError(f"memory.oom_score={want} is out of range", hint=f"from {_LEAST} to {_MOST}")

    def changes(self, part: Part, wants: Wants) -> Sequence[Change]:
        """One write for each process that has another."""
        return bandwidth.requests(self._steps(part, wants))

    def apply(self, part: Part, wants: Wants, *, timeout_s: float, force: bool) -> Steps[Outcome]:
        """Write, and read back."""
        return (yield from applied(self, part, wants, self._steps))

    def _steps(self, part: Part, wants: Wants) -> Sequence[Do]:
        state: State = part.state
        want = int(wants["oom_score"] or 0)
        return [
            Do(WriteFile(_path(pid), str(want)), WriteFile(_path(pid), str(score)))
            for pid, score in state.scores
            if score != want
        ]


def _path(pid: int) -> str:
    return f"/proc/{pid}/oom_score_adj"
