"""Completion of QMP lines from a schema."""

from __future__ import annotations

from typing import Any

import pytest

from ringfence.cli.monitor_qmp_complete import complete, synopsis
from ringfence.qemu.schema import Schema


def member(name: str, kind: str, *, optional: bool = False, deprecated: bool = False) -> dict[str, Any]:
    extra: dict[str, Any] = {"default": None} if optional else {}
    if deprecated:
        extra["features"] = ["deprecated"]
    return {"name": name, "type": kind, **extra}


SCHEMA = Schema(
    [
        {"name": "query-status", "meta-type": "command", "arg-type": "0", "ret-type": "0"},
        {"name": "query-block", "meta-type": "command", "arg-type": "0", "ret-type": "0"},
        {"name": "object-add", "meta-type": "command", "arg-type": "1", "ret-type": "0"},
        {"name": "STOP", "meta-type": "event", "arg-type": "0"},
        {"name": "0", "meta-type": "object", "members": []},
        {
            "name": "1",
            "meta-type": "object",
            "members": [
                member("share", "bool", optional=True),
                member("old", "str", optional=True, deprecated=True),
                member("qom-type", "2"),
                member("limits", "3", optional=True),
                member("kinds", "[2]", optional=True),
            ],
        },
        {"name": "2", "meta-type": "enum", "members": [{"name": "throttle-group"}, {"name": "iothread"}]},
        {"name": "3", "meta-type": "object", "members": [member("iops-total", "int"), member("x-force", "bool")]},
        {"name": "[2]", "meta-type": "array", "element-type": "2"},
        {"name": "bool", "meta-type": "builtin", "json-type": "boolean"},
        {"name": "str", "meta-type": "builtin", "json-type": "string"},
        {"name": "int", "meta-type": "builtin", "json-type": "int"},
    ]
)


@pytest.mark.parametrize(
    ("line", "texts"),
    [
        ("", ["object-add ", "query-block", "query-status"]),
        ("query-s", ["query-status"]),
        ("STO", []),
        ("query-status ", []),
        ("nosuch a", []),
        ("object-add ", ["qom-type=", "share=", "old=", "limits.", "kinds="]),
        ("object-add qom-type=iothread ", ["share=", "old=", "limits.", "kinds="]),
        ("object-add l", ["limits."]),
        ("object-add limits.", ["limits.iops-total=", "limits.x-force="]),
        ("object-add limits.iops-total=1 limits.", ["limits.x-force="]),
        ("object-add nosuch.", []),
        ("object-add qom-type=", ["throttle-group", "iothread"]),
        ("object-add qom-type=thr", ["throttle-group"]),
        ("object-add share=t", ["true"]),
        ("object-add limits.x-force=", ["true", "false"]),
        ("object-add limits.iops-total=", []),
        ("object-add kinds=", []),
        ("object-add old='a ", []),
        ('{"execute": "q', []),
    ],
)
def test_candidates(line: str, texts: list[str]) -> None:
    assert [candidate.text for candidate in complete(line, SCHEMA)] == texts


def test_a_value_replaces_only_the_value() -> None:
    (candidate,) = complete("object-add qom-type=thr", SCHEMA)
    assert candidate.length == len("thr")


def test_an_argument_replaces_all_of_its_key() -> None:
    (candidate,) = complete("object-add limits.io", SCHEMA)
    assert (candidate.text, candidate.length, candidate.label) == ("limits.iops-total=", 9, "iops-total")


@pytest.mark.parametrize(
    ("line", "help_text"),
    [
        ("object-add qom", "throttle-group|iothread"),
        ("object-add sh", "bool, optional"),
        ("object-add ol", "str, optional, deprecated"),
        ("object-a", "qom-type=enum [share=bool] [old=str] [limits=object] [kinds=[enum]]"),
    ],
)
def test_the_menu_explains(line: str, help_text: str) -> None:
    (candidate,) = complete(line, SCHEMA)
    assert candidate.help == help_text


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("", ""),
        ("query-status", ""),
        ("nosuch", ""),
        ("object-add qom-type=x share=true ", "[old=str] [limits=object] [kinds=[enum]]"),
    ],
)
def test_synopsis_says_what_may_still_be_given(line: str, text: str) -> None:
    assert synopsis(line, SCHEMA) == text
