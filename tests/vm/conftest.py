"""Real guests for tests: booted by a factory, always torn down, their console shown when the test failed."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from ringfence.lab import workloads
from ringfence.lab.guest import Guest, GuestSpec, up
from ringfence.lab.image import Image, ensure_image
from ringfence.qemu.launch import find_qemu

FAILED = pytest.StashKey[bool]()


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
