"""Every knob's row is complete, every error has its exit code and its place in the tree."""

from __future__ import annotations

import inspect
import re

import pytest

from ringfence import errors, units
from ringfence.core.knob import Row, Verdict
from ringfence.engine import changes
from ringfence.knobs import registry

UNITS = {
    units.BYTES,
    units.BYTES_PER_S,
    units.BITS_PER_S,
    units.IOPS,
    units.COUNT,
    units.SECONDS,
    units.MICROSECONDS,
    units.PERCENT,
    units.INTEGER,
    units.NAME,
    units.SWITCH,
}


@pytest.mark.parametrize("row", registry.rows(), ids=lambda row: row.key)
def test_row(row: Row) -> None:
    assert row.unit in UNITS
    assert row.help
    assert row.mechanism
    assert registry.parse_key(re.sub("<.*>", "some.name-0", row.key)).row is row


@pytest.mark.parametrize("listed", registry.LISTED, ids=lambda listed: listed.name)
def test_a_knob_is_found_by_the_stems_of_its_keys(listed: registry.Listed) -> None:
    rows = registry.load(listed).rows
    assert [row.key for row in rows if not listed.may_have(re.sub("<.*>", "a.b", row.key))] == []
    for stem in listed.stems.split():
        assert any(row.key.startswith(stem) for row in rows)


def test_keys_are_unique() -> None:
    keys = [row.key for row in registry.rows()]
    assert len(set(keys)) == len(keys)


EXIT_CODES = {
    "RingfenceError": 1,
    "UsageError": 2,
    "TenantError": 3,
    "MonitorError": 4,
    "MonitorBusyError": 4,
    "MonitorGoneError": 4,
    "MonitorTimeoutError": 4,
    "MonitorProtocolError": 4,
    "MonitorRefusedError": 4,
    "HostError": 5,
    "GuestError": 6,
    "AgentAbsentError": 6,
    "AgentRefusedError": 6,
    "InterruptError": 130,
}


def test_every_error_has_its_exit_code() -> None:
    classes = {
        name: cls.exit_code
        for name, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, errors.RingfenceError)
    }
    assert classes == EXIT_CODES


def test_the_tree_is_drawn_in_the_docstring() -> None:
    assert errors.__doc__ is not None
    for name in EXIT_CODES:
        assert name in errors.__doc__


def test_every_verdict_has_an_exit_code() -> None:
    assert set(changes._EXIT_CODES) == set(Verdict)
