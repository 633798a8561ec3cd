"""What a schema recorded from a real QEMU 7.2 tells, and what it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringfence.errors import UsageError
from ringfence.qemu.schema import Argument, Schema
from ringfence.testing.recording import read_recording

RECORDED = next(Path(__file__).parents[2].glob("golden/qmp-schema-7.2.22-*.jsonl"))


@pytest.fixture(scope="module")
def schema():
    return Schema(entry["receive"] for entry in read_recording(RECORDED)[1:])


def test_commands_and_events_are_apart(schema):
    assert schema.has_command("balloon")
    assert not schema.has_event("balloon")
    assert schema.has_event("BALLOON_CHANGE")
    assert not schema.has_command("BALLOON_CHANGE")
    assert not schema.has_command("query-cpus")
    assert not schema.has_command("str")


def test_commands_are_listed_in_order(schema):
    assert schema.commands() == [
        "balloon",
        "block_set_io_throttle",
        "human-monitor-command",
        "migrate-set-parameters",
        "qom-set",
        "query-stats",
        "query-status",
        "screendump",
        "set_password",
    ]


def test_arguments_keep_qemus_order_and_marks(schema):
    arguments = schema.arguments("block_set_io_throttle")
    assert list(arguments)[:5] == ["device", "id", "bps", "bps_rd", "bps_wr"]
    assert arguments["device"] == Argument("device", "str", optional=True, deprecated=True)
    assert arguments["bps"] == Argument("bps", "int", optional=False, deprecated=False)
    assert arguments["group"].optional


def test_command_without_arguments(schema):
    assert schema.arguments("query-status") == {}


def test_enum_has_its_values(schema):
    file_format = schema.arguments("screendump")["format"]
    assert (file_format.type, file_format.values) == ("enum", ("ppm", "png"))


def test_any_and_alternate(schema):
    assert schema.arguments("qom-set")["value"].type == "any"
    assert schema.arguments("migrate-set-parameters")["tls-creds"].type == "str|null"


def test_list_of_objects_has_their_members_one_level_deep(schema):
    providers = schema.arguments("query-stats")["providers"]
    assert providers.type == "[object]"
    assert [(member.name, member.type, member.values) for member in providers.members] == [
        ("provider", "enum", ("kvm",)),
        ("names", "[str]", ()),
    ]
    mapping = schema.arguments("migrate-set-parameters")["block-bitmap-mapping"]
    bitmaps = next(member for member in mapping.members if member.name == "bitmaps")
    assert (bitmaps.type, bitmaps.members) == ("[object]", ())


def test_arguments_that_depend_on_another_are_left_out(schema):
    assert list(schema.arguments("set_password")) == ["protocol", "password", "connected"]


def test_unknown_command(schema):
    with pytest.raises(UsageError, match="no command nope"):
        schema.arguments("nope")
    with pytest.raises(UsageError):
        schema.arguments("SHUTDOWN")


def test_older_enum_and_alternates():
    def member(name, of):
        return {"name": name, "type": of}

    older = Schema(
        [
            {"name": "c", "meta-type": "command", "arg-type": "1", "ret-type": "0"},
            {
                "name": "1",
                "meta-type": "object",
                "members": [member("e", "2"), member("l", "[2]"), member("a", "3"), member("o", "1")],
            },
            {"name": "2", "meta-type": "enum", "values": ["x", "y"]},
            {"name": "[2]", "meta-type": "array", "element-type": "2"},
            {"name": "3", "meta-type": "alternate", "members": [{"type": "str"}, {"type": "2"}, {"type": "4"}]},
            {"name": "4", "meta-type": "object", "members": [member("m", "str")]},
            {"name": "str", "meta-type": "builtin", "json-type": "string"},
        ]
    ).arguments("c")
    assert older["e"].values == older["l"].values == older["a"].values == ("x", "y")
    assert (older["l"].type, older["a"].type, older["o"].type) == ("[enum]", "str|enum|object", "object")
    assert older["a"].members == (Argument("m", "str", optional=False, deprecated=False),)
    assert [inner.members for inner in older["o"].members] == [(), (), (), ()]
