"""Who gets in, by which class, and whether what is said to help does."""

from __future__ import annotations

import pytest

from ringfence import units
from ringfence.core.spec_yaml import SpecError
from ringfence.errors import UsageError
from ringfence.flash.drives import Drive, Namespace
from ringfence.flash.planning import Plan, Wanted, plan
from ringfence.flash.planning_drives import DrivePlan, plan_drives
from ringfence.flash.planning_file import TenantsFile, parse
from ringfence.flash.presets import preset
from ringfence.flash.scenario import Scenario, lay_out
from ringfence.flash.vssd import Bandwidth, Isolation

MLC = preset("mlc")  # 8 channels of 16 GiB, about 13 GiB of each to be had
GIB = units.GIB
CHANNEL, DIE, SOFTWARE, NONE = Isolation


def want(name: str, gib: int, isolation: Isolation | None = None, write: int = 0) -> Wanted:
    return Wanted(name, gib * GIB, isolation, Bandwidth(0, write))


def classes(found: Plan) -> dict[str, Isolation]:
    return {tenant.name: tenant.isolation for tenant in found.tenants}


def test_auto_gets_channels_while_there_are_enough_and_less_when_there_are_not() -> None:
    two = plan(MLC, [want("a", 20), want("b", 20)])
    assert classes(two) == {"a": CHANNEL, "b": CHANNEL}
    assert [t.channels for t in two.tenants] == [(0, 1), (2, 3)]
    assert two.free_channels == (4, 5, 6, 7)
    many = plan(MLC, [want(f"t{number}", 6) for number in range(12)])
    assert not many.refused
    assert {CHANNEL, DIE, SOFTWARE} >= set(classes(many).values())
    assert classes(many)["t0"] is CHANNEL  # the first ones first
    assert classes(many)["t11"] is not CHANNEL
    lay_out(Scenario(MLC, many.tenants, ()))


def test_one_that_names_its_class_is_not_crowded_out_by_one_that_does_not() -> None:
    found = plan(MLC, [want("a", 40), want("b", 60, CHANNEL)])
    assert not found.refused
    assert classes(found)["b"] is CHANNEL
    assert [tenant.name for tenant in found.tenants] == ["a", "b"]


def test_those_named_first_get_in_and_a_small_one_behind_a_refused_one_too() -> None:
    found = plan(MLC, [want("a", 60, CHANNEL), want("b", 60, CHANNEL), want("c", 10, CHANNEL)])
    assert classes(found) == {"a": CHANNEL, "c": CHANNEL}
    (refusal,) = found.refused
    assert refusal.tenant.name == "b"
    assert "60 GiB of class channel does not fit beside the others" in refusal.why
    assert "2 of 8 channels are free" in refusal.why


def test_what_is_said_to_help_helps() -> None:
    wanted = [want("a", 80, CHANNEL), want("b", 50, CHANNEL, write=20_000_000)]
    (refusal,) = plan(MLC, wanted).refused
    smaller, larger = refusal.helps
    name, _, size = smaller.partition(": ")
    assert name == "capacity"
    fitting = units.parse(units.BYTES, size)
    assert not plan(MLC, [wanted[0], wanted[1]._replace(capacity_bytes=fitting)]).refused
    assert plan(MLC, [wanted[0], wanted[1]._replace(capacity_bytes=fitting + GIB)]).refused
    count = int(larger.removeprefix("an SSD like mlc with ").removesuffix(" channels"))
    for channels, refused in ((count, 0), (count - 1, 1)):
        device = MLC._replace(geometry=MLC.geometry._replace(channels=channels))
        assert len(plan(device, wanted).refused) == refused


def test_a_weaker_class_or_a_neighbours_helps_where_channels_are_rounded_up() -> None:
    wanted = [want(f"t{number}", 2, CHANNEL) for number in range(8)] + [want("late", 2, DIE)]
    (refusal,) = plan(MLC, wanted).refused
    assert "class: auto for t0, t1" in refusal.helps
    assert not plan(MLC, [*(one._replace(isolation=None) for one in wanted[:2]), *wanted[2:]]).refused
    shared = [want("a", 14, CHANNEL), want("b", 65, DIE), want("c", 3, CHANNEL)]
    assert not plan(MLC, shared).refused
    small = MLC._replace(geometry=MLC.geometry._replace(channels=2))
    crowd = [want(f"t{number}", 3, DIE) for number in range(7)] + [want("late", 1, CHANNEL)]
    (refusal,) = plan(small, crowd).refused
    assert "class: die" in refusal.helps
    assert not plan(small, [*crowd[:-1], crowd[-1]._replace(isolation=DIE)]).refused


def test_a_bandwidth_that_nobody_has_is_told_with_the_one_that_is_left() -> None:
    (refusal,) = plan(MLC, [want("a", 10, CHANNEL, write=10**12)]).refused
    assert refusal.why == "10 GiB of class channel is more than all of mlc has"
    (help_,) = (text for text in refusal.helps if text.startswith("bandwidth: "))
    rate = units.parse(units.BYTES_PER_S, help_.removeprefix("bandwidth: write "))
    assert not plan(MLC, [want("a", 10, CHANNEL, write=rate)]).refused


def parsed(text: str) -> TenantsFile:
    return parse(text, "t.yaml")


def test_a_file_in_yaml_and_in_json() -> None:
    yaml = """
device: flashblox
tenants:
  db: {capacity: 200GiB, bandwidth: {read: 400MB/s, write: 100MB/s}, class: channel}
  web: {capacity: 50GiB, bandwidth: 10MB/s, class: auto}
  logs: {capacity: 1GiB}
"""
    json = """{"device": "flashblox", "tenants": {
      "db": {"capacity": "200GiB", "bandwidth": {"read": 400000000, "write": "100MB/s"}, "class": "channel"},
      "web": {"capacity": 53687091200, "bandwidth": "10MB/s", "class": "auto"}, "logs": {"capacity": "1GiB"}}}"""
    found = parsed(yaml)
    assert found == parsed(json)
    assert found.device == "flashblox"
    assert found.tenants == (
        Wanted("db", 200 * GIB, CHANNEL, Bandwidth(400_000_000, 100_000_000)),
        Wanted("web", 50 * GIB, None, Bandwidth(10_000_000, 10_000_000)),
        Wanted("logs", GIB),
    )


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("tenant: {a: {capacity: 1GiB}}", "no key 'tenant' in the file", "did you mean tenants?"),
        ("tenants: {a: {capacty: 1GiB, capacity: 1GiB}}", "no key 'capacty' in a", "did you mean capacity?"),
        ("tenants: {a: {capacity: 1GiB, clas: die}}", "no key 'clas' in a", "did you mean class?"),
        ("tenants: {a: {capacity: 1GiB, class: chanel}}", "no class 'chanel'", "did you mean channel?"),
        ("tenants: {a: {capacity: 1GiB, class: xyz}}", "no class 'xyz'", "there are auto, channel"),
        ("tenants: {a: {capacity: 1GiB, bandwidth: {reads: 1}}}", "no key 'reads'", "did you mean read?"),
        ("tenants: {a: {capacity: 1GX}}", "capacity: unknown unit", "512MiB"),
        ("tenants: {a: {capacity: 0}}", "a capacity of 0", "64GiB"),
        ("tenants: {a: {capacity: [1]}}", "capacity takes one value", "64GiB"),
        ("tenants: {a: {bandwidth: 1MB/s}}", "a has no capacity", "capacity: 64GiB"),
        ("tenants: {a: }", "a has no capacity", "capacity: 64GiB"),
        ("tenants: {a: 1GiB}", "a is no group of keys", "capacity, bandwidth, class"),
        ("tenants: [a]", "tenants is no group of keys", "names"),
        ("tenants: {'': {capacity: 1}}", "'' is no name", "letters"),
        ("", "it names no tenants", "tenants:"),
        ("device: mlc", "it names no tenants", "tenants:"),
        ("tenants: {a: {capacity: 1GiB}, a: {capacity: 1GiB}}", "given twice", ""),
        ("tenants: {]", "no YAML", ""),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_with_its_place(text: str, message: str, hint: str) -> None:
    with pytest.raises(SpecError) as caught:
        parsed(text)
    assert isinstance(caught.value, UsageError)
    assert message in caught.value.message
    assert "t.yaml:1:" in caught.value.message
    assert hint in caught.value.hint


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(SpecError, match="2 things are wrong"):
        parsed("tenants: {a: {capacity: 1GX}, b: {capacity: 1GiB, class: cell}}")


PLAIN = Drive("nvme0", known=True, capacity_bytes=100 * GIB)
SMALL = Drive("nvme1", known=True, capacity_bytes=50 * GIB)
SETS = Drive("nvme2", known=True, nvm_sets=2, max_namespaces=32, capacity_bytes=100 * GIB)
ZONED = Drive("nvme3", known=True, namespaces=(Namespace("nvme3n1", "host-managed"),), capacity_bytes=100 * GIB)


def places(found: DrivePlan) -> list[tuple[str, str, Isolation]]:
    return [(p.tenant.name, p.placement.drive, p.isolation) for p in found.tenants]


def test_drives_of_their_own_go_by_size_while_there_are_enough() -> None:
    found = plan_drives([PLAIN, SMALL], [want("a", 40), want("b", 90)])
    assert places(found) == [("a", "nvme1", CHANNEL), ("b", "nvme0", CHANNEL)]


def test_who_wants_a_channel_gets_a_drive_and_the_others_share_what_is_left() -> None:
    found = plan_drives([PLAIN, SMALL], [want("a", 40), want("b", 40, CHANNEL), want("c", 40, NONE)])
    assert places(found) == [("a", "nvme0", NONE), ("b", "nvme1", CHANNEL), ("c", "nvme0", NONE)]
    assert not found.refused


def test_sets_are_isolation_by_die_and_zones_by_software() -> None:
    found = plan_drives([PLAIN, SETS], [want("a", 40), want("b", 40, DIE), want("c", 40, DIE)])
    assert places(found) == [("a", "nvme0", NONE), ("b", "nvme2", DIE), ("c", "nvme2", DIE)]
    found = plan_drives([ZONED], [want("a", 40, SOFTWARE), want("b", 40, SOFTWARE), want("c", 5, DIE)])
    assert places(found) == [("a", "nvme3", SOFTWARE), ("b", "nvme3", SOFTWARE)]
    (refusal,) = found.refused
    assert refusal.helps == ("class: software", "one more drive, of 5 GiB or more")


def test_what_a_drive_cannot_do_or_hold_is_refused() -> None:
    found = plan_drives([PLAIN], [want("a", 40), want("b", 40, CHANNEL), want("c", 80)])
    assert places(found) == [("a", "nvme0", CHANNEL)]
    by_class, by_room = found.refused
    assert by_class.why.startswith("isolation by channel takes a drive of its own")
    assert by_class.helps == ("class: none", "one more drive, of 40 GiB or more")
    assert "there is no room" in by_room.why
    assert by_room.helps[0] == "capacity: 60 GiB"


def test_a_drive_that_did_not_tell_may_have_more() -> None:
    silent = Drive("nvme9", capacity_bytes=100 * GIB)
    (refusal,) = plan_drives([silent], [want("a", 10, DIE), want("b", 10, DIE)]).refused
    assert refusal.tenant.name == "b"
    assert "nvme-cli and root, to ask nvme9 what else it can do" in refusal.helps
