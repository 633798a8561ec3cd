"""Lines typed at the monitor."""

from __future__ import annotations

from typing import Any

import pytest

from ringfence.cli.monitor_parse import (
    QmpLine,
    is_blank,
    is_quit,
    is_secret,
    join_words,
    parse_qmp,
    parse_value,
    split_words,
)
from ringfence.errors import UsageError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4", 4),
        ("-1", -1),
        ("1.5", 1.5),
        ("true", True),
        ("True", True),
        ("null", None),
        ("None", None),
        ('"4"', "4"),
        ("'a b'", "a b"),
        ("[1,2]", [1, 2]),
        ("['a', true, None]", ["a", True, None]),
        ('{"a": {"b": null}}', {"a": {"b": None}}),
        ("{'a': false}", {"a": False}),
        ("web1", "web1"),
        ("/machine/peripheral-anon/device[1]", "/machine/peripheral-anon/device[1]"),
        ("[::1]", "[::1]"),
        ("NaN", "NaN"),
        ("007", "007"),
        ("", ""),
        ("18446744073709551615", 18446744073709551615),
    ],
)
def test_values(text: str, value: Any) -> None:
    read = parse_value(text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("text", ["{a}", '{"a":', '"open', "{'a': __import__('os')}", "'a' + 1"])
def test_values_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UsageError):
        parse_value(text)


def test_pairs_nest_at_dots() -> None:
    assert parse_qmp(
        "object-add qom-type=throttle-group id=tg1 limits.iops-total=120 limits.bps-total=0"
    ) == QmpLine(
        "object-add", {"qom-type": "throttle-group", "id": "tg1", "limits": {"iops-total": 120, "bps-total": 0}}
    )


def test_spaces_within_quotes_and_brackets() -> None:
    line = """guest-exec path="/bin/a b" arg=["-c", 'echo "x ] y"'] env={'a': [1, 2]} last=1"""
    assert parse_qmp(line).arguments == {
        "path": "/bin/a b",
        "arg": ["-c", 'echo "x ] y"'],
        "env": {"a": [1, 2]},
        "last": 1,
    }


def test_quotes_and_brackets_inside_plain_text_mean_nothing() -> None:
    assert split_words("a x=don't  y=dev[1]{ z=[::1]:80") == ["a", "x=don't", "y=dev[1]{", "z=[::1]:80"]


def test_command_alone() -> None:
    assert parse_qmp("  query-status ") == QmpLine("query-status", {})


@pytest.mark.parametrize(
    "line",
    [
        '{"execute": "balloon", "arguments": {"value": 1}, "id": 7}',
        "{'execute': 'balloon',\n 'arguments': {'value': 1}}",
    ],
)
def test_object(line: str) -> None:
    assert parse_qmp(line) == QmpLine("balloon", {"value": 1})


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "no command"),
        ("a=1", "no command name"),
        ("stop now", "'now' is not key=value"),
        ("stop =1", "'=1' is not key=value"),
        ("stop a=1 a=2", "'a' is given twice"),
        ("stop a=1 a.b=2", "'a' is given a value and members"),
        ("stop a.b=1 a=2", "'a' is given twice"),
        ('stop a="x', '" is not closed'),
        ("stop a=[1,", "[ is not closed"),
        ("stop a=[1}", "brackets do not match"),
        ('stop a="x"y', "unexpected text"),
        ('{"execute": 1}', '"execute"'),
        ('{"exec-oob": "migrate-pause"}', '"execute"'),
        ('{"execute": "a", "control": 1}', "unknown key 'control'"),
        ('{"execute": "a", "arguments": []}', '"arguments" must be an object'),
        ('{"execute": ', "cannot read"),
    ],
)
def test_lines_that_cannot_be_read(line: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_qmp(line)
    assert said in caught.value.message


def test_arguments_of_a_shell() -> None:
    lines = join_words(
        ["query-status", "device_add", "driver=a", 'x={"k": "v w"}', "stop", '{"execute": "cont"}', "q a=1"]
    )
    assert [parse_qmp(line) for line in lines] == [
        QmpLine("query-status", {}),
        QmpLine("device_add", {"driver": "a", "x": {"k": "v w"}}),
        QmpLine("stop", {}),
        QmpLine("cont", {}),
        QmpLine("q", {"a": 1}),
    ]


def test_text_from_a_shell_needs_no_second_quotes() -> None:
    assert [parse_qmp(line) for line in join_words(["a", "x=two words"])] == [QmpLine("a", {"x": "two words"})]


def test_arguments_of_a_shell_begin_with_a_command() -> None:
    with pytest.raises(UsageError):
        join_words(["a=1"])


@pytest.mark.parametrize(
    ("line", "qmp", "ends"),
    [
        ("quit", False, True),
        (" q ", False, True),
        ("quit 1", False, True),
        ("query", False, False),
        ("", False, False),
        ("quit", True, True),
        ('{"execute": "quit"}', True, True),
        ("q", True, False),
        ("{quit", True, False),
        ("system_powerdown", True, False),
    ],
)
def test_lines_that_end_the_vm(line: str, qmp: bool, ends: bool) -> None:
    assert is_quit(line, qmp=qmp) is ends


@pytest.mark.parametrize("line", [" info block", "set_password vnc x", 'object-add id=a secret-x="1"', "x PASSWD"])
def test_lines_kept_out_of_the_history(line: str) -> None:
    assert is_secret(line)


def test_plain_lines_go_into_the_history() -> None:
    assert not is_secret("info block")


@pytest.mark.parametrize(("line", "blank"), [("", True), ("  \n", True), (" # x", True), ("stop # x", False)])
def test_blank(line: str, blank: bool) -> None:
    assert is_blank(line) is blank
