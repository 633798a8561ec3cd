"""The only parser and printer of human units.

One rule for prefixes, said once:

* `KiB MiB GiB TiB` and the bare letters `K M G T` are powers of 1024, as in QEMU's and docker's options;
* `kB MB GB TB` are powers of 1000;
* bit rates (`kbit Mbit Gbit`) are powers of 1000, as in tc(8);
* percent are of one CPU where CPU time is meant: `150%` is one and a half, and so is `1.5cpus`;
* a bare number is the base unit: bytes, bytes/s, bits/s, requests/s, seconds, microseconds, percent.

Values are plain integers in the base unit, except durations, which are float seconds.
"""

from __future__ import annotations

from typing import NamedTuple

from ringfence.errors import UsageError

BYTES = "bytes"
BYTES_PER_S = "bytes/s"
BITS_PER_S = "bits/s"
IOPS = "iops"
COUNT = "count"
SECONDS = "s"
MICROSECONDS = "us"
PERCENT = "percent"
INTEGER = "integer"
"""A whole number that may be negative: it has no unit, and is not read by `parse`."""
NAME = "name"
SWITCH = "on/off"

KIB, MIB, GIB, TIB = 1024, 1024**2, 1024**3, 1024**4

_BINARY = {"k": KIB, "m": MIB, "g": GIB, "t": TIB}
_DECIMAL = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_TIME_S = {"": 1.0, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_UNLIMITED = frozenset({"unlimited", "none", "max", "off"})
_EXAMPLES = {
    BYTES: "512MiB, 2G or a number of bytes",
    BYTES_PER_S: "5MiB/s, 100MB/s, 40Mbit/s or a number of bytes per second",
    BITS_PER_S: "100Mbit/s, 1.5Gbit, 12MB/s or a number of bits per second",
    IOPS: "100, 2k or 500/s",
    COUNT: "a whole number such as 4",
    SECONDS: "10s, 500ms, 2min or a number of seconds",
    MICROSECONDS: "500us, 10ms, 1s or a number of microseconds",
    PERCENT: "50%, 150 or 1.5cpus",
}

_NAMES = {
    BYTES: "bytes",
    BYTES_PER_S: "bytes per second",
    BITS_PER_S: "bits per second",
    IOPS: "requests per second",
    COUNT: "a number",
    SECONDS: "a duration",
    MICROSECONDS: "a duration",
    PERCENT: "a percentage",
}

_DIGITS_MAX = 30
_NO_SIGNS = {ord("/"): None, ord("%"): None}


class _Quantity(NamedTuple):
    """`1.25GiB` is 125 over 100, and the suffix."""

    numerator: int
    denominator: int
    suffix: str


def _split(kind: str, text: str) -> _Quantity:
    """A number and its suffix; taken apart by hand, as compiling an expression for it takes 3 ms of each start."""
    signed = text.strip().replace("_", "")
    unsigned = signed[1:] if signed[:1] in ("+", "-") else signed
    rest = unsigned.lstrip("0123456789.")
    whole, _, fraction = unsigned[: len(unsigned) - len(rest)].partition(".")
    suffix = rest.lstrip()
    if (
        not (whole or fraction)
        or "." in fraction
        or max(len(whole), len(fraction)) > _DIGITS_MAX
        or not (suffix.isascii() and (suffix.translate(_NO_SIGNS) or "b").isalpha())
    ):
        raise UsageError(f"cannot read {text[:60]!r} as {_NAMES[kind]}", hint=f"write {_EXAMPLES[kind]}")
    if signed[0] == "-":
        raise UsageError(f"{text!r} is negative", hint=f"write {_EXAMPLES[kind]}")
    return _Quantity(int(whole + fraction), 10 ** len(fraction), suffix)


def _byte_bits(suffix: str) -> int | None:
    """Bits in one `suffix` of bytes, or None when it is no such unit. The B may be small: `mb` is not a bit."""
    if suffix in ("", "b"):
        return 8
    if suffix in _BINARY:
        return 8 * _BINARY[suffix]
    prefix = suffix[0]
    if suffix == f"{prefix}ib" and prefix in _BINARY:
        return 8 * _BINARY[prefix]
    if suffix == f"{prefix}b" and prefix in _DECIMAL:
        return 8 * _DECIMAL[prefix]
    return None


def _rate_bits(suffix: str) -> int | None:
    """Bits in one `suffix` of bytes or bits per second."""
    suffix = suffix.removesuffix("/s").removesuffix("ps")
    if not suffix.endswith("bit"):
        return _byte_bits(suffix)
    prefix = suffix.removesuffix("bit")
    if prefix.endswith("i"):
        return _BINARY.get(prefix[:-1])
    return _DECIMAL.get(prefix)


def _iops(suffix: str) -> int | None:
    return _DECIMAL.get(suffix.removesuffix("/s").removesuffix("iops"))


def _count(suffix: str) -> int | None:
    return None if suffix else 1


def _percent(suffix: str) -> int | None:
    return {"": 1, "%": 1, "cpu": 100, "cpus": 100}.get(suffix)


def _microseconds(suffix: str) -> int | None:
    return {"": 1, "us": 1, "ms": 10**3, "s": 10**6}.get(suffix)


_WHOLE = {IOPS: _iops, COUNT: _count, PERCENT: _percent, MICROSECONDS: _microseconds}


def _factor(kind: str, suffix: str) -> tuple[int, int] | None:
    """What one `suffix` is in the base unit of `kind`, as a fraction; None when it is no unit of it."""
    low = suffix.lower()
    if kind in (BYTES, BYTES_PER_S):
        bits = _byte_bits(low) if kind == BYTES else _rate_bits(low)
        return None if bits is None else (bits, 8)
    if kind == BITS_PER_S:
        bits = _rate_bits(low) if low.endswith(("/s", "bit", "bitps")) else None if low else 1
        return None if bits is None else (bits, 1)
    whole = _WHOLE[kind](low)
    return None if whole is None else (whole, 1)


def _ambiguous(kind: str, suffix: str) -> bool:
    """Whether people write `suffix` for bits and for bytes: `100M`, `100Mb` and `100Mb/s` of an interface."""
    low = suffix.lower()
    if kind == BITS_PER_S and (suffix.endswith("b/s") or (low and low.rstrip("ib") in _DECIMAL)):
        return True
    return kind in (BYTES_PER_S, BITS_PER_S) and low.endswith("bps")


def parse_seconds(text: str) -> float:
    """Read a duration (`10s`, `500ms`, `2min`, `1.5`) as float seconds.

    :raise UsageError: no number, an unknown unit, or a negative value.
    """
    numerator, denominator, suffix = _split(SECONDS, text)
    factor = _TIME_S.get(suffix.lower())
    if factor is None:
        raise UsageError(f"unknown unit {suffix!r} in {text!r}", hint=f"write {_EXAMPLES[SECONDS]}")
    return numerator / denominator * factor


def parse(kind: str, text: str) -> int:
    """Read `text` as a whole number of the base unit of `kind`.

    Bytes are rounded down to a whole one, so that `1.1GiB` is a size; requests and counts must be whole.
    `unlimited` and its like are not read here: whether a knob can be lifted is the knob's to say.

    :raise UsageError: no number, an unknown unit, a negative value, or half a request.
    """
    numerator, denominator, suffix = _split(kind, text)
    if _ambiguous(kind, suffix):
        raise UsageError(f"{suffix!r} in {text!r} may be bits or bytes", hint="write 100Mbit/s or 100MB/s")
    factor = _factor(kind, suffix)
    if factor is None:
        raise UsageError(f"unknown unit {suffix!r} in {text!r}", hint=f"write {_EXAMPLES[kind]}")
    value, rest = divmod(numerator * factor[0], denominator * factor[1])
    if rest and (kind in _WHOLE or not value):
        raise UsageError(f"{text!r} comes to no whole number", hint=f"write {_EXAMPLES[kind]}")
    return value


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


def format_bits_per_s(value: int) -> str:
    """Print a bit rate with the largest decimal prefix that keeps it short."""
    for prefix, factor in (("Tbit", 10**12), ("Gbit", 10**9), ("Mbit", 10**6), ("kbit", 10**3)):
        if value >= factor:
            return f"{value / factor:.4g} {prefix}/s" if value % factor else f"{value // factor} {prefix}/s"
    return f"{value} bit/s"


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
    if kind == BITS_PER_S:
        return format_bits_per_s(int(value))
    if kind == SECONDS:
        return format_seconds(value)
    if kind == MICROSECONDS:
        return format_seconds(value / 1e6)
    if kind == PERCENT:
        return f"{value:g}%"
    return f"{value:g}" if isinstance(value, float) else str(value)
