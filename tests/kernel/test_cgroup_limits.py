"""Limits of any group, measured: CPU time, memory, processes, block I/O."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kernel_bench import (
    BUSY,
    FIRST,
    Change,
    Groups,
    Start,
    applied,
    controller,
    cpu_percent,
    cpu_s,
    needed,
    python,
)

from ringfence.errors import HostError, RingfenceError, UsageError
from ringfence.host.hierarchies import Hierarchy

MIB = 1 << 20
NOBODY = 65534


@pytest.mark.parametrize("percent", [20, 50])
def test_cpu_cap(groups: Groups, start: Start, change: Change, hierarchies: object, percent: int) -> None:
    controller(hierarchies, "cpu")  # type: ignore[arg-type]
    group = groups.make()
    busy = start(*BUSY, group=group)
    applied(change(f"cgroup:{group}", {"cpu.cap": f"{percent}%", **FIRST}))
    assert cpu_percent(busy.pid) == pytest.approx(percent, rel=0.05)
    applied(change(f"cgroup:{group}", {"cpu.cap": None}))
    assert cpu_percent(busy.pid, over_s=1.0) > 1.2 * percent, "lifted, it gets more"


def test_cpu_weight(groups: Groups, start: Start, change: Change, hierarchies: object) -> None:
    """Two groups on one CPU share it as their weights are, whoever else takes some of it."""
    controller(hierarchies, "cpu")  # type: ignore[arg-type]
    names = [groups.make(f"-{name}") for name in ("heavy", "light")]
    cpu = min(os.sched_getaffinity(0))
    busy = [start(*BUSY, group=name) for name in names]
    for process in busy:
        os.sched_setaffinity(process.pid, {cpu})
    for name, weight in zip(names, (300, 100), strict=True):
        applied(change(f"cgroup:{name}", {"cpu.weight": str(weight)}))
    before = [cpu_s(process.pid) for process in busy]
    time.sleep(4)
    heavy, light = (cpu_s(process.pid) - used for process, used in zip(busy, before, strict=True))
    assert heavy / light == pytest.approx(3, rel=0.1)


HUNGRY = python(
    "import sys, time\nheld = []\n"
    "for _ in range(200):\n    held.append(bytearray(1 << 20)); sys.stdout.write('.'); sys.stdout.flush()\n"
    "time.sleep(60)"
)


def test_memory_limit(groups: Groups, start: Start, change: Change, hierarchies: object) -> None:
    """A process that takes 200 MiB under a limit of 60 is killed before it has them."""
    controller(hierarchies, "memory")  # type: ignore[arg-type]
    group = groups.make()
    applied(change(f"cgroup:{group}", {"memory.limit": "60MiB"}))
    if (Path(f"/sys/fs/cgroup{group}/memory.swap.max")).exists():
        applied(change(f"cgroup:{group}", {"memory.swap": "0"}))
    hungry = start(*HUNGRY, group=group, stdout=subprocess.PIPE)
    taken, _ = hungry.communicate(timeout=30)
    assert hungry.returncode == -9
    assert 30 <= len(taken) <= 60


def test_a_memory_limit_below_what_is_in_use_is_refused(
    groups: Groups, start: Start, change: Change, hierarchies: object
) -> None:
    controller(hierarchies, "memory")  # type: ignore[arg-type]
    group = groups.make()
    hungry = start(*HUNGRY, group=group, stdout=subprocess.PIPE)
    assert len(hungry.stdout.read(200)) == 200  # type: ignore[union-attr]
    with pytest.raises(UsageError, match="below what is in use"):
        change(f"cgroup:{group}", {"memory.limit": "50MiB"})
    assert hungry.poll() is None, "it lives"


def test_pids_limit(groups: Groups, start: Start, change: Change, hierarchies: object) -> None:
    controller(hierarchies, "pids")  # type: ignore[arg-type]
    group = groups.make()
    applied(change(f"cgroup:{group}", {"pids.limit": "5"}))
    forks = python(
        "import os, time\nn = 1\ntry:\n    while n < 20:\n        if not os.fork():\n"
        "            time.sleep(9); os._exit(0)\n        n += 1\nexcept OSError:\n    pass\nprint(n)"
    )
    many = start(*forks, group=group, stdout=subprocess.PIPE)
    assert int(many.stdout.readline()) == 5  # type: ignore[union-attr]


@pytest.fixture
def loop_device(tmp_path: Path) -> Iterator[str]:
    losetup = needed("losetup")
    image = tmp_path / "disk.img"
    image.touch()
    os.truncate(image, 256 * MIB)
    made = subprocess.run(
        (losetup, "-f", "--show", "--direct-io=on", image), capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no loop device can be had: {made.stderr.strip()}")
    device = made.stdout.strip()
    yield device
    subprocess.run((losetup, "-d", device), check=True)


def fio(start: Start, group: str, device: str, way: str, size: str) -> dict[str, float]:
    """What fio got in 4 s: `iops`, and `bw_bytes`."""
    line = (
        *(needed("fio"), "--name=t", f"--filename={device}", "--direct=1", "--ioengine=libaio", f"--rw={way}"),
        *(f"--bs={size}", "--iodepth=8", "--runtime=4", "--time_based", "--output-format=json"),
    )
    process = start(*line, group=group, stdout=subprocess.PIPE)
    said, _ = process.communicate(timeout=60)
    job = json.loads(said)["jobs"][0]["read" if "read" in way else "write"]
    return {name: float(job[name]) for name in ("iops", "bw_bytes")}


def test_block_io(groups: Groups, start: Start, change: Change, hierarchies: object, loop_device: str) -> None:
    controller(hierarchies, "io", "blkio")  # type: ignore[arg-type]
    group = groups.make()
    name = loop_device.removeprefix("/dev/")
    key = f"disk.{name}.host"
    applied(change(f"cgroup:{group}", {f"{key}.iops.read": "200", f"{key}.bps.write": "5MiB/s"}))
    assert fio(start, group, loop_device, "randread", "4k")["iops"] == pytest.approx(200, rel=0.05)
    assert fio(start, group, loop_device, "write", "64k")["bw_bytes"] == pytest.approx(5 * MIB, rel=0.05)
    applied(change(f"cgroup:{group}", {f"{key}.iops": None, f"{key}.bps": None}))
    assert fio(start, group, loop_device, "randread", "4k")["iops"] > 400


def test_one_who_may_not_is_told_and_nothing_is_done(groups: Groups, start: Start, hierarchies: object) -> None:
    home: Hierarchy = controller(hierarchies, "cpu")  # type: ignore[arg-type]
    group = groups.make()
    start(*BUSY, group=group)
    file = Path(f"{home.mount}{group}/{'cpu.max' if home.version == 2 else 'cpu.cfs_quota_us'}")
    before = file.read_text()
    words = ["set", f"cgroup:{group}", "cpu.cap=50%"]
    text = (
        "import os, sys; from ringfence.cli import entry\n"
        f"entry._build({[*words, '--dry-run']})\n"  # loads all that it needs, which nobody else may be able to
        f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        f"sys.exit(entry._build({words}))"
    )
    environment = os.environ | {"XDG_RUNTIME_DIR": ""}
    done = subprocess.run(python(text), env=environment, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 5, done.stderr
    assert "Permission denied" in done.stderr
    assert "hint: root may" in done.stderr
    assert file.read_text() == before


def test_a_group_that_vanishes(groups: Groups, change: Change, hierarchies: object) -> None:
    home: Hierarchy = controller(hierarchies, "cpu")  # type: ignore[arg-type]
    with pytest.raises(RingfenceError, match="there is no cgroup"):
        change("cgroup:/rf-test-never", {"cpu.cap": "50%"})
    from ringfence.host import containers

    group = groups.make()
    tenant = containers.find(f"cgroup:{group}")
    for hierarchy in hierarchies:  # type: ignore[attr-defined]
        Path(hierarchy.mount + group).rmdir()
    assert home
    with pytest.raises(HostError, match="in no cgroup hierarchy"):
        change(tenant, {"cpu.cap": "50%"})
