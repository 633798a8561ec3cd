"""What is found of a VM, and which option each missing thing needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ringfence.core.model import Address, Monitor, Vm
from ringfence.engine.doctor import Finding, Health, examine
from ringfence.qemu.discovery import vm_at
from ringfence.testing.fake_agent import FakeAgent
from ringfence.testing.fake_qemu import FakeQemu
from ringfence.testing.obedient_vm import ObedientVm
from ringfence.testing.script import Refuse

ABLE = {"supported_commands": [{"name": f"guest-{verb}-vcpus", "enabled": True} for verb in ("get", "set")]}


async def found(folder: Path, vm: ObedientVm, *, agent: Any = None, **about: Any) -> dict[str, list[Finding]]:
    """The findings on a VM, by what they are about."""
    guest = {"guest-get-vcpus": [{"logical-id": 0, "online": True}], "guest-info": agent}
    async with FakeQemu(folder / "q", vm.answers) as qemu, FakeAgent(folder / "ga", guest) as channel:
        info = vm_at(qemu.address)._replace(agent=channel.address if agent else None, **about)
        findings = await examine(info)
    return {name: [f for f in findings if f.about == name] for name in {f.about for f in findings}}


async def test_a_vm_that_can_do_all(tmp_path: Path, vm: ObedientVm) -> None:
    monitors = tuple(Monitor("qmp", Address(str(tmp_path / name)), name) for name in ("q", "q2"))
    findings = await found(tmp_path, vm, agent={"version": "9.9", **ABLE}, monitors=monitors)
    elsewhere = (
        "cache.l3",
        "cpu.cap",
        "cpu.vcpus.cap",
        "memory.limit",
        "memory.oom_score",
        "pids.limit",
        "cpu.pin",
    )
    assert {findings.pop(key)[0].health for key in elsewhere} == {Health.MISSING}, "its process is not here"
    for key in ("cpu.vcpu", "cpu.emulator_pin", "pressure.cpu"):
        findings.pop(key)
    findings.pop("net")
    assert {name: rows[0].health for name, rows in findings.items()} == dict.fromkeys(
        (
            *("qmp", "agent", "memory.target", "memory.deflate_on_oom", "vcpus"),
            *(f"disk.{disk}{leaf}" for disk in ("vda", "vdb") for leaf in ("", ".pool", ".latency_histogram")),
        ),
        Health.OK,
    )
    assert "qemu-ga 9.9" in findings["agent"][0].text


async def test_the_only_socket_is_advised_against_but_not_under_a_manager(tmp_path: Path, vm: ObedientVm) -> None:
    (plain,) = (await found(tmp_path, vm))["qmp"]
    assert (plain.health, "-qmp unix:" in plain.fix) == (Health.ADVICE, True)
    (managed,) = (await found(tmp_path, vm, manager="libvirt"))["qmp"]
    assert managed.health is Health.OK


async def test_what_is_missing_comes_with_its_option(tmp_path: Path, vm: ObedientVm) -> None:
    vm.answers |= {"qom-list": [], "query-hotpluggable-cpus": Refuse("GenericError", "no"), "query-block": []}
    findings = await found(tmp_path, vm)
    assert "org.qemu.guest_agent.0" in findings["agent"][0].fix
    assert "virtio-balloon-pci" in findings["memory.target"][0].fix
    assert findings["vcpus"][0].fix == "-machine q35"
    assert findings["disk"] == [Finding("disk", Health.ADVICE, "this VM has no disk")]


@pytest.mark.parametrize(
    ("agent", "health", "words"),
    [
        ({"version": "1", "supported_commands": []}, Health.ADVICE, "refuses guest-get-vcpus, guest-set-vcpus"),
        (Refuse("CommandNotFound", "no"), Health.MISSING, "refused guest-info"),
        ({"version": "1"}, Health.MISSING, "has no 'supported_commands'"),
    ],
)
async def test_an_agent_that_does_not_help(
    tmp_path: Path, vm: ObedientVm, agent: object, health: Health, words: str
) -> None:
    (finding,) = (await found(tmp_path, vm, agent=agent))["agent"]
    assert finding.health is health
    assert words in finding.text
    assert finding.fix


async def test_a_vm_that_cannot_be_asked(tmp_path: Path) -> None:
    def only(*monitors: Monitor) -> Vm:
        return vm_at(Address("/nowhere"))._replace(monitors=monitors)

    (nothing,) = await examine(only())
    assert (nothing.about, nothing.health, "-qmp unix:" in nothing.fix) == ("qmp", Health.MISSING, True)
    *_, gone = await examine(only(Monitor("qmp", Address(str(tmp_path / "gone")), "gone")))
    assert (gone.health, "nobody listens" in gone.text) == (Health.MISSING, True)
