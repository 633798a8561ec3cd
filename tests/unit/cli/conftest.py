"""What the tests of verbs share: the program in this process, and VMs to try it on."""

from __future__ import annotations

import asyncio
import gc
import logging
import select
import socket
import threading
from collections.abc import Callable
from time import monotonic
from typing import NamedTuple, TypeAlias

import pytest

from ringfence.cli import entry
from ringfence.core.model import Vm
from ringfence.host import containers
from ringfence.qemu import brief, discovery
from ringfence.testing.fake_agent import FakeAgent
from ringfence.testing.fake_qemu import FakeQemu
from ringfence.testing.obedient_vm import ObedientVm


class Ran(NamedTuple):
    """What a run of the program left."""

    code: int
    out: str
    err: str


Run: TypeAlias = Callable[..., Ran]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Run:
    """Run `ringfence ARGUMENTS`; besides what it says itself nothing may be logged or left unlooked at.

    The QMP library's own log reaches nobody: it comes with a handler that drops it.
    """

    def run(*arguments: str) -> Ran:
        code = entry._build(list(arguments))
        gc.collect(0)
        logged = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert [record.message for record in logged if not record.name.startswith("qemu.qmp")] == []
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return Ran(code, out, err)

    return run


@pytest.fixture
def vm_behind(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Vm]:
    """Have the only VM of this host be one whose sockets are those of fakes."""

    def behind(qemu: FakeQemu, agent: FakeAgent | None = None, name: str = "web1") -> Vm:
        monkeypatch.setattr(discovery, "find_vms", lambda *_: [])
        vm = discovery.vm_at(qemu.address)._replace(name=name, agent=agent.address if agent else None)
        monkeypatch.setattr(discovery, "find_vms", lambda *_: [vm])
        return vm

    return behind


@pytest.fixture
def skip(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Have the program believe that so many seconds have passed: what is silent costs no time to test.

    To be called by a fake while it is asked, from its own thread. It holds for an event loop and for who has none.
    """
    ahead_s = 0.0
    loops: list[asyncio.AbstractEventLoop] = []
    true_time = asyncio.BaseEventLoop.time

    def time(loop: asyncio.BaseEventLoop) -> float:
        if threading.current_thread() is threading.main_thread():
            loops[:] = [loop]
        return true_time(loop) + ahead_s

    def ready(sock: socket.socket, event: int, deadline: float) -> bool:
        poll = select.poll()
        poll.register(sock, event)
        while not (found := poll.poll(1)) and brief._now() < deadline:
            pass
        return bool(found)

    monkeypatch.setattr(brief, "_now", lambda: monotonic() + ahead_s)
    monkeypatch.setattr(brief, "_ready", ready)

    def skip(seconds: float) -> None:
        nonlocal ahead_s
        if not loops or loops[0].is_closed():
            ahead_s += seconds
            return
        # A little later: who has just sent what is asked may not have begun to wait for the answer.
        loops[0].call_soon_threadsafe(pass_, seconds, 3)

    def pass_(seconds: float, turns: int) -> None:
        nonlocal ahead_s
        if turns:
            loops[0].call_soon(pass_, seconds, turns - 1)
        else:
            ahead_s += seconds

    monkeypatch.setattr(asyncio.BaseEventLoop, "time", time)
    return skip


@pytest.fixture
def obedient() -> ObedientVm:
    return ObedientVm()


@pytest.fixture(autouse=True)
def _no_containers_of_this_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """What happens to run here is not for the tests of verbs to list."""
    monkeypatch.setattr(containers, "find_containers", lambda *_: [])
