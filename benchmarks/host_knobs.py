"""How much the host's knobs cost beside bare reads and writes of the same files, in one run.

Needs root and a cgroup hierarchy that may be written; makes groups `rf-bench-*` and removes them.

* read: every host knob of 200 tenants, and the same files read with open(2), read(2), close(2) alone.
* set: a change of every host limit of one tenant, on an edge that is open already.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ringfence.core.model import Container
from ringfence.engine.api import OpenVm, open_tenant
from ringfence.engine.driver import observe
from ringfence.host import containers, files
from ringfence.host.hierarchies import mounted
from ringfence.knobs import registry

TENANTS = 200
READ_RATIO, READ_MS, SET_MS = 3.0, 250.0, 20.0
REPEATS = 5
KNOBS = ("host.cpu", "host.memory", "host.oom", "host.pids", "host.disk", "host.pin", "host.pressure")
WANTED = {
    "cpu.cap": ("50%", "60%"),
    "cpu.weight": ("50", "60"),
    "memory.limit": ("1GiB", "2GiB"),
    "memory.low": ("10MiB", "20MiB"),
    "memory.oom_score": ("100", "200"),
    "pids.limit": ("100", "200"),
    "cpu.pin": ("0", "none"),
}


@contextmanager
def tenants(count: int) -> Iterator[list[Container]]:
    """Groups in every hierarchy, each with a sleeping process."""
    sleeping = [subprocess.Popen(("sleep", "600")) for _ in range(count)]
    made: list[Path] = []
    try:
        for number, process in enumerate(sleeping):
            for hierarchy in mounted(""):
                folder = Path(f"{hierarchy.mount}/rf-bench-{number}")
                folder.mkdir(exist_ok=True)
                made.append(folder)
                if hierarchy.version == 1 and "cpuset" in hierarchy.controllers:
                    for name in ("cpuset.cpus", "cpuset.mems"):
                        (folder / name).write_text(Path(hierarchy.mount, name).read_text())
                (folder / "cgroup.procs").write_text(str(process.pid))
        yield [containers.at(f"/rf-bench-{number}") for number in range(count)]
    finally:
        for process in sleeping:
            process.kill()
            process.wait()
        for folder in made:
            folder.rmdir()


async def read_all(tenants: list[OpenVm]) -> None:
    """Every host knob of every tenant."""
    knobs = [registry.load(listed) for listed in registry.LISTED if listed.module in KNOBS]
    for opened in tenants:
        for knob in knobs:
            if opened.kind in knob.tenants:
                await observe(knob.observe(), opened.edges)


def paths_of(found: list[Container]) -> list[str]:
    """The files that reading them reads, those that tell where a tenant is among them."""
    paths: list[str] = []
    true_read = files.read

    def recording(path: str, *, optional: bool = False) -> str | None:
        if os.path.exists(path):
            paths.append(path)
        return true_read(path, optional=optional)

    files.read = recording
    try:
        asyncio.run(read_all([open_tenant(tenant) for tenant in found]))
    finally:
        files.read = true_read
    return paths


def bare(paths: list[str]) -> None:
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        os.read(fd, 65536)
        os.close(fd)


def timed_ms(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1e3


async def setting_ms(tenant: Container) -> list[float]:
    times = []
    async with open_tenant(tenant) as opened:
        for number in range(2 * REPEATS + 2):
            values = {key: pair[number % 2] for key, pair in WANTED.items()}
            began = time.perf_counter()
            results = await opened.set(values)
            times.append((time.perf_counter() - began) * 1e3)
            bad = [f"{r.key} {r.verdict} {r.detail}" for r in results if r.verdict != "applied"]
            if bad:
                sys.exit(f"not applied: {bad}")
    return times[2:]


def main() -> int:
    with tenants(TENANTS) as found:
        paths = paths_of(found)
        opened = [open_tenant(tenant) for tenant in found]
        pairs = []
        for _ in range(REPEATS):
            floor = timed_ms(lambda: bare(paths))
            pairs.append((timed_ms(lambda: asyncio.run(read_all(opened))), floor))
        ours, floor = min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)
        setting = statistics.median(asyncio.run(setting_ms(found[0])))
    print(f"read every host knob of {TENANTS} tenants: {ours:.0f} ms (at most {READ_MS:.0f})")
    print(f"the same {len(paths)} files by open, read, close: {floor:.0f} ms")
    print(f"ratio: {ours / floor:.2f} (at most {READ_RATIO})")
    print(f"set {len(WANTED)} limits of one tenant: {setting:.1f} ms (at most {SET_MS:.0f})")
    return int(ours > READ_MS or ours / floor > READ_RATIO or setting > SET_MS)


if __name__ == "__main__":
    sys.exit(main())
