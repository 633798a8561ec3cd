"""cache.*, memory.bandwidth: what all groups hold afterwards, on a double that refuses as the kernel does."""

from __future__ import annotations

from typing import Any

import pytest

from ringfence.core.knob import Outcome, Verdict
from ringfence.errors import HostError, TenantError, UsageError
from ringfence.knobs.resctrl.knob import CacheShares
from ringfence.testing.fake_resctrl import FakeResctrl
from ringfence.testing.rdt_processors import EPYC, ICELAKE, ICELAKE_CDP, ICELAKE_MBPS, Kind
from ringfence.testing.resctrl_host import ResctrlHost
from ringfence.testing.steps import PaperVm

KNOB = CacheShares()


class Machine:
    """A machine with resctrl, and its tenants, by their labels."""

    def __init__(self, kinds: tuple[Kind, ...] = ICELAKE, **more: Any) -> None:
        self.resctrl = FakeResctrl(kinds, **more)
        self.folders: set[str] = set()
        self.hosts: dict[str, ResctrlHost] = {}

    def host(self, label: str) -> ResctrlHost:
        if label not in self.hosts:
            first = 100 * (len(self.hosts) + 1)
            self.hosts[label] = ResctrlHost(self.resctrl, label, (first, first + 1, first + 2), self.folders)
        return self.hosts[label]

    def set(self, label: str, *, force: bool = False, **wants: Any) -> Outcome:
        """`cache_l3` stands for `cache.l3`; then the change, as the engine makes it."""
        host = PaperVm({}, host=self.host(label))  # type: ignore[arg-type]
        asked = {key.replace("_", ".").removeprefix("cache."): value for key, value in wants.items()}
        (part,) = host.play(KNOB.observe())
        KNOB.check(part, asked, force=force)
        outcome = host.play(KNOB.apply(part, asked, timeout_s=5, force=force))
        assert not self.host(label).locked
        return outcome

    def values(self, label: str) -> dict[str, object]:
        (part,) = PaperVm({}, host=self.host(label)).play(KNOB.observe())  # type: ignore[arg-type]
        seen = [KNOB.observation(part, row) for row in KNOB.rows if not row.read_only]
        return {o.key: o.actual for o in seen if o.actual is not None}

    def masks(self, group: str = "", resource: str = "L3") -> list[str]:
        lines = self.resctrl.read(f"{group}/schemata").splitlines()
        line = next(line for line in lines if line.strip().startswith(f"{resource}:"))
        return [field.partition("=")[2].strip() for field in line.partition(":")[2].split(";")]

    def groups(self) -> list[str]:
        return [name for name in self.resctrl.names("") if name.startswith("ringfence-")]


def test_a_share_puts_the_tenant_into_a_group_of_its_own() -> None:
    machine = Machine()
    outcome = machine.set("web", cache_l3="25%", memory_bandwidth="30%")
    assert outcome.verdict is Verdict.APPLIED
    assert "cache.l3=25% is 3 of 11 ways of each L3 cache, 4.36 MiB" in outcome.notes
    assert machine.values("web") == {"cache.l3": "0x1c0", "memory.bandwidth": "30%"}
    assert set(machine.resctrl.tasks.values()) == {"ringfence-web"}
    assert machine.masks() == ["7ff", "7ff"], "nobody else's ways move"


@pytest.mark.parametrize(
    ("text", "mask"),
    [("0x00f", "00f"), ("2ways", "180"), ("3MiB", "1c0"), ("100%", "7ff"), ("1%", "100"), ("1 way", "100")],
)
def test_the_words_for_a_share(text: str, mask: str) -> None:
    machine = Machine()
    machine.set("web", cache_l3=text)
    assert machine.masks("ringfence-web" if mask != "7ff" else "") == [mask, mask]


def test_each_domain_may_have_its_own() -> None:
    machine = Machine()
    machine.set("web", cache_l3="0=0x00f;1=2ways")
    assert machine.values("web") == {"cache.l3": "0=0x00f;1=0x180"}
    machine.set("web", cache_l3="1=3ways")
    assert machine.masks("ringfence-web") == ["00f", "1c0"]


def test_a_second_tenant_is_put_where_the_first_is_not() -> None:
    machine = Machine()
    machine.set("web", cache_l3="4ways")
    machine.set("db", cache_l3="4ways")
    first, second = (int(machine.masks(f"ringfence-{name}")[0], 16) for name in ("web", "db"))
    assert not first & second


def test_a_share_that_grows_keeps_the_ways_it_has() -> None:
    machine = Machine()
    machine.set("web", cache_l3="0x030")
    machine.set("web", cache_l3="3ways")
    assert int(machine.masks("ringfence-web")[0], 16) & 0x030 == 0x030
    machine.set("web", cache_l3="3ways")
    assert machine.set("web", cache_l3="3ways").notes[0] == "already so"


def test_lifting_all_of_it_takes_the_group_away() -> None:
    machine = Machine()
    machine.set("web", cache_l3="25%", memory_bandwidth="50%")
    machine.set("web", cache_l3=None)
    assert machine.values("web") == {"memory.bandwidth": "50%"}
    machine.set("web", memory_bandwidth=None)
    assert (machine.groups(), machine.resctrl.tasks) == ([], {})


def test_exclusive_ways_are_taken_from_the_default_group_and_given_back() -> None:
    machine = Machine()
    machine.set("net", memory_bandwidth="50%")
    assert machine.set("web", cache_l3="4ways", cache_mode="exclusive").verdict is Verdict.APPLIED
    assert machine.masks("ringfence-web") == ["00f", "00f"]
    assert machine.masks() == machine.masks("ringfence-net") == ["7f0", "7f0"], "who has no share follows"
    assert machine.values("net") == {"memory.bandwidth": "50%"}
    machine.set("db", cache_l3="2ways", cache_mode="exclusive")
    assert (machine.masks("ringfence-db"), machine.masks()) == (["030", "030"], ["7c0", "7c0"])
    machine.set("web", cache_l3="2ways")
    machine.set("web", cache_mode=None)
    assert machine.values("web")["cache.l3"] == "0x003"
    machine.set("db", cache_l3=None)
    assert machine.masks() == machine.masks("ringfence-net") == ["7ff", "7ff"]
    assert not machine.folders, "what was remembered is forgotten"


def test_a_default_group_that_somebody_narrowed_stays_narrow() -> None:
    machine = Machine()
    machine.resctrl.write("schemata", "L3:0=3ff;1=3ff\n")
    machine.set("web", cache_l3="2ways", cache_mode="exclusive")
    assert machine.masks() == ["3fc", "3fc"]
    machine.set("web", cache_l3=None)
    assert machine.masks() == ["3ff", "3ff"]


def test_what_is_somebodys_alone_is_nobody_elses() -> None:
    machine = Machine()
    machine.set("web", cache_l3="4ways", cache_mode="exclusive")
    with pytest.raises(TenantError, match="ringfence-web has some of them for itself"):
        machine.set("db", cache_l3="0x018")
    with pytest.raises(TenantError, match="no 8 ways side by side are left"):
        machine.set("db", cache_l3="8ways")
    machine.set("db", cache_l3="6ways")
    assert machine.masks("ringfence-db") == ["3f0", "3f0"]


def test_ways_of_a_share_are_not_taken_for_another_alone() -> None:
    machine = Machine()
    machine.set("web", cache_l3="0x1ff")
    with pytest.raises(TenantError, match="for itself alone") as refused:
        machine.set("db", cache_l3="2ways", cache_mode="exclusive")
    assert "ringfence-web 0x1ff" in refused.value.hint
    assert "devices 0x600" in refused.value.hint


def test_other_peoples_groups_are_never_changed() -> None:
    machine = Machine()
    machine.resctrl.mkdir("qemu-1-web-vcpus_0-1")
    machine.resctrl.write("qemu-1-web-vcpus_0-1/tasks", "101\n")
    with pytest.raises(TenantError, match="qemu-1-web-vcpus_0-1, which ringfence did not make"):
        machine.set("web", cache_l3="25%")
    with pytest.raises(TenantError, match="for itself alone"):
        machine.set("db", cache_l3="2ways", cache_mode="exclusive")
    assert machine.masks("qemu-1-web-vcpus_0-1") == ["7ff", "7ff"]


def test_bandwidth_is_rounded_up_and_says_so() -> None:
    machine = Machine()
    outcome = machine.set("web", memory_bandwidth="33%")
    assert outcome.verdict is Verdict.APPLIED
    assert outcome.notes == ("memory.bandwidth=33% is held as 40%: the processor has such steps",)
    assert machine.masks("ringfence-web", "MB") == ["40", "40"]


def test_bandwidth_by_rate() -> None:
    machine = Machine(ICELAKE_MBPS)
    machine.set("web", memory_bandwidth="2000MiB/s")
    assert machine.values("web") == {"memory.bandwidth": "2000MiB/s"}
    with pytest.raises(TenantError, match="limited by rate"):
        machine.set("web", memory_bandwidth="50%")


def test_amd_counts_eighths_and_takes_masks_with_gaps() -> None:
    machine = Machine(EPYC, domains=4)
    machine.set("web", memory_bandwidth_slow="10GB/s", cache_l3="0x105")
    assert machine.masks("ringfence-web", "SMBA") == ["80"] * 4
    assert machine.values("web") == {"cache.l3": "0x105", "memory.bandwidth.slow": "10000MB/s"}
    with pytest.raises(TenantError, match="nothing of it is cached"):
        machine.set("web", cache_l3="0x0")
    assert machine.set("web", force=True, cache_l3="0x0").verdict is Verdict.APPLIED


def test_code_and_data_together_and_apart() -> None:
    machine = Machine(ICELAKE_CDP)
    machine.set("web", cache_l3="4ways")
    assert machine.masks("ringfence-web", "L3CODE") == machine.masks("ringfence-web", "L3DATA") == ["1e0"] * 2
    machine.set("web", cache_l3_code="2ways")
    assert machine.values("web")["cache.l3.code"] != machine.values("web")["cache.l3.data"]


def test_when_the_groups_are_used_up_equals_share_one() -> None:
    machine = Machine()
    for number in range(7):
        machine.set(f"vm{number}", memory_bandwidth=f"{10 * (number + 2)}%", cache_l3="3ways")
    with pytest.raises(HostError, match="has 8 groups, and all are in use") as full:
        machine.set("late", memory_bandwidth="10%")
    assert full.value.state == ""
    outcome = machine.set("late", memory_bandwidth="40%", cache_l3="3ways")
    assert outcome.verdict is Verdict.APPLIED
    assert "it shares ringfence-vm2" in outcome.notes[0]
    assert machine.resctrl.names("ringfence-vm2/mon_groups") == ["ringfence-late"]
    assert machine.values("late")["memory.bandwidth"] == "40%"
    with pytest.raises(HostError):  # neither may change what the other has
        machine.set("vm2", memory_bandwidth="90%")
    assert machine.values("late")["memory.bandwidth"] == "40%"
    machine.set("vm0", memory_bandwidth=None, cache_l3=None)
    machine.set("late", memory_bandwidth="90%")
    assert machine.values("late")["memory.bandwidth"] == "90%"
    assert machine.resctrl.names("ringfence-vm2/mon_groups") == []


def test_a_group_that_an_earlier_life_left_is_used_again() -> None:
    machine = Machine()
    machine.set("web", cache_l3="4ways", cache_mode="exclusive")
    for tid in list(machine.resctrl.tasks):
        machine.resctrl.tasks.pop(tid)
    machine.hosts["web"].tids = [501, 502]
    assert machine.values("web") == {}
    machine.set("web", cache_l3="2ways")
    assert machine.groups() == ["ringfence-web"]
    assert machine.values("web")["cache.l3"] != "0x00f"


def test_threads_that_come_later_join() -> None:
    machine = Machine()
    machine.set("web", cache_l3="25%")
    machine.hosts["web"].tids.append(199)
    (part,) = PaperVm({}, host=machine.hosts["web"]).play(KNOB.observe())  # type: ignore[arg-type]
    note = KNOB.observation(part, KNOB.rows[0]).notes[-1]
    assert note.startswith("1 of its threads are not in its group")
    machine.set("web", cache_l3="25%")
    assert machine.resctrl.tasks[199] == "ringfence-web"


def test_threads_that_end_meanwhile_are_passed_over() -> None:
    machine = Machine(exists=lambda tid: tid != 101)
    assert machine.set("web", cache_l3="25%").verdict is Verdict.APPLIED
    assert sorted(machine.resctrl.tasks) == [100, 102]


def test_monitoring_without_limits() -> None:
    machine = Machine()
    machine.set("web", cache_monitor="on")
    machine.resctrl.counters["mon_groups/ringfence-web/mon_data/mon_L3_00/llc_occupancy"] = "4096\n"
    machine.resctrl.counters["mon_groups/ringfence-web/mon_data/mon_L3_01/mbm_total_bytes"] = "Unavailable\n"
    (part,) = PaperVm({}, host=machine.hosts["web"]).play(KNOB.observe())  # type: ignore[arg-type]
    seen = {row.key: KNOB.observation(part, row).actual for row in KNOB.rows}
    assert seen["cache.l3.occupancy"] == 4096
    assert seen["memory.bandwidth.moved"] is None
    assert seen["memory.bandwidth.moved_local"] == 0
    machine.set("web", cache_l3="25%")
    assert machine.resctrl.names("ringfence-web/mon_groups") == ["ringfence-web"]
    machine.set("web", cache_monitor=None)
    assert machine.resctrl.names("ringfence-web/mon_groups") == []


@pytest.mark.parametrize(
    ("wants", "complaint"),
    [
        ({"cache_l3": "4"}, "ways, percent or bytes"),
        ({"cache_l3": "0x005"}, "do not stand side by side"),
        ({"cache_l3": "0xfff"}, "not there"),
        ({"cache_l3": "0x0"}, "0 ways"),
        ({"cache_l3": "110%"}, "cannot be"),
        ({"cache_l3": "1GiB"}, "cannot be"),
        ({"cache_l3": "some"}, "cannot read"),
        ({"cache_l3": "7=50%"}, "no domain 7"),
        ({"cache_l3": "0=50%;0=20%"}, "given twice"),
        ({"memory_bandwidth": "5%"}, "out of range"),
        ({"cache_mode": "private"}, "neither shared nor exclusive"),
        ({"cache_mode": "exclusive"}, "cache.l3 is not set"),
    ],
)
def test_what_cannot_be_meant(wants: dict[str, str], complaint: str) -> None:
    machine = Machine()
    with pytest.raises(UsageError, match=complaint):
        machine.set("web", **wants)
    assert machine.groups() == []


@pytest.mark.parametrize(
    ("wants", "complaint"),
    [
        ({"cache_l2": "50%"}, "cannot limit it"),
        ({"cache_l3_code": "50%"}, "the option cdp"),
        ({"memory_bandwidth": "2GB/s"}, "by percent"),
        ({"memory_bandwidth_slow": "2GB/s"}, "cannot limit it"),
    ],
)
def test_what_this_processor_cannot(wants: dict[str, str], complaint: str) -> None:
    with pytest.raises(TenantError, match=complaint):
        Machine().set("web", **wants)


def test_a_refusal_half_way_is_explained_and_taken_back() -> None:
    machine = Machine()

    before = machine.resctrl.read("schemata")

    def overlap(path: str, text: str) -> None:
        if path.endswith("/ringfence-web/mode"):
            machine.resctrl.write("schemata", before)

    machine.host("web").on_write = overlap
    with pytest.raises(HostError, match="Schemata overlaps") as refused:
        machine.set("web", cache_l3="4ways", cache_mode="exclusive")
    assert refused.value.state == "everything was put back as it was"
    assert "set it again" in refused.value.hint
    assert (machine.groups(), machine.resctrl.read("schemata")) == ([], before)


def test_without_resctrl() -> None:
    host = ResctrlHost(FakeResctrl(), "web", (1,), set())
    host.resctrl.names = lambda path: []  # type: ignore[method-assign]
    (part,) = PaperVm({}, host=host).play(KNOB.observe())  # type: ignore[arg-type]
    seen = KNOB.observation(part, KNOB.rows[0])
    assert "not mounted" in seen.unavailable
    assert seen.advice[0].option.startswith("mount -t resctrl")


def test_the_dry_run_prints_the_writes() -> None:
    machine = Machine()
    host = PaperVm({}, host=machine.host("web"))  # type: ignore[arg-type]
    (part,) = host.play(KNOB.observe())
    wires = [request.wire() for request in KNOB.changes(part, {"l3": "4ways", "mode": "exclusive"})]
    root = "/sys/fs/resctrl"
    assert {"mkdir": f"{root}/ringfence-web"} in wires
    assert {"write": f"{root}/schemata", "text": "L3:0=7f0;1=7f0\n"} in wires
    assert {"write": f"{root}/ringfence-web/mode", "text": "exclusive\n"} in wires
    assert {"write": f"{root}/ringfence-web/tasks", "text": "100\n"} in wires
