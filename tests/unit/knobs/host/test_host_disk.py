"""Block I/O at the host's devices: which device a disk lies on, and its lines in the group's files."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from ringfence.core.host import BlockDevice
from ringfence.core.host_requests import Systemd, WriteFile
from ringfence.core.knob import Outcome, Verdict
from ringfence.errors import HostError, TenantError, UsageError
from ringfence.host import devices
from ringfence.knobs.host.disk import HostDisk
from ringfence.testing.fake_tree import FakeEdge, FakeTree
from ringfence.testing.obedient_vm import ObedientVm
from ringfence.testing.script import Refuse
from ringfence.testing.steps import PaperVm

KNOB = HostDisk()
SDA, SDB = "8:0", "8:16"


def lay_out(tree: FakeTree, scheduler: str = "mq-deadline") -> None:
    for name, number in {"sda": SDA, "sdb": SDB, "ram0": "1:0"}.items():
        tree.write(f"sys/block/{name}/dev", f"{number}\n")
        tree.write(f"sys/block/{name}/size", "1000\n")
        tree.write(f"sys/dev/block/{number}/queue/scheduler", f"none [{scheduler}]\n")


@pytest.fixture(params=[1, 2])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> FakeTree:
    tree = FakeTree(tmp_path, version=request.param)
    lay_out(tree)
    tree.process(200, "httpd", group="/web")
    return tree


def set_(host: FakeEdge, name: str = "sda", *, answers: Any = None, **wants: int | None) -> Outcome:
    leaves = {f"host.{leaf.replace('_', '.')}": value for leaf, value in wants.items()}
    paper = PaperVm(answers or {}, host=host)
    part = next(part for part in paper.play(KNOB.observe()) if part.name == name)
    KNOB.check(part, leaves, force=False)
    return paper.play(KNOB.apply(part, leaves, timeout_s=1, force=False))


def now(host: FakeEdge, name: str = "sda") -> dict[str, int | str | None]:
    part = next(part for part in PaperVm({}, host=host).play(KNOB.observe()) if part.name == name)
    found = [KNOB.observation(part, row) for row in KNOB.rows]
    return {o.key.partition(".host.")[2]: o.actual for o in found if not o.unavailable}


def test_a_containers_devices(tree: FakeTree) -> None:
    host = tree.edge(pid=200, group="/web")
    assert set_(host, iops=500, bps_write=1000).verdict is Verdict.APPLIED
    limits = {"iops": 500, "iops.read": 500, "iops.write": 500, "bps": None, "bps.read": None, "bps.write": 1000}
    assert {key: value for key, value in now(host).items() if key in limits} == limits
    assert set(dict(now(host, "sdb"), weight=None, latency=None).values()) == {None}, (
        "the other device has no limit"
    )
    assert set_(host, iops_read=None).verdict is Verdict.APPLIED
    assert (now(host)["iops.read"], now(host)["iops.write"], now(host)["bps.write"]) == (None, 500, 1000)
    set_(host, iops=None, bps=None)
    mount = "" if tree.version == 2 else "blkio/"
    name = "io.max" if tree.version == 2 else "blkio.throttle.write_iops_device"
    assert tree.read(f"sys/fs/cgroup/{mount}web/{name}") == ""


def test_all_rates_go_in_one_write_on_version_2(tmp_path: Path) -> None:
    tree = FakeTree(tmp_path)
    lay_out(tree)
    tree.process(200, "httpd", group="/web")
    host = tree.edge(pid=200, group="/web")
    set_(host, iops=500, bps_read=7)
    writes = [request.text for request in host.sent if isinstance(request, WriteFile)]
    assert writes == [f"{SDA} riops=500 wiops=500 rbps=7"]
    set_(host, weight=300, latency=75_000)
    assert tree.read("sys/fs/cgroup/web/io.weight") == f"default 100\n{SDA} 300"
    assert (now(host)["weight"], now(host)["latency"]) == (300, 75_000)


def test_version_1_weighs_by_bfq_only(tmp_path: Path) -> None:
    tree = FakeTree(tmp_path, version=1)
    lay_out(tree)
    tree.process(200, "httpd", group="/web")
    tree.write("sys/fs/cgroup/blkio/web/blkio.bfq.weight_device", "")
    host = tree.edge(pid=200, group="/web")
    with pytest.raises(TenantError, match="scheduler is not bfq"):
        set_(host, weight=300)
    lay_out(tree, "bfq")
    assert set_(host, weight=300).verdict is Verdict.APPLIED
    assert tree.read("sys/fs/cgroup/blkio/web/blkio.bfq.weight_device") == f"{SDA} 300"


def test_what_cannot_be(tree: FakeTree) -> None:
    host = tree.edge(pid=200, group="/web")
    with pytest.raises(UsageError, match="out of range"):
        set_(host, iops=1)
    with pytest.raises(UsageError, match="given in two ways"):
        set_(host, iops=5, iops_read=6)
    tree.refusals["io.max" if tree.version == 2 else "write_iops_device"] = errno.EINVAL
    with pytest.raises(HostError):
        set_(host, iops=5)
    assert now(host)["iops"] is None, "what was written before the refusal was taken back"


def test_systemd_is_told_by_the_devices_node(tmp_path: Path) -> None:
    tree = FakeTree(tmp_path, systemd=True)
    lay_out(tree)
    tree.process(200, "httpd", group="/system.slice/web.service")
    set_(tree.edge(pid=200, group="/system.slice/web.service"), iops_read=5)
    properties = {"IOReadIOPSMax": [("/dev/sda", 5)]}
    assert tree.systemd == [Systemd("SetUnitProperties", "web.service", properties)]


class Placed(FakeEdge):
    """A host on which every file of a VM lies on one disk, but those named `net*`."""

    def _device(self, request: Any) -> BlockDevice | None:
        return None if "net" in request.path else BlockDevice(SDA, "sda", "none")


def test_a_vms_disks_are_called_as_everywhere_and_share_a_device(tmp_path: Path) -> None:
    tree = FakeTree(tmp_path)
    lay_out(tree)
    scope = "/qemu.slice/100.scope"
    tree.process(100, "qemu-system-x86", group=scope)
    host = Placed(tree, pid=100, name="web1", group="")
    answers = {
        command: (lambda arguments, answer=answer: answer(arguments) if callable(answer) else answer)
        for command, answer in ObedientVm().answers.items()
        if not isinstance(answer, Refuse)
    }
    outcome = set_(host, "vdb", answers=answers, iops=500)
    assert outcome.verdict is Verdict.APPLIED
    assert outcome.notes == ("at the host's sda, together with vda",)
    assert tree.read(f"sys/fs/cgroup{scope}/io.max") == f"{SDA} rbps=max wbps=max riops=500 wiops=500"


def test_the_device_of_a_partition_is_the_whole_one(tmp_path: Path) -> None:
    disk = tmp_path / "sys/devices/pci/block/sda"
    for folder, number in {disk: SDA, disk / "sda2": "8:2"}.items():
        folder.mkdir(parents=True)
        (folder / "dev").write_text(f"{number}\n")
        link = tmp_path / f"sys/dev/block/{number}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(folder)
    (disk / "sda2/partition").write_text("2\n")
    assert devices._whole(str(tmp_path), "8:2") == BlockDevice(SDA, "sda")
    assert devices._whole(str(tmp_path), "9:9") is None
    assert devices.device_of(str(tmp_path), str(tmp_path / "nothing")) is None


@pytest.mark.skipif(not os.path.exists("/sys/dev/block"), reason="no sysfs here")
def test_a_file_here_lies_on_a_device_or_on_none(tmp_path: Path) -> None:
    found = devices.device_of("", str(tmp_path))
    assert found is None or os.path.exists(f"/sys/block/{found.name}")
    assert devices.device_of("", "/proc/self/status") is None
