"""Which socket the monitor uses, on fakes of QEMU's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from ringfence.cli.monitor_console import Console
from ringfence.cli.monitor_open import open_console
from ringfence.core.model import Address, Monitor, Vm
from ringfence.errors import MonitorBusyError, MonitorGoneError, MonitorProtocolError, TenantError
from ringfence.qemu.discovery import vm_at
from ringfence.testing.fake_hmp import FakeHmp
from ringfence.testing.fake_qemu import FakeQemu


def vm(*monitors: tuple[str, Address | None, str]) -> Vm:
    return vm_at(Address("/nowhere"))._replace(name="web1", monitors=tuple(Monitor(*m) for m in monitors))


async def attempt(vm: Vm, address: Address | None = None, *, qmp: bool) -> Console:
    """With little patience: a busy socket is found busy after 50 ms."""
    return await open_console(vm, address, qmp=qmp, timeout_s=0.05)


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def test_hmp_goes_over_qmp_first(tmp_path: Path, opened: AsyncExitStack) -> None:
    qemu = await opened.enter_async_context(FakeQemu(tmp_path / "q", {"human-monitor-command": "x\r\n"}))
    human = await opened.enter_async_context(FakeHmp(tmp_path / "h"))
    console = await attempt(vm(("hmp", human.address, "h"), ("qmp", qemu.address, "q")), qmp=False)
    assert (console.mode, console.address) == ("HMP", qemu.address.path)
    assert human.clients == 0
    await console.close()


async def test_hmp_on_its_own_socket_when_qmp_is_busy(tmp_path: Path, opened: AsyncExitStack) -> None:
    qemu = await opened.enter_async_context(FakeQemu(tmp_path / "q", greeting=None))
    human = await opened.enter_async_context(FakeHmp(tmp_path / "h", {"info version": "7.2.22Debian\n"}))
    console = await attempt(vm(("qmp", qemu.address, "q"), ("hmp", human.address, "h")), qmp=False)
    assert console.address == human.address.path
    assert await console.version() == "7.2.22"
    await console.close()


async def test_hmp_on_its_own_socket_when_there_is_no_qmp(tmp_path: Path, opened: AsyncExitStack) -> None:
    human = await opened.enter_async_context(FakeHmp(tmp_path / "h", {"stop": ""}))
    console = await attempt(vm(("hmp", human.address, "h")), qmp=False)
    assert (await console.run("stop")).text == ""
    await console.close()


async def test_all_busy(tmp_path: Path, opened: AsyncExitStack) -> None:
    qemu = await opened.enter_async_context(FakeQemu(tmp_path / "q", greeting=None))
    human = await opened.enter_async_context(FakeHmp(tmp_path / "h", greeting=None))
    with pytest.raises(MonitorBusyError):
        await attempt(vm(("qmp", qemu.address, "q"), ("hmp", human.address, "h")), qmp=False)


async def test_busy_says_more_than_gone(tmp_path: Path, opened: AsyncExitStack) -> None:
    human = await opened.enter_async_context(FakeHmp(tmp_path / "h", greeting=None))
    gone = Address(str(tmp_path / "gone"))
    with pytest.raises(MonitorBusyError):
        await attempt(vm(("qmp", gone, "q"), ("hmp", human.address, "h")), qmp=False)


async def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(MonitorGoneError):
        await attempt(vm(("qmp", Address(str(tmp_path / "q")), "q")), qmp=False)


async def test_qmp_does_not_fall_back(tmp_path: Path, opened: AsyncExitStack) -> None:
    human = await opened.enter_async_context(FakeHmp(tmp_path / "h"))
    with pytest.raises(TenantError):
        await attempt(vm(("hmp", human.address, "h")), qmp=True)
    assert human.clients == 0


async def test_no_socket_at_all_says_where_the_monitor_is() -> None:
    with pytest.raises(TenantError, match="only on vc"):
        await attempt(vm(("hmp", None, "vc")), qmp=False)


async def test_a_socket_named_is_the_only_one_tried(tmp_path: Path, opened: AsyncExitStack) -> None:
    qemu = await opened.enter_async_context(FakeQemu(tmp_path / "q"))
    named = Address(str(tmp_path / "gone"))
    with pytest.raises(MonitorGoneError):
        await attempt(vm(("qmp", named, "g"), ("qmp", qemu.address, "q")), named, qmp=False)
    assert qemu.clients == 0


async def test_a_socket_named_may_be_a_human_monitor(tmp_path: Path, opened: AsyncExitStack) -> None:
    human = await opened.enter_async_context(FakeHmp(tmp_path / "h", {"info status": "VM status: running\n"}))
    console = await attempt(vm(), human.address, qmp=False)
    assert (await console.run("info status")).text == "VM status: running\n"
    await console.close()


async def test_qmp_at_a_human_monitor(tmp_path: Path, opened: AsyncExitStack) -> None:
    human = await opened.enter_async_context(FakeHmp(tmp_path / "h"))
    with pytest.raises(MonitorProtocolError):
        await attempt(vm(), human.address, qmp=True)
