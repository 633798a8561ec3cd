"""Keys and values as people write them."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from ringfence.core.knob import Part, Value
from ringfence.errors import UsageError
from ringfence.knobs import registry

PARTS = (
    Part("vda", ("web-disk", "#x", "/machine/peripheral/a"), None),
    Part("/machine/unattached/device[3]", (), None),
)


def error_of(key: str, value: str | float | None = "1") -> UsageError:
    with pytest.raises(UsageError) as caught:
        registry.parse_value(registry.parse_key(key), value)
    assert caught.value.hint
    return caught.value


def test_a_disks_name_may_hold_dots() -> None:
    key = registry.parse_key("disk.my.iops.disk.iops.burst")
    assert (key.instance, key.leaf) == ("my.iops.disk", "iops.burst")


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("disk.vdb.iopss", "disk.vdb.iops"),
        ("disk.vdb.iops.brust", "disk.vdb.iops.burst"),
        ("memory.targt", "memory.target"),
        ("vcpu", "vcpus"),
        ("iops", "memory, vcpus, disk"),
        ("disk.vda", "memory, vcpus, disk"),
        ("", "memory, vcpus, disk"),
    ],
)
def test_an_unknown_key_hints_at_the_nearest(text: str, near: str) -> None:
    error = error_of(text)
    assert near in error.hint
    assert error.hint.endswith("`ringfence show VM --all` lists every key")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("memory.target", "", "cannot read '' as bytes"),
        ("memory.target", "1e30", "cannot read '1e30' as bytes"),
        ("memory.target", "1parsec", "unknown unit 'parsec'"),
        ("memory.target", "-1", "negative"),
        ("memory.target", "\udce9", "cannot read"),
        ("memory.target", "unlimited", "cannot be unlimited"),
        ("memory.target", 1.5, "no whole number"),
        ("memory.target", -1, "no whole number"),
        ("vcpus", "1.5", "'1.5' comes to no whole number"),
        ("vcpus", None, "cannot be unlimited"),
        ("disk.vda.iops", "5MiB/s", "unknown unit"),
        ("disk.vda.iops.burst_length", "1500ms", "whole number of seconds"),
        ("disk.vda.group", "  ", "needs a name"),
    ],
)
def test_a_value_that_is_none(key: str, value: str | float | None, words: str) -> None:
    error = error_of(key, value)
    assert words in error.message
    assert key in error.message


@pytest.mark.parametrize(
    ("key", "value", "number"),
    [
        ("memory.target", "1.5GiB", 3 << 29),
        ("memory.target", 4096, 4096),
        ("disk.vda.iops", "0", None),
        ("disk.vda.iops", "none", None),
        ("disk.vda.iops", 0, None),
        ("disk.vda.iops.burst_length", "0", 0),
        ("disk.vda.iops.burst_length", "unlimited", None),
        ("disk.vda.group", "g", "g"),
    ],
)
def test_values(key: str, value: str | int, number: Value | None) -> None:
    assert registry.parse_value(registry.parse_key(key), value) == number


def test_a_disk_by_any_of_its_names() -> None:
    for name in ("vda", "web-disk", "/machine/peripheral/a"):
        assert registry.pick(PARTS, registry.parse_key(f"disk.{name}.iops")) is PARTS[0]


def test_an_unknown_disk_lists_the_names_that_people_type() -> None:
    with pytest.raises(UsageError) as caught:
        registry.pick(PARTS, registry.parse_key("disk.vdb.iops"))
    assert caught.value.hint == "this VM has: vda = web-disk = #x; /machine/unattached/device[3]"
    with pytest.raises(UsageError) as caught:
        registry.pick((), registry.parse_key("disk.vdb.iops"))
    assert caught.value.hint == "this VM has no disk"


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[0m", "\udcff", "a\u202eb"])
@pytest.mark.parametrize("leaf", ["group", "pool"])
def test_a_name_that_cannot_be_printed_is_refused(leaf: str, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be printed"):
        registry.parse_value(registry.parse_key(f"disk.vda.{leaf}"), name)


@pytest.mark.parametrize(
    ("key", "loaded"),
    [
        ("disk.vda.iops", {"disk.throttle"}),
        ("disk.vda.pool", {"disk.membership"}),
        ("disk.my.pool.disk.iops", {"disk.throttle", "disk.membership"}),
        ("vcpus", {"vcpus"}),
        ("disk.vda", set()),
    ],
)
def test_a_key_loads_the_knobs_it_may_belong_to_only(key: str, loaded: set[str]) -> None:
    assert {listed.module for listed in registry.LISTED if listed.may_have(key)} == loaded


def test_the_keys_of_a_disks_limits_import_nothing_else() -> None:
    program = (
        "import sys; from ringfence.knobs import registry; registry.parse_key('disk.vda.iops');"
        "print([m for m in sys.modules if m.startswith('ringfence.knobs.')])"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    imported = {name.removeprefix("ringfence.knobs.") for name in ast.literal_eval(ran.stdout)}
    assert imported == {"registry", "disk", "disk.limits", "disk.names", "disk.throttle"}
