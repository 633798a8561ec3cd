"""Reading answers of those who are not trusted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ringfence.core.answers import ILL_FORMED, entries, fields, ill_formed, number, text
from ringfence.core.requests import Agent, Qmp, Wait
from ringfence.errors import GuestError, MonitorProtocolError


@pytest.mark.parametrize(
    ("read", "good", "bad"),
    [
        (number, [0, -1, 2**70], [True, 1.5, "1", None, [], {}]),
        (text, ["", "x"], [0, None, [], b"x"]),
        (fields, [{}, {"a": 1}], [[], None, "{}"]),
        (entries, [[], [{}]], [{}, None, "x", [1], [[]], [{}, None]]),
    ],
)
def test_only_what_is_of_the_type_is_read(read: Callable[[Any], Any], good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert read(value) == value
    for value in bad:
        with pytest.raises(ILL_FORMED, match="stands where"):
            read(value)


def test_a_long_value_is_cut_short_in_the_message() -> None:
    with pytest.raises(TypeError) as caught:
        number("x" * 10_000)
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize(
    ("asked", "kind", "words"),
    [
        (Qmp("query-block"), MonitorProtocolError, "QEMU's answer to query-block is not of the form expected"),
        ([Qmp("a"), Qmp("b"), Qmp("a")], MonitorProtocolError, "answer to one of a, b "),
        (Wait(("STOP", "RESUME"), 1), MonitorProtocolError, "QEMU's event STOP or RESUME"),
        (Agent("guest-info"), GuestError, "the guest agent's answer to guest-info"),
    ],
)
def test_whose_answer_it_was(asked: Any, kind: type[Exception], words: str) -> None:
    error = ill_formed(asked, KeyError("actual"))
    assert type(error) is kind
    assert words in error.message
    assert error.message.endswith("it has no 'actual'")
    assert error.hint


def test_an_error_without_words_is_told_by_its_name() -> None:
    assert ill_formed(Qmp("x"), RecursionError()).message.endswith(": RecursionError")
