"""Which monitors are asked, which are left alone, and what is shown of a VM that could not be asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
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
    """Stands for `open_session` and `open_through_libvirtd`; says which addresses it was led to."""

    def __init__(self) -> None:
        self.libvirtd: RingfenceError | None = None
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

    async def through_libvirtd(self, vm: Vm, own: Sequence[Address] = (), *, timeout_s: float) -> Any:
        self.tried += ["libvirtd", *(address.path for address in own)]
        if self.libvirtd:
            raise self.libvirtd
        self.address = Address("libvirt at qemu:///system")
        self.open += 1
        self.most_open = max(self.most_open, self.open)
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
    monkeypatch.setattr(survey_module, "open_through_libvirtd", doors.through_libvirtd)
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


async def test_vms_are_asked_at_once_and_come_in_order(doors: Doors) -> None:
    vms = [vm(f"-name v{index} -qmp unix:/m{index},server=on") for index in range(20)]
    entries = await survey(vms, Table(), timeout_s=5)  # type: ignore[arg-type]
    assert [entry["name"] for entry in entries] == [f"v{index}" for index in range(20)]
    assert doors.most_open == 20


async def test_no_vms() -> None:
    assert await survey([], Table()) == []  # type: ignore[arg-type]


OWN = "/var/lib/libvirt/qemu/domain-1-a/monitor.sock"


def libvirts(line: str = f"-name a -smp 2 -qmp unix:{OWN},server=on") -> Vm:
    return vm(line)._replace(manager="libvirt", uuid="d390f369")


def held_by_libvirtd() -> Table:
    table = Table()
    table.states[OWN] = BUSY
    return table


async def all_of(vms: Sequence[Vm], table: Table, timeout_s: float = 1.0) -> list[VmEntry]:
    return await survey(vms, table, timeout_s=timeout_s)  # type: ignore[arg-type]


async def test_a_vm_whose_monitor_libvirtd_holds_is_asked_through_libvirtd(doors: Doors) -> None:
    (entry,) = await all_of([libvirts()], held_by_libvirtd())
    assert doors.tried == ["libvirtd"]
    assert (entry["vcpus"]["now"], entry["source"], entry["problem"]) == (3, "qmp", None)
    assert [monitor["state"] for monitor in entry["monitors"]] == [BUSY]
    assert doors.open == 0


async def test_a_free_socket_beside_libvirts_goes_before_libvirtd(doors: Doors) -> None:
    line = f"-qmp unix:{OWN},server=on -qmp unix:/b,server=on"
    (entry,) = await all_of([libvirts(line)], held_by_libvirtd())
    assert (doors.tried, entry["source"]) == (["/b"], "qmp")
    doors.error, doors.tried = MonitorBusyError("busy after all"), []
    (entry,) = await all_of([libvirts(line)], held_by_libvirtd())
    assert (doors.tried, entry["source"], entry["problem"]) == (["/b", "libvirtd"], "qmp", None)
    assert [monitor["state"] for monitor in entry["monitors"]] == [BUSY, BUSY]


async def test_libvirts_own_socket_is_left_to_who_asks_libvirtd_and_not_queued_for(doors: Doors) -> None:
    await all_of([libvirts()], Table())
    assert doors.tried == ["libvirtd", OWN]


async def test_both_reasons_are_told_when_libvirtd_does_not_help(doors: Doors) -> None:
    doors.libvirtd = MonitorTimeoutError("libvirt at qemu:///system: no answer")
    (entry,) = await all_of([libvirts()], held_by_libvirtd())
    assert entry["source"] == "command line"
    assert entry["problem"] == "monitor busy: held by another client; libvirt at qemu:///system: no answer"


async def test_many_vms_of_libvirt_are_asked_a_few_at_a_time(doors: Doors) -> None:
    entries = await all_of([libvirts()] * 30, held_by_libvirtd())
    assert [entry["source"] for entry in entries] == ["qmp"] * 30
    assert doors.most_open == survey_module._THROUGH_LIBVIRTD
    assert doors.open == 0


async def test_vms_of_libvirt_whose_turn_does_not_come_in_time_are_not_asked(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey_module, "_LIBVIRTD_FOR", -1)
    at_once = survey_module._THROUGH_LIBVIRTD
    vms = [libvirts()] * 30 + [vm("-name p -qmp unix:/m,server=on")]
    *entries, plain = await all_of(vms, held_by_libvirtd())
    assert [entry["source"] for entry in entries] == ["qmp"] * at_once + ["command line"] * (30 - at_once)
    assert "took all of the time" in (entries[-1]["problem"] or "")
    assert plain["source"] == "qmp"
    assert doors.tried.count("libvirtd") == at_once


async def test_a_vm_of_libvirt_without_a_known_socket(doors: Doors) -> None:
    doors.libvirtd = MonitorGoneError("the VM has ended")
    (entry,) = await all_of([libvirts("-name a")], Table())
    assert (doors.tried, entry["problem"]) == (["libvirtd"], "no QMP socket; the VM has ended")
