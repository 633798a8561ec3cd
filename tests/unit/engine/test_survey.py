"""Which monitors are asked, which are left alone, and what is shown of a VM that could not be asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ringfence.core.model import Address, Vm
from ringfence.engine import survey as survey_module
from ringfence.engine.survey import VmEntry, survey
from ringfence.errors import MonitorBusyError, MonitorGoneError, MonitorTimeoutError, RingfenceError
from ringfence.host.socket_table import BUSY, FREE, UNREACHABLE
from ringfence.qemu import cmdline

ANSWERS: dict[str, Any] = {
    "query-cpus-fast": [{}, {}, {}],
    "query-memory-size-summary": {"base-memory": 1 << 30},
    "query-hotpluggable-cpus": [{"vcpus-count": 1}] * 8,
    "query-balloon": {"actual": 1 << 29},
    "query-memory-devices": [],
    "query-block": [],
}


def vm(line: str) -> Vm:
    return cmdline.parse(["qemu-system-x86_64", *line.split()], pid=5)


class Table:
    """A SocketTable on paper: state of each path."""

    def __init__(self, **states: str | None) -> None:
        self.states = {f"/{name}": state for name, state in states.items()}

    def state(self, address: Address, pid: int) -> str | None:
        return self.states.get(address.path)

    def holder(self, address: Address, pid: int) -> tuple[int, str] | None:
        return (42, "libvirtd") if address.path == "/named" else None


class Doors:
    """Stands for `open_session`; says which addresses it was led to."""

    def __init__(self) -> None:
        self.tried: list[str] = []
        self.open = 0
        self.most_open = 0
        self.error: RingfenceError | None = None
        self.silent = False
        self.address = Address()

    async def __call__(self, vm: Vm, *, timeout_s: float) -> Any:
        self.tried += [address.path for address in vm.qmp_addresses]
        if self.error:
            raise self.error
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        self.address = vm.qmp_addresses[0]
        return self

    async def execute(self, command: str, arguments: object = None, *, timeout_s: float) -> Any:
        await asyncio.sleep(0)
        if self.silent:
            raise MonitorTimeoutError(f"no answer within {timeout_s:g} s")
        return ANSWERS[command]

    async def execute_all(self, commands: Sequence[tuple[str, object]], *, timeout_s: float) -> list[Any]:
        return [await self.execute(command, timeout_s=timeout_s) for command, _ in commands]

    async def close(self) -> None:
        self.open -= 1


@pytest.fixture
def doors(monkeypatch: pytest.MonkeyPatch) -> Doors:
    doors = Doors()
    monkeypatch.setattr(survey_module, "open_session", doors)
    return doors


async def one(line: str, timeout_s: float = 1.0, **states: str | None) -> VmEntry:
    (entry,) = await survey([vm(line)], Table(**states), timeout_s=timeout_s)  # type: ignore[arg-type]
    json.dumps(entry)
    return entry


async def test_a_free_monitor_is_asked_and_let_go(doors: Doors) -> None:
    entry = await one("-name a -m 1G,maxmem=4G -smp 1,maxcpus=8 -qmp unix:/m,server=on", m=FREE)
    assert (entry["vcpus"], entry["source"], entry["problem"]) == ({"now": 3, "max": 8}, "qmp", None)
    assert entry["memory"] == {"now_bytes": 1 << 29, "max_bytes": 4 << 30}
    assert entry["monitors"][0]["state"] == FREE
    assert doors.open == 0


async def test_a_busy_monitor_is_left_alone_and_its_holder_named(doors: Doors) -> None:
    entry = await one("-smp 2 -drive file=x,if=virtio -qmp unix:/named,server=on", named=BUSY)
    assert doors.tried == []
    assert (entry["vcpus"], entry["source"]) == ({"now": 2, "max": 2}, "command line")
    assert entry["problem"] == "monitor busy: held by libvirtd (pid 42)"
    assert entry["monitors"][0]["holder"] == {"pid": 42, "name": "libvirtd"}
    assert entry["disks"] == [{"name": "virtio0", "file": "x", "format": "", "limits": None, "filters": []}]


async def test_a_holder_who_cannot_be_named(doors: Doors) -> None:
    entry = await one("-qmp unix:/m,server=on", m=BUSY)
    assert entry["problem"] == "monitor busy: held by another client"


async def test_the_free_one_of_two_is_asked(doors: Doors) -> None:
    entry = await one("-qmp unix:/a,server=on -qmp unix:/b,server=on -monitor unix:/h,server=on", a=BUSY, b=None)
    assert doors.tried == ["/b"]
    assert [monitor["state"] for monitor in entry["monitors"]] == [BUSY, FREE, None]
    assert entry["problem"] is None


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (MonitorBusyError("busy after all"), BUSY),
        (MonitorGoneError("gone meanwhile"), UNREACHABLE),
        (MonitorTimeoutError("late"), FREE),
    ],
)
async def test_a_monitor_that_lets_nobody_in(doors: Doors, error: RingfenceError, state: str) -> None:
    doors.error = error
    entry = await one("-qmp unix:/m,server=on", m=FREE)
    assert (entry["problem"], entry["source"]) == (error.message, "command line")
    assert entry["monitors"][0]["state"] == state


async def test_a_vm_that_does_not_answer_is_let_go_in_time(doors: Doors) -> None:
    doors.silent = True
    entry = await one("-qmp unix:/m,server=on", timeout_s=0.02, m=FREE)
    assert entry["problem"] == "no answer within 0.02 s"
    assert doors.open == 0


@pytest.mark.parametrize("line", ["-name a", "-qmp stdio", "-monitor unix:/h,server=on"])
async def test_a_vm_without_a_qmp_socket(doors: Doors, line: str) -> None:
    entry = await one(line, h=FREE)
    assert (doors.tried, entry["problem"]) == ([], "no QMP socket")


async def test_a_socket_that_is_gone(doors: Doors) -> None:
    entry = await one("-qmp unix:/m,server=on", m=UNREACHABLE)
    assert (doors.tried, entry["problem"]) == ([], "nobody listens on /m")


async def test_vms_are_asked_at_once_and_come_in_order(doors: Doors, tmp_path: Path) -> None:
    doors.delay_s = 0.001
    vms = [vm(f"-name v{index} -qmp unix:/m{index},server=on") for index in range(20)]
    entries = await survey(vms, Table(), timeout_s=5)  # type: ignore[arg-type]
    assert [entry["name"] for entry in entries] == [f"v{index}" for index in range(20)]
    assert doors.most_open == 20


async def test_no_vms() -> None:
    assert await survey([], Table()) == []  # type: ignore[arg-type]
