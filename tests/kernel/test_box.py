"""The host in a box is what it is said to be; these run only there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    "RINGFENCE_IN_A_BOX" not in os.environ, reason="about the host in a box: scripts/box"
)


def ran(*line: str) -> str:
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout


def test_every_controller_is_on_version_2() -> None:
    controllers = set(Path("/sys/fs/cgroup/cgroup.controllers").read_text().split())
    assert controllers >= {"cpuset", "cpu", "io", "memory", "pids"}
    assert " cgroup " not in Path("/proc/mounts").read_text()


@pytest.mark.parametrize(
    "module", ["sch_htb", "sch_fq_codel", "sch_netem", "sch_tbf", "ifb", "cls_matchall", "null_blk"]
)
def test_the_kernel_has(module: str) -> None:
    ran("modprobe", "--dry-run", module)


@pytest.mark.skipif(not Path("/run/systemd/system").is_dir(), reason="a box without systemd")
def test_systemd_is_up_with_nothing_failed() -> None:
    assert ran("systemctl", "list-units", "--failed", "--plain", "--no-legend") == ""
    assert "org.freedesktop.systemd1" in ran("busctl", "list", "--no-legend")
