"""PURE: the nineteen numbers of a disk's throttle, how wants are laid over them, and QEMU's rules for them.

Sources: QEMU qapi/block-core.json (BlockIOThrottle), docs/throttle.txt, and the validity rules it states.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from ringfence import units
from ringfence.core.answers import number
from ringfence.core.knob import Row, Value, Wants
from ringfence.errors import UsageError

LIMIT_MAX = 10**15
_MECHANISM = "block_set_io_throttle"
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

Limits: TypeAlias = Mapping[str, int]
"""QEMU's field to its number, every one of FIELDS' values; 0 is unset."""


def _rate_rows(kind: str, leaf: str, words: str) -> tuple[Row, Row, Row]:
    unit, noun = _KINDS[kind]
    key = f"disk.<disk>.{kind}{leaf}"
    return (
        Row(key, unit, _MECHANISM, f"{noun} per second, {words}", True, leaf == ""),
        Row(f"{key}.burst", unit, _MECHANISM, f"{noun} per second while a burst lasts, {words}", True, False),
        Row(f"{key}.burst_length", units.SECONDS, _MECHANISM, "whole seconds a full burst may last", True, False),
    )


ROWS: tuple[Row, ...] = (
    *(r for kind in _KINDS for leaf, (_, words) in _DIRECTIONS.items() for r in _rate_rows(kind, leaf, words)),
    Row(
        key="disk.<disk>.io_size",
        unit=units.BYTES,
        mechanism=_MECHANISM,
        help="a request larger than this counts as several against an iops limit",
        lifts=True,
        main=False,
    ),
    Row(
        key="disk.<disk>.group",
        unit=units.NAME,
        mechanism=_MECHANISM,
        help="throttle group whose members share one set of limits",
        lifts=True,
        main=False,
    ),
)


def read(inserted: Mapping[str, Any]) -> dict[str, int]:
    """Every limit of a disk from `query-block`'s `inserted`, fields QEMU leaves out as 0."""
    return {field: number(inserted.get(field, 0)) for field in FIELDS.values()}


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


def check_value(disk: str, leaf: str, value: Value | None) -> None:
    """:raise UsageError: the value alone is out of range."""
    if leaf == "group" or value is None:
        return
    wanted = int(value)
    if leaf.endswith(".burst_length"):
        if not 1 <= wanted <= 2**32 - 1:
            raise UsageError(
                f"disk.{disk}.{leaf}={wanted} is out of range", hint="a burst lasts at least 1 s, in whole seconds"
            )
    elif wanted > LIMIT_MAX:
        raise UsageError(f"disk.{disk}.{leaf}={wanted} is above QEMU's largest limit", hint="at most 10^15")


def check_together(disk: str, limits: Limits) -> None:
    """Check the limits as a whole by QEMU's rules, in the user's keys.

    :raise UsageError: a combination QEMU would refuse; the hint names the keys to change.
    """
    for kind in _KINDS:
        _check_exclusive(disk, kind, limits, "")
        _check_exclusive(disk, kind, limits, ".burst")
    for leaf, field in RATES.items():
        _check_burst(f"disk.{disk}.{leaf}", limits[field], limits[f"{field}_max"], limits[f"{field}_max_length"])
    if limits["iops_size"] and not any(limits[RATES[f"iops{leaf}"]] for leaf in _DIRECTIONS):
        raise UsageError(
            f"disk.{disk}.io_size has no meaning without an iops limit", hint=f"set disk.{disk}.iops with it"
        )


def _check_exclusive(disk: str, kind: str, limits: Limits, ending: str) -> None:
    total = f"{kind}{ending}"
    parts = [f"{kind}{leaf}{ending}" for leaf in (".read", ".write")]
    clashing = [leaf for leaf in parts if limits[FIELDS[leaf]]]
    if limits[FIELDS[total]] and clashing:
        lifted = " ".join(f"disk.{disk}.{leaf}=unlimited" for leaf in clashing)
        raise UsageError(
            f"a total and a read or write limit exclude each other: {total}={limits[FIELDS[total]]} and "
            + ", ".join(f"{leaf}={limits[FIELDS[leaf]]}" for leaf in clashing),
            hint=f"lift one side in the same command: disk.{disk}.{total}=unlimited, or {lifted}",
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
