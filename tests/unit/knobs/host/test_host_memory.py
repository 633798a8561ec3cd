"""Memory and processes of a tenant: on both versions of cgroups, in the order that the kernel wants."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from ringfence import units
from ringfence.core.host_requests import Systemd, WriteFile
from ringfence.core.knob import Knob, Outcome, Verdict
from ringfence.errors import HostError, TenantError, UsageError
from ringfence.knobs.host.memory import MemoryLimits
from ringfence.knobs.host.oom import OomScore
from ringfence.knobs.host.pids import PidsLimit
from ringfence.testing.fake_tree import FakeEdge, FakeTree
from ringfence.testing.steps import PaperVm

MIB, GIB = units.MIB, units.GIB
MEMORY = MemoryLimits()


def values(knob: Knob, host: FakeEdge) -> dict[str, int | str | None]:
    (part,) = PaperVm({}, host=host).play(knob.observe())
    return {row.key: knob.observation(part, row).actual for row in knob.rows}


def set_(knob: Knob, host: FakeEdge, *, force: bool = False, answers: Any = None, **wants: int | None) -> Outcome:
    paper = PaperVm(answers or {}, host=host)
    (part,) = paper.play(knob.observe())
    knob.check(part, wants, force=force)
    return paper.play(knob.apply(part, wants, timeout_s=1, force=force))


@pytest.fixture
def v1(tmp_path: Path) -> FakeTree:
    tree = FakeTree(tmp_path / "one", version=1)
    tree.process(200, "httpd", group="/web")
    return tree


@pytest.fixture
def v2(tmp_path: Path) -> FakeTree:
    tree = FakeTree(tmp_path / "two", version=2)
    tree.process(200, "httpd", group="/web")
    return tree


def test_version_2_has_them_all(v2: FakeTree) -> None:
    host = v2.edge(pid=200, group="/web")
    wanted = {"limit": GIB, "high": 900 * MIB, "low": 100 * MIB, "guarantee": 50 * MIB, "swap": 0}
    assert set_(MEMORY, host, **wanted).verdict is Verdict.APPLIED
    assert v2.read("sys/fs/cgroup/web/memory.max") == str(GIB)
    assert values(MEMORY, host) == {f"memory.{leaf}": number for leaf, number in wanted.items()}
    assert set_(MEMORY, host, limit=None, guarantee=None).verdict is Verdict.APPLIED
    assert [v2.read(f"sys/fs/cgroup/web/memory.{name}") for name in ("max", "min", "high")] == [
        "max",
        "0",
        str(900 * MIB),
    ]


def test_version_1_lacks_some_and_says_so(v1: FakeTree) -> None:
    host = v1.edge(pid=200, group="/web")
    with pytest.raises(TenantError, match=r"memory.high is not available: cgroup version 1"):
        set_(MEMORY, host, high=GIB)
    with pytest.raises(TenantError, match=r"memory.swap is not available: this kernel has no such file"):
        set_(MEMORY, host, swap=GIB, limit=GIB)
    assert set_(MEMORY, host, low=GIB).verdict is Verdict.APPLIED
    assert set_(MEMORY, host, low=None).verdict is Verdict.APPLIED
    assert v1.read("sys/fs/cgroup/memory/web/memory.soft_limit_in_bytes") == "-1"


def writes(host: FakeEdge) -> list[tuple[str, str]]:
    found = [(r.path.rpartition("/")[2], r.text) for r in host.sent if isinstance(r, WriteFile)]
    host.sent.clear()
    return found


def test_memory_and_swap_together_go_in_the_order_that_the_kernel_takes(v1: FakeTree) -> None:
    no_limit = "9223372036854771712"
    v1.write("sys/fs/cgroup/memory/web/memory.memsw.limit_in_bytes", no_limit)
    host = v1.edge(pid=200, group="/web")
    both, alone = "memory.memsw.limit_in_bytes", "memory.limit_in_bytes"
    set_(MEMORY, host, limit=GIB, swap=GIB)
    assert writes(host) == [(alone, str(GIB)), (both, str(2 * GIB))], "down: the memory first"
    set_(MEMORY, host, limit=3 * GIB)
    assert writes(host) == [(both, str(4 * GIB)), (alone, str(3 * GIB))], "up: the sum first; the swap stays"
    assert values(MEMORY, host)["memory.swap"] == GIB
    set_(MEMORY, host, limit=None)
    assert writes(host) == [(both, "-1"), (alone, "-1")]
    with pytest.raises(UsageError, match="needs memory"):
        set_(MEMORY, host, swap=GIB)


def test_what_cannot_be_written_after_the_first_is_taken_back(v1: FakeTree) -> None:
    v1.write("sys/fs/cgroup/memory/web/memory.memsw.limit_in_bytes", "9223372036854771712")
    v1.refusals["memory.memsw.limit_in_bytes"] = errno.EINVAL
    with pytest.raises(HostError) as caught:
        set_(MEMORY, v1.edge(pid=200, group="/web"), limit=GIB, swap=0)
    assert caught.value.state == "everything was put back as it was"
    assert v1.read("sys/fs/cgroup/memory/web/memory.limit_in_bytes") == "-1"


def test_a_limit_below_what_is_in_use_is_refused_unless_forced(v2: FakeTree) -> None:
    v2.write("sys/fs/cgroup/web/memory.current", str(500 * MIB))
    host = v2.edge(pid=200, group="/web")
    with pytest.raises(UsageError, match="below what is in use, 500 MiB"):
        set_(MEMORY, host, limit=400 * MIB)
    assert set_(MEMORY, host, limit=400 * MIB, force=True).verdict is Verdict.APPLIED


def test_a_limit_below_what_a_guest_can_touch_is_refused_unless_forced(v2: FakeTree) -> None:
    scope = "/machine.slice/machine-qemu\\x2d1\\x2dweb1.scope"
    v2.process(100, "qemu-system-x86", group=scope)
    answers = {
        "query-memory-size-summary": {"base-memory": GIB, "plugged-memory": GIB},
        "query-memory-devices": [{"type": "virtio-mem", "data": {"requested-size": 2 * GIB, "size": GIB}}],
    }
    host = v2.edge(pid=100)
    with pytest.raises(UsageError, match="below what the guest can touch") as caught:
        set_(MEMORY, host, limit=3 * GIB, answers=answers)
    assert "at least 3.25 GiB" in caught.value.hint
    assert set_(MEMORY, host, limit=4 * GIB, answers=answers).notes == ()


def test_a_group_made_for_a_running_vm_does_not_hold_what_it_had(v2: FakeTree) -> None:
    v2.process(100, "qemu-system-x86")
    v2.process(7, "sh")
    assert "charged elsewhere" in set_(MEMORY, v2.edge(pid=100), limit=GIB).notes[0]


def test_whole_pages_are_as_good(v2: FakeTree) -> None:
    class Rounding(FakeEdge):
        def _written(self, request: WriteFile) -> None:
            super()._written(request._replace(text=str(int(request.text) // 4096 * 4096)))

    host = Rounding(v2, pid=200, name="web", group="/web")
    assert set_(MEMORY, host, limit=10**9).verdict is Verdict.APPLIED


def test_another_writer_is_noticed(v2: FakeTree) -> None:
    class Stubborn(FakeEdge):
        def _written(self, request: WriteFile) -> None:
            """As with a unit that systemd rewrites."""

    outcome = set_(MEMORY, Stubborn(v2, pid=200, name="web", group="/web"), limit=GIB)
    assert (outcome.verdict, outcome.by) == (Verdict.PARTIAL, "kernel")
    assert outcome.detail == f"the kernel holds None for memory.limit, not {GIB}"


def test_systemd_is_told_in_one_call(tmp_path: Path) -> None:
    tree = FakeTree(tmp_path, systemd=True)
    tree.process(200, "httpd", group="/system.slice/web.service")
    host = tree.edge(pid=200, group="/system.slice/web.service")
    set_(MEMORY, host, limit=GIB, swap=None, guarantee=None)
    set_(PidsLimit(), host, limit=100)
    assert tree.systemd == [
        Systemd("SetUnitProperties", "web.service", {"MemoryMax": GIB}),
        Systemd("SetUnitProperties", "web.service", {"TasksMax": 100}),
    ]


def test_pids(v2: FakeTree) -> None:
    host = v2.edge(pid=200, group="/web")
    assert set_(PidsLimit(), host, limit=100).verdict is Verdict.APPLIED
    assert values(PidsLimit(), host) == {"pids.limit": 100}
    v2.write("sys/fs/cgroup/web/pids.current", "30")
    with pytest.raises(UsageError, match="below the 30 that there are"):
        set_(PidsLimit(), host, limit=20)
    assert set_(PidsLimit(), host, limit=None).verdict is Verdict.APPLIED
    with pytest.raises(UsageError):
        set_(PidsLimit(), host, limit=0)


def test_oom_score_of_every_process(v2: FakeTree) -> None:
    v2.process(201, "httpd", group="/web", parent=200)
    for pid, score in {200: 0, 201: 100}.items():
        v2.write(f"proc/{pid}/oom_score_adj", f"{score}\n")
    host = v2.edge(pid=200, group="/web")
    assert set_(OomScore(), host, oom_score=-500).verdict is Verdict.APPLIED
    assert [v2.read(f"proc/{pid}/oom_score_adj") for pid in (200, 201)] == ["-500", "-500"]
    with pytest.raises(UsageError):
        set_(OomScore(), host, oom_score=1001)
