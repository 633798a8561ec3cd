"""Containers of real engines: found under their names, and limited while they run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from kernel_bench import FIRST, Change, Groups, Start, applied, controller, cpu_percent, needed

from ringfence.host import containers, files
from ringfence.host.hierarchies import mounted

OWN = f"rf-c-{os.getpid()}"
BURN = ["/bin/busybox", "sh", "-c", "while :; do :; done"]


@pytest.fixture
def rootfs(tmp_path: Path, groups: Groups, hierarchies: object) -> Path:
    controller(hierarchies, "cpu")  # type: ignore[arg-type]
    busybox = needed("busybox")
    if subprocess.run(("ldd", busybox), capture_output=True, check=False).returncode == 0:
        pytest.skip("busybox here is not the static one")
    root = tmp_path / "rootfs"
    for name in ("bin", "proc", "dev", "sys", "tmp", "etc", "run"):
        (root / name).mkdir(parents=True)
    shutil.copy(busybox, root / "bin/busybox")
    (root / "bin/sh").symlink_to("busybox")
    return root


def _trouble(line: tuple[str, ...], folder: Path) -> str:
    """Run an engine; why it failed. A container keeps what it is given as its output open: so not a pipe."""
    log = folder / "engine.log"
    with log.open("w") as file:
        done = subprocess.run(line, stdin=subprocess.DEVNULL, stdout=file, stderr=file, check=False, timeout=60)
    return f"{done.returncode}: {log.read_text().strip()[-200:]}" if done.returncode else ""


@pytest.fixture
def runc(rootfs: Path, tmp_path: Path) -> Iterator[str]:
    """The name of a container of runc's that uses all of a CPU."""
    program = needed("runc")
    subprocess.run((program, "spec"), cwd=tmp_path, check=True)
    spec = json.loads((tmp_path / "config.json").read_text())
    spec["process"] |= {"args": BURN, "terminal": False, "rlimits": []}
    spec["linux"]["namespaces"] = [n for n in spec["linux"]["namespaces"] if n["type"] != "network"]
    (tmp_path / "config.json").write_text(json.dumps(spec))
    trouble = _trouble((program, "run", "--detach", "--bundle", str(tmp_path), OWN), tmp_path)
    if trouble:
        pytest.skip(f"runc does not run here: {trouble}")
    yield OWN
    subprocess.run((program, "delete", "--force", OWN), check=True)


def test_runc(runc: str, change: Change) -> None:
    found = containers.find(f"container:{runc}")
    assert found.engine == "runc"
    applied(change(f"container:{runc}", {"cpu.cap": "30%", "cpu.weight": "10000", "pids.limit": "50"}))
    assert cpu_percent(found.pid) == pytest.approx(30, rel=0.05)
    applied(change(f"container:{runc}", {"memory.limit": "64MiB", "cpu.cap": "15%"}))
    assert cpu_percent(found.pid) == pytest.approx(15, rel=0.05)


@pytest.fixture
def podman(rootfs: Path, tmp_path: Path) -> Iterator[tuple[str, ...]]:
    """The command line of a podman with a container `OWN` that uses all of a CPU."""
    program = needed("podman")
    needed("conmon")
    folder = tempfile.mkdtemp(prefix="rf-")  # podman wants short paths
    store = [f"--{name}={folder}/{name}" for name in ("root", "runroot", "tmpdir")]
    manager = "systemd" if os.path.isdir("/run/systemd/system") else "cgroupfs"
    line = (program, *store, "--storage-driver=vfs", f"--cgroup-manager={manager}", "--events-backend=file")
    if shutil.which("runc"):
        line = (*line, f"--runtime={shutil.which('runc')}")
    limits = ("--ulimit", "nofile=10000:10000", "--ulimit", "nproc=5000:5000", "--network", "none")
    begun = (*line, "run", "--detach", "--name", OWN, *limits, "--rootfs", str(rootfs), *BURN)
    if trouble := _trouble(begun, tmp_path):
        shutil.rmtree(folder, ignore_errors=True)
        pytest.skip(f"podman does not run here: {trouble}")
    yield line
    subprocess.run((*line, "rm", "--force", "--time=0", OWN), check=False, capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)
    for hierarchy in mounted(""):  # podman leaves its parent group behind
        folder = f"{hierarchy.mount}/libpod_parent"
        for name in ("", *files.folders(folder)):
            try:
                os.rmdir(f"{folder}/{name}")
            except OSError:
                continue


def test_podman_also_what_its_own_update_does_not_change(
    podman: tuple[str, ...], change: Change, start: Start, hierarchies: object
) -> None:
    found = containers.find(f"container:{OWN}")
    assert (found.engine, len(found.id)) == ("podman", 64)
    applied(change(f"container:{OWN}", {"cpu.cap": "25%", **FIRST}))
    assert cpu_percent(found.pid) == pytest.approx(25, rel=0.05)
    controller(hierarchies, "io", "blkio")  # type: ignore[arg-type]
    from ringfence.host import devices

    device = next(d for d in devices.every_device("") if not d.name.startswith("loop"))
    applied(change(f"container:{OWN}", {f"disk.{device.name}.host.bps.read": "5MiB/s"}))
