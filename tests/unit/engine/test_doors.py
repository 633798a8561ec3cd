"""Which of a VM's sockets is used, and what is said when none lets us in."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from ringfence.core.model import Address, Monitor, Vm
from ringfence.engine import doors
from ringfence.engine.doors import open_session
from ringfence.errors import MonitorBusyError, MonitorGoneError, TenantError
from ringfence.qemu.discovery import vm_at
from ringfence.qemu.session import Session
from ringfence.testing.fake_qemu import FakeQemu

SHORT_S = 0.03


def vm(*addresses: Address, kind: str = "qmp") -> Vm:
    return vm_at(Address("/nowhere"))._replace(
        name="web1", monitors=tuple(Monitor(kind, a, "") for a in addresses)
    )


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def test_the_first_that_greets(tmp_path: Path, stack: AsyncExitStack) -> None:
    deaf = await stack.enter_async_context(FakeQemu(tmp_path / "deaf", greeting=None))
    free = await stack.enter_async_context(FakeQemu(tmp_path / "free"))
    session = await open_session(vm(Address(str(tmp_path / "gone")), deaf.address, free.address))
    assert session.address == free.address
    await session.close()


async def test_a_managers_own_socket_is_the_last_resort(
    tmp_path: Path, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doors, "_MANAGERS_OWN", (str(tmp_path / "libvirt"),))
    own = await stack.enter_async_context(FakeQemu(tmp_path / "libvirt-1"))
    ours = await stack.enter_async_context(FakeQemu(tmp_path / "ours"))
    session = await open_session(vm(own.address, ours.address))
    assert session.address == ours.address
    await session.close()
    assert own.clients == 0


async def test_who_holds_a_busy_monitor_is_named(tmp_path: Path, stack: AsyncExitStack) -> None:
    qemu = await stack.enter_async_context(FakeQemu(tmp_path / "q"))
    await stack.enter_async_context(await Session.open(qemu.address))
    with pytest.raises(MonitorBusyError) as caught:
        await open_session(vm(qemu.address), timeout_s=SHORT_S)
    assert caught.value.hint.startswith("Held by ")
    assert f"(pid {os.getpid()})" in caught.value.hint


async def test_busy_goes_before_gone(tmp_path: Path, stack: AsyncExitStack) -> None:
    deaf = await stack.enter_async_context(FakeQemu(tmp_path / "deaf", greeting=None))
    gone = Address(str(tmp_path / "gone"))
    with pytest.raises(MonitorBusyError):
        await open_session(vm(gone, deaf.address), timeout_s=SHORT_S)
    with pytest.raises(MonitorGoneError):
        await open_session(vm(gone, gone), timeout_s=SHORT_S)


async def test_no_socket_at_all() -> None:
    with pytest.raises(TenantError, match="has no QMP socket") as caught:
        await open_session(vm())
    assert "-qmp unix:" in caught.value.hint
    assert "ringfence monitor" not in caught.value.hint
    with pytest.raises(TenantError) as caught:
        await open_session(vm(Address("/run/hmp"), kind="hmp"))
    assert "ringfence monitor" in caught.value.hint
