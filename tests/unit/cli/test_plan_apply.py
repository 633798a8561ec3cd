"""`ringfence plan` and `apply`: what they print, what they send, and with which code they end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ringfence.testing.fake_qemu import FakeQemu
from ringfence.testing.obedient_vm import ObedientVm, changing
from ringfence.testing.script import Refuse

SPEC = """
fences:
  web1:
    vcpus: 3
    disks: {vda: {iops: 500, iops_burst: 2000 for 10s}}
    memory: {target: 512MiB}
"""


class Fenced:
    """The obedient VM, a file of fences, and the program to run on both."""

    def __init__(self, folder: Path, run: Callable[..., Any], behind: Callable[..., Any]) -> None:
        self.obedient = ObedientVm()
        self.file = folder / "fences.yaml"
        self.file.write_text(SPEC)
        self.received: list[dict[str, Any]] = []
        self._socket = folder / "qmp"
        self._run = run
        self._behind = behind

    def __call__(self, *words: str, file: bool = True) -> Any:
        """Run it; `received` is then what QEMU was sent to change the VM."""
        with FakeQemu(self._socket, self.obedient.answers) as qemu:
            self._behind(qemu)
            verb, *more = words
            ran = self._run(verb, *([str(self.file)] if file else []), *more)
        self.received = changing(qemu.received)
        return ran


@pytest.fixture
def fenced(tmp_path: Path, run: Callable[..., Any], vm_behind: Callable[..., Any]) -> Fenced:
    return Fenced(tmp_path, run, vm_behind)


def test_a_plan_says_from_where_to_where_by_what_and_changes_nothing(fenced: Fenced) -> None:
    ran = fenced("plan")
    assert (ran.code, fenced.received) == (0, [])
    assert "  memory.target  1 GiB -> 512 MiB  by virtio-balloon  first" in ran.out
    assert f"  disk.vda.iops  unlimited -> 500  by block_set_io_throttle  first  [{fenced.file}:5:25]" in ran.out
    assert f"  vcpus  2 -> 3  by device_add/device_del  [{fenced.file}:4:12]" in ran.out
    assert ran.out.splitlines()[-1] == "5 keys of 1 tenant to change"


def test_a_plan_as_data_has_the_requests_that_apply_sends(fenced: Fenced) -> None:
    (tenant,) = json.loads(fenced("plan", "--json").out)["tenants"]
    wanted = sorted(json.dumps(request) for step in tenant["steps"] for request in step["requests"])
    assert tenant["steps"][0]["keys"][0] == {
        "key": "vcpus",
        "from": 2,
        "to": 3,
        "unit": "count",
        "mechanism": "device_add/device_del",
        "wanted_by": "web1",
        "at": f"{fenced.file}:4:12",
    }
    ran = fenced("apply")
    assert ran.code == 0, ran
    assert sorted(map(json.dumps, fenced.received)) == wanted


def test_what_was_applied_is_in_step(fenced: Fenced) -> None:
    assert fenced("plan", "--detailed-exitcode").code == 7
    assert "web1  disk.vda.iops  unlimited -> 500  applied" in fenced("apply").out
    plan = fenced("plan", "--detailed-exitcode")
    assert (plan.code, plan.out) == (0, "in step: 1 tenant, nothing to change\n")
    again = fenced("apply")
    assert (again.code, fenced.received, again.out) == (0, [], "")


def test_what_frees_comes_first(fenced: Fenced) -> None:
    fenced("apply")
    kinds = [command["execute"] for command in fenced.received]
    assert kinds.index("block_set_io_throttle") < kinds.index("device_add")
    assert kinds.index("balloon") < kinds.index("device_add")


def test_a_tenant_that_fails_is_put_back(fenced: Fenced) -> None:
    fenced.obedient.answers["device_add"] = Refuse("GenericError", "no")
    ran = fenced("apply")
    assert ran.code == 4
    assert "web1  vcpus  2 -> 2  refused by QEMU" in ran.out
    assert "put back: it is as it was before" in ran.out
    assert not any(fenced.obedient.limits["a"].values())
    assert fenced.obedient.actual_bytes == 1 << 30


def test_what_cannot_be_is_told_and_nothing_is_changed(fenced: Fenced) -> None:
    fenced.file.write_text("fences: {web1: {vcpus: 9, disks: {vdz: {iops: 1}, vda: {iops: 5}}}}")
    for verb in ("plan", "apply"):
        ran = fenced(verb)
        assert (ran.code, fenced.received) == (2, [])
        assert "vcpus=9 is above this VM's maximum, 4" in ran.out
        assert "there is no disk 'vdz'" in ran.out


@pytest.mark.parametrize("first", [50, 100])
def test_members_of_a_throttle_group_cannot_be_fenced_apart(fenced: Fenced, first: int) -> None:
    fenced.obedient.share_group("g1", iops=50)
    fenced.file.write_text(f"fences: {{web1: {{disks: {{vda: {{iops: {first}}}, vdb: {{iops: 200}}}}}}}}")
    for verb in ("plan", "apply"):
        ran = fenced(verb)
        assert (ran.code, fenced.received) == (2, [])
        assert f"disk.vdb.iops=200 contradicts disk.vda.iops={first}" in ran.out
        assert "'g1'" in ran.out


def test_a_fence_for_nobody_is_told(fenced: Fenced) -> None:
    fenced.file.write_text("fences: {web2: {vcpus: 9}}")
    ran = fenced("plan")
    assert ran.code == 0
    assert ran.err == f"{fenced.file}:1:10: 'web2' does not run now\n"


def test_a_wrong_file_is_told_by_line_and_column(fenced: Fenced) -> None:
    fenced.file.write_text("fences:\n  web1: {memory: {targt: 1GiB}}\n")
    ran = fenced("apply")
    assert ran.code == 2
    assert ran.err.splitlines()[0] == f"error: {fenced.file}:2:19: there is no knob 'targt'"
    assert "did you mean target" in ran.err
    missing = fenced("plan", "/nowhere.yaml", file=False)
    assert missing.code == 2
    assert "there is no file of fences" in missing.err


def test_a_directory_is_read_in_the_order_of_names_and_includes_come_first(fenced: Fenced, tmp_path: Path) -> None:
    folder = tmp_path / "fences.d"
    folder.mkdir()
    (folder / "20-b.yaml").write_text("include: ../base\nfences: {web1: {vcpus: 3}}")
    (folder / "10-a.yaml").write_text("fences: {web1: {vcpus: 4, memory: {target: 600MiB}}}")
    (folder / "30-c.txt").write_text("not read")
    (tmp_path / "base").write_text("fences: {web1: {vcpus: 1, disks: {vda: {iops: 9}}}}")
    ran = fenced("plan", str(folder), "--json", file=False)
    wants = {k["key"]: k["to"] for t in json.loads(ran.out)["tenants"] for s in t["steps"] for k in s["keys"]}
    assert wants == {"vcpus": 3, "memory.target": 600 << 20, "disk.vda.iops": 9}
    (tmp_path / "base").write_text("include: fences.d/20-b.yaml")
    looped = fenced("plan", str(folder), file=False)
    assert looped.code == 2
    assert "files include each other" in looped.err


def test_bounds_are_kept(fenced: Fenced) -> None:
    fenced.file.write_text("fences: {web1: {memory: {target: 512MiB, min: 600MiB}}}")
    ran = fenced("plan")
    assert ran.code == 2
    assert "memory.target is below memory.min" in ran.out


def test_what_the_vm_cannot_is_not_taken_for_in_step(fenced: Fenced) -> None:
    fenced.obedient.answers["query-hotpluggable-cpus"] = Refuse("GenericError", "not with this machine")
    fenced.file.write_text("fences: {web1: {vcpus: 3}}")
    ran = fenced("plan")
    assert ran.code == 3
    assert "vcpus is not available" in ran.out
    fenced.file.write_text("fences: {web1: {vcpus: 2}}")
    assert "in step" in fenced("plan").out
