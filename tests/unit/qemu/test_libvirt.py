"""QMP through libvirtd, on a virsh of our own whose output was recorded from virsh 9.0.0."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringfence.core.model import Address, Monitor, Vm
from ringfence.engine.doors import open_session
from ringfence.errors import (
    MonitorBusyError,
    MonitorError,
    MonitorGoneError,
    MonitorProtocolError,
    MonitorRefusedError,
    MonitorTimeoutError,
)
from ringfence.qemu.discovery import vm_at
from ringfence.qemu.libvirt import LibvirtSession, is_own_socket, uri_of
from ringfence.qemu.libvirt_events import parse_event
from ringfence.testing.fake_qemu import FakeQemu

STATUS = '{"return":{"status":"prelaunch","singlestep":false,"running":false},"id":"libvirt-5832"}\n\n'
NO_SUCH = '{"id":"libvirt-5833","error":{"class":"CommandNotFound","desc":"The command x has not been found"}}\n'
VERSION = '{"return":{"qemu":{"micro":22,"minor":2,"major":7},"package":"Debian"},"id":"libvirt-7"}\n\n'
STOP = "2026-11-23 03:23:34.875+0000: event STOP for domain 'web1': <null>\n"
BALLOON = "2026-11-23 03:23:35.000+0000: event BALLOON_CHANGE for domain 'web1': {\"actual\":1}\n"
OWN = Address("/var/lib/libvirt/qemu/domain-1-web1/monitor.sock")

SCRIPT = """#!/bin/sh
cd "$(dirname "$0")"
echo $$ >> pids
printf '%s\\n' "$*" >> asked
case "$*" in *qemu-monitor-event*) cat events; exec sleep 60;; esac
[ -e silent ] && exec sleep 60
cat out
cat err >&2
exit "$(cat code)"
"""


class FakeVirsh:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "virsh").write_text(SCRIPT)
        (folder / "virsh").chmod(0o755)
        self.says("")
        self.write("events", "")
        self.write("pids", "")

    def write(self, name: str, text: str) -> None:
        (self._folder / name).write_text(text)

    def says(self, out: str, err: str = "", code: int = 0) -> None:
        for name, text in (("out", out), ("err", err), ("code", str(code))):
            self.write(name, text)

    @property
    def asked(self) -> list[str]:
        return (self._folder / "asked").read_text().splitlines()

    def alive(self) -> list[str]:
        pids = (self._folder / "pids").read_text().split()
        return [pid for pid in pids if os.path.exists(f"/proc/{pid}")]


@pytest.fixture
def virsh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeVirsh]:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    fake = FakeVirsh(tmp_path)
    yield fake
    assert fake.alive() == [], "a virsh was left behind"


def vm(*addresses: Address, pid: int = 0) -> Vm:
    monitors = tuple(Monitor("qmp", address, str(address)) for address in addresses)
    return vm_at(Address("/nowhere"))._replace(
        name="web1", pid=pid, uuid="d390f369", monitors=monitors, manager="libvirt"
    )


def session(pid: int = 0) -> LibvirtSession:
    return LibvirtSession("qemu:///system", "d390f369", pid)


async def test_execute(virsh: FakeVirsh) -> None:
    virsh.says(STATUS)
    assert (await session().execute("query-status", {"a": "it's"}))["status"] == "prelaunch"
    assert virsh.asked == [
        '-q -c qemu:///system qemu-monitor-command d390f369 {"execute":"query-status","arguments":{"a":"it\'s"}}'
    ]


async def test_several_commands_are_one_virsh(virsh: FakeVirsh) -> None:
    virsh.says(STATUS + STATUS)
    answers = await session().execute_all([("query-status", None), ("b", {"x": "it's"})])
    assert [answer["status"] for answer in answers] == ["prelaunch"] * 2
    assert virsh.asked == [
        '-q -c qemu:///system qemu-monitor-command d390f369 \'{"execute":"query-status"}\';'
        'qemu-monitor-command d390f369 \'{"execute":"b","arguments":{"x":"it\\u0027s"}}\''
    ]
    assert await session().execute_all([]) == []


async def test_refused_by_qemu(virsh: FakeVirsh) -> None:
    virsh.says(NO_SUCH)
    with pytest.raises(MonitorRefusedError, match="refused x: The command x") as caught:
        await session().execute("x")
    assert caught.value.error_class == "CommandNotFound"


async def test_the_first_of_several_refusals_is_raised(virsh: FakeVirsh) -> None:
    virsh.says(STATUS + NO_SUCH)
    with pytest.raises(MonitorRefusedError, match="refused x"):
        await session().execute_all([("query-status", None), ("x", None)])


async def test_refused_by_libvirt(virsh: FakeVirsh) -> None:
    virsh.says("", "error: failed to connect to the hypervisor\nerror: access denied\n", 1)
    with pytest.raises(MonitorError, match="failed to connect to the hypervisor; access denied"):
        await session(os.getpid()).execute("query-status")


async def test_the_vm_has_ended(virsh: FakeVirsh) -> None:
    virsh.says("", "error: failed to get domain 'd390f369'\n", 1)
    with pytest.raises(MonitorGoneError):
        await session(1 << 22).execute("query-status")


@pytest.mark.parametrize("out", ["", "what\n", "[1]\n", '{"error":1}\n', STATUS + STATUS])
async def test_not_an_answer(virsh: FakeVirsh, out: str) -> None:
    virsh.says(out)
    with pytest.raises(MonitorProtocolError):
        await session().execute("query-status")


async def test_no_answer_in_time(virsh: FakeVirsh) -> None:
    virsh.write("silent", "")
    with pytest.raises(MonitorTimeoutError):
        await session().execute("query-status", timeout_s=0.2)


async def test_hmp(virsh: FakeVirsh) -> None:
    virsh.says('{"return":"a\\r\\nb\\r\\n"}\n')
    assert await session().hmp("info x") == "a\nb\n"


async def test_no_virsh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MonitorError, match="virsh cannot be run") as caught:
        await LibvirtSession.open(vm(OWN))
    assert "libvirt-clients" in caught.value.hint


async def test_events(virsh: FakeVirsh) -> None:
    virsh.write("events", STOP + "odd line\n" + BALLOON)
    door = session()
    with door.listen() as every, door.listen(["BALLOON_CHANGE"]) as one:
        first, second, named = await every.get(9), await every.get(9), await one.get(9)
        assert await one.get(0) is None
        assert await one.get(0.01) is None
    await door.close()
    assert [first and first["event"], second and second["event"]] == ["STOP", "BALLOON_CHANGE"]
    assert named == second
    assert "-q -c qemu:///system qemu-monitor-event --domain d390f369 --loop --timestamp" in virsh.asked


async def test_the_end_of_qemu_ends_the_listening(virsh: FakeVirsh) -> None:
    process = await asyncio.create_subprocess_exec("sleep", "60")
    door = session(process.pid)
    with door.listen() as listener:
        assert await listener.get(0.05) is None
        process.kill()
        with pytest.raises(MonitorGoneError):
            await listener.get(None)
    await process.wait()
    await door.close()


async def test_listening_to_a_vm_that_has_ended(virsh: FakeVirsh) -> None:
    process = await asyncio.create_subprocess_exec("true")
    await process.wait()
    door = session(process.pid)
    with door.listen() as listener, pytest.raises(MonitorGoneError):
        await listener.get(None)
    await door.close()


def test_parse_event() -> None:
    assert parse_event(STOP) == {"event": "STOP", "timestamp": {"seconds": 1795404214, "microseconds": 875000}}
    assert (parse_event(BALLOON) or {})["data"] == {"actual": 1}
    assert parse_event("events received: 3") is None


def test_which_libvirt() -> None:
    assert uri_of(vm(OWN)) == "qemu:///system"
    assert uri_of(vm()) == "qemu:///system"
    mine = Address("/home/me/.config/libvirt/qemu/lib/domain-1-web1/monitor.sock")
    assert uri_of(vm(Address("/run/web1.qmp"), mine)) == "qemu:///session"
    assert is_own_socket(mine)
    assert not is_own_socket(Address("/run/web1.qmp"))


# Which door


async def test_a_socket_beside_libvirts_goes_first(virsh: FakeVirsh, tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu:
        door = await open_session(vm(OWN, qemu.address))
        assert str(door.address) == qemu.address.path
        await door.close()


async def test_libvirt_when_the_other_socket_is_busy(virsh: FakeVirsh, tmp_path: Path) -> None:
    virsh.says(VERSION)
    async with FakeQemu(tmp_path / "q", greeting=None) as qemu:
        door = await open_session(vm(OWN, qemu.address), timeout_s=1)
    assert str(door.address) == "libvirt at qemu:///system"
    assert door.greeting["version"]["qemu"]["major"] == 7
    await door.close()


async def test_libvirts_own_socket_when_libvirtd_is_gone(virsh: FakeVirsh, tmp_path: Path) -> None:
    virsh.says("", "error: failed to connect\n", 1)
    path = tmp_path / "libvirt/qemu/domain-1-web1/monitor.sock"
    path.parent.mkdir(parents=True)
    async with FakeQemu(path) as qemu:
        door = await open_session(vm(qemu.address))
        assert str(door.address) == qemu.address.path
        await door.close()


async def test_neither_libvirt_nor_its_socket(virsh: FakeVirsh, tmp_path: Path) -> None:
    virsh.says("", "error: access denied\n", 1)
    path = tmp_path / "libvirt/qemu/domain-1-web1/monitor.sock"
    path.parent.mkdir(parents=True)
    async with FakeQemu(path, greeting=None) as qemu:
        with pytest.raises(MonitorBusyError) as caught:
            await open_session(vm(qemu.address), timeout_s=0.3)
    assert "access denied" in caught.value.hint
