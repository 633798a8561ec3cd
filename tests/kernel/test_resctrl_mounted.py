"""cache.* on resctrl's double, mounted as a file system: whole writes, the kernel's errno, real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringfence.core.knob import Verdict
from ringfence.core.model import Container
from ringfence.engine.api import OpenVm
from ringfence.engine.driver import Edges
from ringfence.errors import HostError
from ringfence.host import made
from ringfence.host.edge import HostEdge

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
    pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="there is no /dev/fuse here"),
]


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A machine's root whose resctrl is the double's, and whose processes are those of this machine."""
    pytest.importorskip("mfusepy", exc_type=ImportError)
    mountpoint = tmp_path / "sys/fs/resctrl"
    mountpoint.mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup").symlink_to("/sys/fs/cgroup")
    (tmp_path / "proc").symlink_to("/proc")
    (tmp_path / "run").mkdir()
    server = subprocess.Popen([sys.executable, "-m", "ringfence.testing.resctrl_fuse", mountpoint, "icelake"])
    try:
        deadline = time.monotonic() + 20
        while not (mountpoint / "schemata").exists():
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield tmp_path
    finally:
        subprocess.run(["umount", mountpoint], check=False)
        server.terminate()
        server.wait()


@pytest.fixture
def pids() -> Iterator[list[int]]:
    running = [subprocess.Popen(["sleep", "600"]) for _ in range(2)]
    yield [process.pid for process in running]
    for process in running:
        process.kill()
        process.wait()


def tenant(root: Path, pid: int, name: str) -> OpenVm:
    host = HostEdge(str(root), pid=pid, name=name)
    return OpenVm(Container(name, "", "cgroup", pid, f"/{name}"), Edges(pid=pid, host=host))


async def test_shares_of_real_processes(root: Path, pids: list[int]) -> None:
    resctrl = root / "sys/fs/resctrl"
    async with tenant(root, pids[0], "web") as web, tenant(root, pids[1], "db") as db:
        wants = {"cache.l3": "4ways", "cache.mode": "exclusive", "memory.bandwidth": "33%"}
        assert {result.verdict for result in await web.set(wants)} == {Verdict.APPLIED}
        (group,) = (path for path in resctrl.iterdir() if path.name.startswith("ringfence-"))
        assert (group / "schemata").read_text() == "    MB:0= 40;1= 40\n    L3:0=00f;1=00f\n"
        assert (group / "tasks").read_text() == f"{pids[0]}\n"
        assert (resctrl / "schemata").read_text() == "    MB:0=100;1=100\n    L3:0=7f0;1=7f0\n"
        assert {result.verdict for result in await db.set({"cache.l3": "50%"})} == {Verdict.APPLIED}
        lifted: dict[str, str | None] = {"cache.l3": None, "memory.bandwidth": None}
        assert {result.verdict for result in await web.set(lifted)} == {Verdict.APPLIED}
        await db.set({"cache.l3": None})
    assert not [path for path in resctrl.iterdir() if path.name.startswith("ringfence-")]
    assert (resctrl / "schemata").read_text() == "    MB:0=100;1=100\n    L3:0=7ff;1=7ff\n"
    assert list((root / "run").iterdir()) == []


async def test_a_processor_without_a_group_left(root: Path, pids: list[int]) -> None:
    for number in range(7):
        (root / "sys/fs/resctrl" / f"other{number}").mkdir()
    async with tenant(root, pids[0], "web") as web:
        (result,) = await web.set({"cache.l3": "50%"})
    assert result.verdict is Verdict.FAILED
    assert "has 8 groups, and all are in use" in result.detail


async def test_clean_removes_what_is_left_over(root: Path, pids: list[int]) -> None:
    async with tenant(root, pids[0], "web") as web:
        await web.set({"cache.l3": "4ways", "cache.mode": "exclusive"})
    (thing,) = (thing for thing in made.find(str(root)) if thing.kind == "resctrl")
    assert thing.holds == f"thread {pids[0]}"
    assert await made.remove([thing], str(root)) == [(thing, None)]
    assert (root / "sys/fs/resctrl/schemata").read_text() == "    MB:0=100;1=100\n    L3:0=7ff;1=7ff\n"
    assert list((root / "run").iterdir()) == []


async def test_the_lock_that_others_hold_is_waited_for(root: Path, pids: list[int]) -> None:
    import fcntl

    held = os.open(root / "sys/fs/resctrl", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    edge = HostEdge(str(root), pid=pids[0], name="web")
    from ringfence.core.host_requests import Lock, Unlock

    assert edge.answer_now(Lock("/sys/fs/resctrl")) is False
    os.close(held)
    assert edge.answer_now(Lock("/sys/fs/resctrl")) is True
    edge.answer_now(Unlock("/sys/fs/resctrl"))
    with pytest.raises(HostError):
        edge.answer_now(Lock("/sys/fs/nothing"))
