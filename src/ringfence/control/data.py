"""Observations and results as plain data, and back: what `-o json` prints and what the control socket carries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ringfence.core.knob import Advice, Observation, Verdict
from ringfence.engine.changes import Result
from ringfence.knobs import registry

if TYPE_CHECKING:
    from ringfence.core.knob import Row


def observation_data(observation: Observation) -> dict[str, Any]:
    """One observation; null is unlimited or unknown."""
    row = observation.row
    return {
        "key": observation.key,
        "target": observation.target,
        "actual": observation.actual,
        "unit": row.unit,
        "minimum": observation.minimum,
        "maximum": observation.maximum,
        "mechanism": row.mechanism,
        "help": row.help,
        "unavailable": observation.unavailable or None,
        "notes": list(observation.notes),
        "advice": [advice._asdict() for advice in observation.advice],
    }


def observation_of(data: Mapping[str, Any]) -> Observation:
    """An observation that was sent."""
    return Observation(
        row=_row(data["key"], data["mechanism"]),
        key=data["key"],
        target=data["target"],
        actual=data["actual"],
        minimum=data["minimum"],
        maximum=data["maximum"],
        unavailable=data["unavailable"] or "",
        notes=tuple(data["notes"]),
        advice=tuple(Advice(**one) for one in data["advice"]),
    )


def result_data(result: Result) -> dict[str, Any]:
    """What became of one key."""
    return {
        "key": result.key,
        "before": result.before,
        "asked": result.asked,
        "target": result.target,
        "actual": result.actual,
        "known": result.known,
        "unit": result.row.unit,
        "verdict": str(result.verdict),
        "by": result.by,
        "detail": result.detail,
        "state": result.state,
        "hint": result.hint,
        "notes": list(result.notes),
        "took_ms": round(result.took_ms, 2),
    }


def result_of(data: Mapping[str, Any]) -> Result:
    """A result that was sent; `exit_code` goes with it."""
    return Result(
        row=registry.parse_key(data["key"]).row,
        notes=tuple(data["notes"]),
        verdict=Verdict(data["verdict"]),
        **{name: data[name] for name in _PLAIN},
    )


_PLAIN = (
    "key",
    "before",
    "asked",
    "target",
    "actual",
    "known",
    "by",
    "detail",
    "hint",
    "state",
    "took_ms",
    "exit_code",
)


def _row(key: str, mechanism: str) -> Row:
    """The row of a key that may only be read; the daemon knows the mechanism of this tenant."""
    return registry.parse_key(key).row._replace(mechanism=mechanism)
