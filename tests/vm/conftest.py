"""Real guests for tests: booted by a factory, always torn down, their console shown when the test failed.

Which QEMU is settled by the PATH alone, so that no test can go past it: `--qemu` puts another one first for the
whole run, and tests marked `smoke` run a second time with that of `--smoke-qemu` first. So a smoke test looks for
QEMU when it runs, with `find_qemu`, and shares none with other tests.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

from ringfence.errors import HostError, RingfenceError
from ringfence.lab import workloads
from ringfence.lab.guest import Guest, GuestSpec, up
from ringfence.lab.image import Image, ensure_image
from ringfence.lab.qemus import PROGRAM, ensure_qemu
from ringfence.qemu.launch import find_qemu
from ringfence.qemu.session import Session

FAILED = pytest.StashKey[bool]()
INSTALLED = "installed"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "smoke: runs with a second QEMU too, see --smoke-qemu")
    chosen = config.getoption("--qemu")
    if not chosen:
        return
    try:
        program = shutil.which(chosen) if "/" in chosen else str(ensure_qemu(chosen, print))
    except RingfenceError as error:
        raise pytest.UsageError(f"--qemu {chosen}: {error}") from error
    if program is None:
        raise pytest.UsageError(f"--qemu {chosen} is no program")
    folder = Path(mkdtemp(prefix="ringfence-qemu-"))
    config.add_cleanup(lambda: shutil.rmtree(folder))
    (folder / PROGRAM).symlink_to(Path(program).absolute())
    config.add_cleanup(lambda: os.environ.update(PATH=before))
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{folder}:{before}"


def pytest_report_header(config: pytest.Config) -> str:
    qemu = find_qemu()
    return f"QEMU: {version_of(qemu) if qemu else 'none'}"


def version_of(qemu: str) -> str:
    """As its own first line tells it, less the words: `7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)`."""
    said = subprocess.run([qemu, "--version"], capture_output=True, text=True, check=True).stdout
    return said.splitlines()[0].removeprefix("QEMU emulator version ")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Have smoke tests run once more with the second QEMU."""
    config = metafunc.config
    second = "" if config.getoption("--qemu") else config.getoption("--smoke-qemu")
    if second and metafunc.definition.get_closest_marker("smoke"):
        metafunc.parametrize("_qemu_of_this_test", [INSTALLED, second], indirect=True)


@pytest.fixture(autouse=True)
def _qemu_of_this_test(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = getattr(request, "param", INSTALLED)
    if suite == INSTALLED:
        return
    try:
        qemu = ensure_qemu(suite, print)
    except HostError as error:
        if request.config.getoption("--all-qemus"):
            raise
        pytest.skip(f"the QEMU of {suite} cannot be had here: {error}")
    monkeypatch.setenv("PATH", f"{qemu.parent}:{os.environ['PATH']}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[Any]:
    """Note on the item whether its body failed, for fixtures that come down after it."""
    report = yield
    if report.when == "call":
        item.stash[FAILED] = report.failed
    return report


@pytest.fixture(scope="session")
def image() -> Image:
    """The guest image; made on first use, which fetches 100 MB."""
    if find_qemu() is None:
        pytest.skip("no QEMU here")
    return ensure_image(print)


@pytest.fixture
async def lab_guest(
    image: Image, request: pytest.FixtureRequest
) -> AsyncIterator[Callable[..., Awaitable[Guest]]]:
    """Boots guests: `await lab_guest(vcpus=2, ...)` takes what `GuestSpec` takes, less the name."""
    guests: list[Guest] = []

    async def boot(**spec: Any) -> Guest:
        guest = await up(GuestSpec(f"test-{os.getpid()}-{len(guests)}", **spec), say=print)
        guests.append(guest)
        return guest

    yield boot
    for guest in guests:
        if request.node.stash.get(FAILED, False):
            sys.stdout.write(f"--- console of {guest.name}\n{guest.console(60)}\n")
        await guest.down()


@pytest.fixture(scope="session")
def cpu_hotplug(image: Image) -> None:
    """Skips where the guests' kernel takes no CPU that is plugged; see `workloads.possible_cpus`."""

    async def possible() -> tuple[int, ...]:
        guest = await up(GuestSpec(f"test-{os.getpid()}-cpus"))
        try:
            return await workloads.possible_cpus(guest)
        finally:
            await guest.down()

    if len(asyncio.run(possible())) < 2:
        pytest.skip("without KVM the kernel of this distribution takes no CPU that is plugged")


@pytest.fixture
def needs_cpu_hotplug() -> Callable[[Session], Awaitable[None]]:
    """Skips where a booted guest will not see a CPU that is plugged: `await needs_cpu_hotplug(session)`."""

    async def check(session: Session) -> None:
        reports = await session.execute("query-acpi-ospm-status")
        if not any(report["slot-type"] == "CPU" for report in reports):
            pytest.skip(
                "a guest of this QEMU does not take over CPU hot-plug: query-acpi-ospm-status lists no CPU"
            )

    return check
