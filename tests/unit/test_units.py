"""Human units: one parser, one rule for prefixes."""

from __future__ import annotations

import pytest

from ringfence import units
from ringfence.errors import UsageError


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("bytes", "512MiB", 512 * 2**20),
        ("bytes", "512M", 512 * 2**20),
        ("bytes", "512mb", 512 * 10**6),
        ("bytes", "1.5GiB", 3 * 2**29),
        ("bytes", "1.1GiB", 1181116006),
        ("bytes", "9007199254740993K", 9007199254740993 * 1024),
        ("bytes", "4 KiB", 4096),
        ("bytes", "9007199254740993", 9007199254740993),
        ("bytes", "1_000", 1000),
        ("bytes/s", "5MiB/s", 5 * 2**20),
        ("bytes/s", "40Mbit/s", 5 * 10**6),
        ("bytes/s", "8Kibit", 1024),
        ("bytes/s", "1000", 1000),
        ("iops", "2k", 2000),
        ("iops", "500/s", 500),
        ("iops", "100iops", 100),
        ("count", "4", 4),
    ],
)
def test_parse(kind: str, text: str, value: int) -> None:
    assert units.parse(kind, text) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("bytes", ""),
        ("bytes", "MiB"),
        ("bytes", "-1"),
        ("bytes", "."),
        ("bytes", "5/s"),
        ("bytes", "5Mbit"),
        ("bytes", "0.3"),
        ("bytes", "5 5"),
        ("bytes", "1e9"),
        ("bytes", "nan"),
        ("bytes", "1" * 400 + ".5"),
        ("bytes/s", "5parsec"),
        ("bytes/s", "5xibit"),
        ("iops", "1.5"),
        ("iops", "5MiB"),
        ("count", "4k"),
        ("count", "٤x"),
    ],
)
def test_what_is_no_value_is_refused_with_an_example(kind: str, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        units.parse(kind, text)
    assert caught.value.hint.startswith("write ")


@pytest.mark.parametrize(
    ("text", "seconds"), [("10s", 10), ("500ms", 0.5), ("2min", 120), ("1h", 3600), ("1.5", 1.5)]
)
def test_seconds(text: str, seconds: float) -> None:
    assert units.parse_seconds(text) == seconds


@pytest.mark.parametrize("value", [0, 1, 1023, 1024, 5 * 2**20, 3 * 2**30, 2**40, 7 * 2**20 + 2**19])
def test_what_is_printed_can_be_read_again(value: int) -> None:
    assert units.parse(units.BYTES, units.format_bytes(value)) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 s"), (12e-6, "12 us"), (0.0015, "1.5 ms"), (1.1, "1.1 s"), (300, "5 min"), (7200, "2 h")],
)
def test_durations_are_printed_with_a_unit_people_read(value: float, text: str) -> None:
    assert units.format_seconds(value) == text


@pytest.mark.parametrize("text", ["100Mbps", "100MBps", "1bps", "2MiBps"])
def test_a_rate_that_may_be_bits_or_bytes_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="bits or bytes") as caught:
        units.parse(units.BYTES_PER_S, text)
    assert "Mbit/s" in caught.value.hint
