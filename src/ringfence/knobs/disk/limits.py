"""PURE: the nineteen numbers of a throttle, how wants are laid over them, and QEMU's rules for them.

A disk's own throttle and a throttle-group object have the same numbers under two spellings.

Sources: QEMU qapi/block-core.json (BlockIOThrottle), qapi/qom.json (ThrottleLimits), docs/throttle.txt, and the
validity rules it states.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from ringfence import units
from ringfence.core.answers import fields, number
from ringfence.core.knob import Row, Value, Wants
from ringfence.errors import UsageError

LIMIT_MAX = 10**15
_DIRECTIONS = {
    "": ("", "reads and writes together"),
    ".read": ("_rd", "reads"),
    ".write": ("_wr", "writes"),
}
_KINDS = {"iops": (units.IOPS, "requests"), "bps": (units.BYTES_PER_S, "bytes")}

RATES = {f"{kind}{leaf}": f"{kind}{field}" for kind in _KINDS for leaf, (field, _) in _DIRECTIONS.items()}
"""Leaf of each rate to QEMU's field, such as `iops.read` to `iops_rd`."""

FIELDS = {
    **RATES,
    **{f"{leaf}.burst": f"{field}_max" for leaf, field in RATES.items()},
    **{f"{leaf}.burst_length": f"{field}_max_length" for leaf, field in RATES.items()},
    "io_size": "iops_size",
}
"""Leaf of every number to QEMU's field."""

_OBJECT_ENDINGS = {"": "", "_max": "-max", "_max_length": "-max-length"}
OBJECT_FIELDS = {
    f"{field}{ending}": f"{leaf.replace('.', '-') if '.' in leaf else f'{leaf}-total'}{object_ending}"
    for leaf, field in RATES.items()
    for ending, object_ending in _OBJECT_ENDINGS.items()
} | {"iops_size": "iops-size"}
"""QEMU's field for a disk to its field of a throttle-group object: `iops_rd_max` to `iops-read-max`."""

Limits: TypeAlias = Mapping[str, int]
"""QEMU's field to its number, every one of FIELDS' values; 0 is unset."""


def rows(part: str, mechanism: str) -> tuple[Row, ...]:
    """The row of every number.

    :param part: what the keys begin with, such as `disk.<disk>`.
    """
    rates = (
        row
        for kind in _KINDS
        for leaf, (_, words) in _DIRECTIONS.items()
        for row in _rate_rows(part, mechanism, kind, leaf, words)
    )
    text = "a request larger than this counts as several against an iops limit"
    return *rates, Row(f"{part}.io_size", units.BYTES, mechanism, text, lifts=True, main=False)


def _rate_rows(part: str, mechanism: str, kind: str, leaf: str, words: str) -> tuple[Row, Row, Row]:
    unit, noun = _KINDS[kind]
    key = f"{part}.{kind}{leaf}"
    return (
        Row(key, unit, mechanism, f"{noun} per second, {words}", True, leaf == ""),
        Row(f"{key}.burst", unit, mechanism, f"{noun} per second while a burst lasts, {words}", True, False),
        Row(f"{key}.burst_length", units.SECONDS, mechanism, "whole seconds a full burst may last", True, False),
    )


def read(inserted: Mapping[str, Any]) -> dict[str, int]:
    """Every limit of a disk from `query-block`'s `inserted`, fields QEMU leaves out as 0."""
    return _read({field: number(inserted.get(field, 0)) for field in FIELDS.values()})


def read_object(found: Any) -> dict[str, int]:
    """Every limit of a throttle-group object from its `limits`, under the fields of a disk."""
    found = fields(found)
    return _read({field: number(found.get(object_field, 0)) for field, object_field in OBJECT_FIELDS.items()})


def _read(limits: dict[str, int]) -> dict[str, int]:
    """A length that stands without its burst is QEMU's filling, not a limit: it is read as 0."""
    for field in RATES.values():
        if not limits[f"{field}_max"]:
            limits[f"{field}_max_length"] = 0
    return limits


def write_object(limits: Limits) -> dict[str, int]:
    """The complete `limits` of a throttle-group object.

    QEMU keeps what is left out as it is, so all are named; and it refuses a length of 0 even without a burst.
    """
    return {
        object_field: limits[field] or int(field.endswith("_max_length"))
        for field, object_field in OBJECT_FIELDS.items()
    }


def lay_over(limits: Limits, wants: Wants) -> dict[str, int]:
    """`wants` laid over `limits`: what is not named is kept.

    What can't stand without a limit goes with it: its burst, the burst's length, and the I/O size when no iops
    limit is left. A burst without a length gets QEMU's own default of one second.
    """
    merged = dict(limits)
    for leaf, value in wants.items():
        if leaf in FIELDS:
            merged[FIELDS[leaf]] = int(value or 0)
    for leaf, field in RATES.items():
        burst, length = f"{field}_max", f"{field}_max_length"
        if not merged[field] and f"{leaf}.burst" not in wants:
            merged[burst] = 0
        if not merged[burst] and f"{leaf}.burst_length" not in wants:
            merged[length] = 0
        if merged[burst] and not merged[length]:
            merged[length] = 1
    if not any(merged[RATES[f"iops{leaf}"]] for leaf in _DIRECTIONS) and "io_size" not in wants:
        merged["iops_size"] = 0
    return merged


def check_value(part: str, leaf: str, value: Value | None) -> None:
    """:raise UsageError: the value of `part`'s leaf alone is out of range."""
    if leaf not in FIELDS or value is None:
        return
    wanted = int(value)
    if leaf.endswith(".burst_length"):
        if not 1 <= wanted <= 2**32 - 1:
            raise UsageError(
                f"{part}.{leaf}={wanted} is out of range", hint="a burst lasts at least 1 s, in whole seconds"
            )
    elif wanted > LIMIT_MAX:
        raise UsageError(f"{part}.{leaf}={wanted} is above QEMU's largest limit", hint="at most 10^15")


def check_together(part: str, limits: Limits) -> None:
    """Check the limits as a whole by QEMU's rules, in the user's keys.

    :param part: what the keys begin with, such as `disk.vda`.
    :raise UsageError: a combination QEMU would refuse; the hint names the keys to change.
    """
    for kind in _KINDS:
        _check_exclusive(part, kind, limits, "")
        _check_exclusive(part, kind, limits, ".burst")
    for leaf, field in RATES.items():
        _check_burst(f"{part}.{leaf}", limits[field], limits[f"{field}_max"], limits[f"{field}_max_length"])
    if limits["iops_size"] and not any(limits[RATES[f"iops{leaf}"]] for leaf in _DIRECTIONS):
        raise UsageError(f"{part}.io_size has no meaning without an iops limit", hint=f"set {part}.iops with it")


def _check_exclusive(part: str, kind: str, limits: Limits, ending: str) -> None:
    total = f"{kind}{ending}"
    parts = [f"{kind}{leaf}{ending}" for leaf in (".read", ".write")]
    clashing = [leaf for leaf in parts if limits[FIELDS[leaf]]]
    if limits[FIELDS[total]] and clashing:
        lifted = " ".join(f"{part}.{leaf}=unlimited" for leaf in clashing)
        raise UsageError(
            f"a total and a read or write limit exclude each other: {total}={limits[FIELDS[total]]} and "
            + ", ".join(f"{leaf}={limits[FIELDS[leaf]]}" for leaf in clashing),
            hint=f"lift one side in the same command: {part}.{total}=unlimited, or {lifted}",
        )


def _check_burst(key: str, rate: int, burst: int, length_s: int) -> None:
    if burst and not rate:
        raise UsageError(f"{key}.burst needs {key} itself", hint=f"set both: {key}=100 {key}.burst=500")
    if burst and burst < rate:
        raise UsageError(
            f"{key}.burst={burst} would be below {key}={rate}",
            hint=f"raise {key}.burst with it, or lift it: {key}.burst=unlimited",
        )
    if length_s and not burst:
        raise UsageError(
            f"{key}.burst_length needs {key}.burst", hint=f"set both: {key}.burst=500 {key}.burst_length=10s"
        )
    if burst and length_s > LIMIT_MAX // burst:
        raise UsageError(
            f"{key}.burst_length={length_s} is too long for a burst of {burst}", hint="lower one of the two"
        )
