"""What tests against a real kernel share: groups, processes that use what is limited, and how much they got.

The same tests run on cgroup v1 and v2, with and without systemd: on this host, and in a host in a box.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

import pytest

from ringfence.core.model import Tenant
from ringfence.engine.api import open_tenant
from ringfence.engine.changes import Result
from ringfence.host import containers, made
from ringfence.host.hierarchies import Hierarchy, mounted

OWN = f"rf-test-{os.getpid()}"
PATIENCE_S = 10

Start: TypeAlias = Callable[..., subprocess.Popen[bytes]]
Change: TypeAlias = Callable[..., list[Result]]


@pytest.fixture(autouse=True)
def _as_root() -> None:
    if os.geteuid():
        pytest.skip("only root may make groups in the root of a hierarchy")


@pytest.fixture
def hierarchies() -> tuple[Hierarchy, ...]:
    found = tuple(h for h in mounted("") if not h.read_only and os.access(h.mount, os.W_OK))
    if not found:
        pytest.skip("no cgroup hierarchy is mounted read-write here")
    return found


def controller(hierarchies: tuple[Hierarchy, ...], *names: str) -> Hierarchy:
    """The hierarchy with one of these controllers; without any the test is skipped."""
    for hierarchy in hierarchies:
        if set(names) & set(hierarchy.controllers):
            return hierarchy
    pytest.skip(f"no hierarchy here has the {' or '.join(names)} controller")


class Groups:
    """Groups of this test's own, in every hierarchy, removed at its end."""

    def __init__(self, hierarchies: tuple[Hierarchy, ...]) -> None:
        self._hierarchies = hierarchies
        self._made: list[Path] = []

    def make(self, name: str = "") -> str:
        """A group with every controller; gives its path below the mounts."""
        path = f"/{OWN}{name}"
        for hierarchy in self._hierarchies:
            if hierarchy.version == 2:
                for each in hierarchy.controllers:
                    with suppress(OSError):
                        Path(hierarchy.mount, "cgroup.subtree_control").write_text(f"+{each}")
            folder = Path(hierarchy.mount + path)
            folder.mkdir(parents=True, exist_ok=True)
            if "cpuset" in hierarchy.controllers and hierarchy.version == 1:
                for file in ("cpuset.cpus", "cpuset.mems"):
                    (folder / file).write_text(Path(hierarchy.mount, file).read_text())
            self._made.append(folder)
        return path

    def enter(self, path: str) -> None:
        """Put the calling process into a group, in every hierarchy."""
        for hierarchy in self._hierarchies:
            Path(f"{hierarchy.mount}{path}/cgroup.procs").write_text("0")

    def close(self) -> None:
        """Remove them; what still runs there is ended."""
        for folder in reversed(self._made):
            for path in [*sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True), folder]:
                _end(path)
                deadline = time.monotonic() + PATIENCE_S
                while path.exists():
                    with suppress(OSError):
                        path.rmdir()
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"{path} cannot be removed")
                    time.sleep(0.02)


def _end(folder: Path) -> None:
    for word in (folder / "cgroup.procs").read_text().split() if folder.exists() else ():
        with suppress(OSError):
            os.kill(int(word), signal.SIGKILL)


@pytest.fixture
def groups(hierarchies: tuple[Hierarchy, ...]) -> Iterator[Groups]:
    groups = Groups(hierarchies)
    yield groups
    groups.close()


@pytest.fixture
def start(groups: Groups) -> Iterator[Start]:
    """Start a process, in a group where one is named; it is killed at the end."""
    running: list[subprocess.Popen[bytes]] = []

    def start(*line: str, group: str = "", **options: object) -> subprocess.Popen[bytes]:
        enter = (lambda: groups.enter(group)) if group else None
        process = subprocess.Popen(line, preexec_fn=enter, **options)  # type: ignore[call-overload]
        running.append(process)
        return process  # type: ignore[no-any-return]

    yield start
    for process in running:
        process.kill()
        process.wait(PATIENCE_S)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def python(text: str) -> tuple[str, str, str]:
    """A command line that runs a text of Python."""
    return sys.executable, "-c", text


BUSY = python("while True: pass")
FIRST = {"cpu.weight": "10000"}
"""Before all others that want the CPU: a cap is to be measured on a busy host, too."""


@pytest.fixture
def change() -> Change:
    """Change limits of a tenant as `ringfence set` does, and give the results; a tenant may be a selector."""
    import asyncio

    def change(tenant: Tenant | str, values: Mapping[str, str | None], *, force: bool = False) -> list[Result]:
        found = containers.find(tenant) if isinstance(tenant, str) else tenant

        async def set_() -> list[Result]:
            async with open_tenant(found) as opened:
                return await opened.set(values, force=force)

        return asyncio.run(set_())

    return change


def applied(results: list[Result]) -> None:
    """That all was applied."""
    assert [(r.key, str(r.verdict), r.detail) for r in results] == [(r.key, "applied", "") for r in results]


def cpu_s(pid: int, tid: int = 0) -> float:
    """CPU time of a thread, or of all threads of a process, in seconds."""
    tids = [str(tid)] if tid else os.listdir(f"/proc/{pid}/task")
    return sum(int(Path(f"/proc/{pid}/task/{each}/schedstat").read_text().split()[0]) for each in tids) / 1e9


def cpu_percent(pid: int, tid: int = 0, *, over_s: float = 3.0) -> float:
    """CPU time over wall time, in percent of one CPU."""
    began, used = time.monotonic(), cpu_s(pid, tid)
    time.sleep(over_s)
    return 100 * (cpu_s(pid, tid) - used) / (time.monotonic() - began)


@pytest.fixture
def no_left_overs() -> Iterator[None]:
    """What ringfence makes for this test is removed after it, as `ringfence clean` does."""
    import asyncio

    before = {thing.name for thing in made.find()}
    yield
    deadline = time.monotonic() + PATIENCE_S
    while left := [thing for thing in made.find() if thing.name not in before and not thing.holds]:
        asyncio.run(made.remove(left))
        if time.monotonic() > deadline:
            raise TimeoutError(f"left over: {left}")


def needed(program: str) -> str:
    """The path of a program; without it the test is skipped."""
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found
