"""The Python API without an event loop, on a monitor that speaks QMP."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ringfence import blocking
from ringfence.core.knob import Verdict
from ringfence.engine import loop_thread
from ringfence.engine.loop_thread import LoopThread
from ringfence.errors import UsageError
from ringfence.qemu import discovery
from ringfence.testing.fake_qemu import FakeQemu
from ringfence.testing.obedient_vm import ObedientVm


@pytest.fixture
def guest() -> ObedientVm:
    return ObedientVm()


@pytest.fixture
def vm(guest: ObedientVm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[blocking.OpenVm]:
    """An open VM; its thread is gone after it."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with FakeQemu(tmp_path / "qmp", guest.answers) as qemu:
        info = discovery.vm_at(qemu.address)._replace(name="web1")
        monkeypatch.setattr(discovery, "find_vm", {"web1": info}.__getitem__)
        with blocking.connect() as host:
            yield host.vm("web1")
            (thread,) = threads()
        assert not thread.is_alive()
    assert threads() == []


def threads() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "ringfence"]


def test_what_is_set_is_read_back(vm: blocking.OpenVm, guest: ObedientVm) -> None:
    (result,) = vm.set({"disk.a.iops": 100})
    assert (result.verdict, result.actual, guest.limits["a"]["iops"]) == (Verdict.APPLIED, 100, 100)
    assert {one.key: one.actual for one in vm.show()}["disk.vda.iops"] == 100
    assert (vm.info.name, vm.kind) == ("web1", "vm")


def test_an_error_is_raised_where_it_was_asked_for(vm: blocking.OpenVm, guest: ObedientVm) -> None:
    with pytest.raises(UsageError, match="disk"):
        vm.set({"disk.a.iops": 100, "disk.nosuch.iops": 100})
    assert guest.limits["a"]["iops"] == 0


def test_many_threads_may_ask(vm: blocking.OpenVm) -> None:
    with ThreadPoolExecutor(4) as pool:
        seen = list(pool.map(lambda _: [one.key for one in vm.show()], range(4)))
    assert seen[0]
    assert seen == [seen[0]] * 4


def test_the_turn_is_given_back_also_after_an_error(vm: blocking.OpenVm, guest: ObedientVm) -> None:
    with pytest.raises(ZeroDivisionError), vm.turn(["disk.a.iops"]):
        raise ZeroDivisionError
    with vm.turn(["disk.a.iops"]):
        steps = vm.plan({"disk.a.iops": 7})
        assert guest.limits["a"]["iops"] == 0
        ended: list[Any] = []
        vm.apply(steps, ended=lambda step, outcome: ended.append((step, outcome.verdict)))
    assert ended == [(steps[0], Verdict.APPLIED)]
    assert guest.limits["a"]["iops"] == 7


def test_what_is_interrupted_says_so(vm: blocking.OpenVm, guest: ObedientVm) -> None:
    vm.interrupt()
    (result,) = vm.set({"disk.a.iops": 7})
    assert (result.verdict, guest.limits["a"]["iops"]) == (Verdict.NOT_ATTEMPTED, 0)


def test_a_closed_vm_leaves_its_monitor_to_others(vm: blocking.OpenVm) -> None:
    with vm:
        assert vm.show()
    vm.close()
    with blocking.connect() as host:
        assert host.vm("web1").set({"disk.a.iops": 5})[0].verdict is Verdict.APPLIED


@pytest.fixture
def thread() -> Iterator[LoopThread]:
    made = LoopThread()
    yield made
    made.close()
    made.close()
    assert threads() == []


def test_a_callback_may_not_wait_for_its_own_loop_but_may_call_into_it(thread: LoopThread) -> None:
    async def nothing() -> None: ...

    async def calls_back() -> str:
        with pytest.raises(UsageError, match="callback"):
            thread.run(nothing())
        return thread.call(lambda: "called")

    assert thread.run(calls_back()) == "called"


class Waits:
    """Something under way that Ctrl-C comes into."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.end = asyncio.Event()
        self.ended = ""
        real = asyncio.run_coroutine_threadsafe

        def and_ctrl_c(coroutine: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop) -> Future[Any]:
            future = real(coroutine, loop)
            monkeypatch.setattr(future, "result", self._ctrl_c)
            return future

        monkeypatch.setattr(loop_thread.asyncio, "run_coroutine_threadsafe", and_ctrl_c)

    @staticmethod
    def _ctrl_c() -> None:
        raise KeyboardInterrupt

    async def __call__(self) -> None:
        try:
            await self.end.wait()
            self.ended = "in order"
        except asyncio.CancelledError:
            self.ended = "cancelled"
            raise


@pytest.mark.parametrize("orderly", [True, False])
def test_ctrl_c_ends_what_is_under_way(thread: LoopThread, orderly: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    thread.run(asyncio.sleep(0))
    waits = Waits(monkeypatch)
    interrupt: Callable[[], object] | None = waits.end.set if orderly else None
    with pytest.raises(KeyboardInterrupt):
        thread.run(waits(), interrupt=interrupt)
    assert waits.ended == ("in order" if orderly else "cancelled")


def test_closing_cancels_what_still_runs(thread: LoopThread) -> None:
    tasks: list[asyncio.Task[None]] = []

    async def leaves_something() -> None:
        tasks.append(asyncio.create_task(asyncio.sleep(3600)))

    thread.run(leaves_something())
    thread.close()
    assert tasks[0].cancelled()
