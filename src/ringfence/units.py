"""The only parser and printer of human units.

One rule for prefixes, said once:

* `KiB MiB GiB TiB` and the bare letters `K M G T` are powers of 1024, as in QEMU's and docker's options;
* `kB MB GB TB` are powers of 1000;
* bit rates (`kbit Mbit Gbit`) are powers of 1000, as in tc(8);
* a bare number is the base unit: bytes, bytes/s, requests/s, seconds.

Values are plain integers in the base unit, except durations, which are float seconds.
"""

from __future__ import annotations

import re

from ringfence.errors import UsageError

BYTES = "bytes"
BYTES_PER_S = "bytes/s"
IOPS = "iops"
COUNT = "count"
SECONDS = "s"
NAME = "name"

KIB, MIB, GIB, TIB = 1024, 1024**2, 1024**3, 1024**4

_BINARY = {"k": KIB, "m": MIB, "g": GIB, "t": TIB}
_DECIMAL = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_TIME_S = {"": 1.0, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_UNLIMITED = frozenset({"unlimited", "none", "max", "off"})
_EXAMPLES = {
    BYTES: "512MiB, 2G or a number of bytes",
    BYTES_PER_S: "5MiB/s, 100MB/s, 40Mbit/s or a number of bytes per second",
    IOPS: "100, 2k or 500/s",
    COUNT: "a whole number such as 4",
    SECONDS: "10s, 500ms, 2min or a number of seconds",
}

_NUMBER = re.compile(r"([+-]?\d+(?:\.\d+)?|[+-]?\.\d+)\s*([A-Za-z/]*)")


def _split(kind: str, text: str) -> tuple[float, str]:
    match = _NUMBER.fullmatch(text.strip().replace("_", ""))
    if match is None:
        raise UsageError(f"cannot read {text!r} as {kind}", hint=f"write {_EXAMPLES[kind]}")
    number = float(match[1])
    if number < 0:
        raise UsageError(f"{text!r} is negative", hint=f"write {_EXAMPLES[kind]}")
    return number, match[2]


def _byte_factor(suffix: str) -> float | None:
    """Bytes in one `suffix`, or None when it is no unit of bytes. Case of the B is free, `b` is not bits."""
    low = suffix.lower()
    if low in ("", "b"):
        return 1
    if low.endswith("bit"):
        return None
    if low in _BINARY:
        return _BINARY[low]
    if len(low) == 3 and low.endswith("ib"):
        return _BINARY.get(low[0])
    if len(low) == 2 and low.endswith("b"):
        return _DECIMAL.get(low[0])
    return None


def _rate_factor(suffix: str) -> float | None:
    low = suffix.lower()
    for per_second in ("/s", "ps"):
        low = low.removesuffix(per_second)
    if low.endswith("bit"):
        prefix = low.removesuffix("bit")
        if prefix.endswith("i"):
            binary = _BINARY.get(prefix[0]) if len(prefix) == 2 else None
            return None if binary is None else binary / 8
        decimal = _DECIMAL.get(prefix)
        return None if decimal is None else decimal / 8
    return _byte_factor(low)


def _iops_factor(suffix: str) -> float | None:
    low = suffix.lower()
    for ending in ("/s", "iops"):
        low = low.removesuffix(ending)
    return _DECIMAL.get(low)


def _count_factor(suffix: str) -> float | None:
    return None if suffix else 1


def _second_factor(suffix: str) -> float | None:
    return _TIME_S.get(suffix.lower())


_FACTORS = {
    BYTES: _byte_factor,
    BYTES_PER_S: _rate_factor,
    IOPS: _iops_factor,
    COUNT: _count_factor,
    SECONDS: _second_factor,
}


def parse_seconds(text: str) -> float:
    """Read a duration (`10s`, `500ms`, `2min`, `1.5`) as float seconds.

    :raise UsageError: no number, an unknown unit, or a negative value.
    """
    number, suffix = _split(SECONDS, text)
    factor = _second_factor(suffix)
    if factor is None:
        raise UsageError(f"unknown unit {suffix!r} in {text!r}", hint=f"write {_EXAMPLES[SECONDS]}")
    return number * factor


def parse(kind: str, text: str) -> int:
    """Read `text` as a whole number of the base unit of `kind` (one of this module's constants).

    `unlimited`, `none`, `max` and `off` are not read here: whether a knob can be lifted is the knob's to say
    (see `is_unlimited`).

    :raise UsageError: no number, an unknown unit, a negative value, or a fraction of the base unit.
    """
    number, suffix = _split(kind, text)
    factor = _FACTORS[kind](suffix)
    if factor is None:
        raise UsageError(f"unknown unit {suffix!r} in {text!r}", hint=f"write {_EXAMPLES[kind]}")
    if factor == 1 and re.fullmatch(r"\+?[\d_]+\s*\D*", text.strip()):
        return int(re.sub(r"\D", "", text))  # exact beyond 2^53
    value = number * factor
    if value != int(value):
        raise UsageError(f"{text!r} is not a whole number of {kind}", hint=f"write {_EXAMPLES[kind]}")
    return int(value)


def is_unlimited(text: str) -> bool:
    """True for the words that lift a limit."""
    return text.strip().lower() in _UNLIMITED


def format_bytes(value: int) -> str:
    """Print bytes with the largest binary prefix that keeps it short: exact where it can be, else 2 decimals."""
    for prefix, factor in (("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if abs(value) >= factor:
            if value % factor == 0:
                return f"{value // factor} {prefix}"
            return f"{value / factor:.2f} {prefix}"
    return f"{value} B"


def format_seconds(value: float) -> str:
    """Print a duration with a unit people read: microseconds up to hours."""
    if value == 0:
        return "0 s"
    if value < 1e-3:
        return f"{value * 1e6:.0f} us"
    if value < 1:
        return f"{value * 1e3:.3g} ms"
    if value < 120:
        return f"{value:.3g} s"
    return f"{value / 60:.3g} min" if value < 7200 else f"{value / 3600:.3g} h"


def format_value(kind: str, value: int | float | str) -> str:
    """Print a value of `kind` for people; the inverse of `parse` up to rounding."""
    if isinstance(value, str):
        return value
    if kind == BYTES:
        return format_bytes(int(value))
    if kind == BYTES_PER_S:
        return f"{format_bytes(int(value))}/s"
    if kind == SECONDS:
        return format_seconds(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
