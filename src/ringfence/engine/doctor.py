"""What a VM can do as it was started, and which option each missing thing needs."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from ringfence.core.knob import Makes
from ringfence.core.model import Vm
from ringfence.engine.api import OpenVm, open_vm
from ringfence.errors import AgentAbsentError, RingfenceError


class Health(StrEnum):
    """How it stands with one thing."""

    OK = "ok"
    ADVICE = "advice"
    MISSING = "missing"


class Finding(NamedTuple):
    """One thing looked at.

    :param about: what was looked at, such as `qmp`, `memory.target` or `agent`.
    :param text: what was found.
    :param fix: the option or command to add, empty when nothing is to be done.
    """

    about: str
    health: Health
    text: str
    fix: str = ""


AGENT_OPTIONS = (
    "-device virtio-serial-pci -chardev socket,id=ga0,path=/run/NAME.ga,server=on,wait=off"
    " -device virtserialport,chardev=ga0,name=org.qemu.guest_agent.0"
)


async def examine(vm: Vm) -> list[Finding]:
    """Look a VM over. Changes nothing, and raises nothing: what fails is a finding."""
    findings = _monitors(vm)
    try:
        opened = await open_vm(vm)
    except RingfenceError as error:
        return [*findings, Finding("qmp", Health.MISSING, error.message, error.hint)]
    async with opened:
        try:
            findings += [await _agent(opened), *await _knobs(opened)]
        except RingfenceError as error:
            findings.append(Finding("qmp", Health.MISSING, error.message, error.hint))
    return findings


def _monitors(vm: Vm) -> list[Finding]:
    count = len(vm.qmp_addresses)
    if count > 1:
        return [Finding("qmp", Health.OK, f"{count} QMP sockets: several clients can work side by side")]
    if count == 1:
        text = "one QMP socket, which serves one client at a time"
        fix = "-qmp unix:/run/NAME.qmp2,server=on,wait=off"
        return [Finding("qmp", Health.OK if vm.manager != "plain" else Health.ADVICE, text, fix)]
    return []


async def _agent(opened: OpenVm) -> Finding:
    if opened.info.agent is None:
        return Finding(
            "agent", Health.MISSING, "no guest agent channel: the guest cannot be asked or helped", AGENT_OPTIONS
        )
    try:
        agent = await opened.edges.agent()
        info = await agent.execute("guest-info", None, timeout_s=2.0)
    except AgentAbsentError as error:
        return Finding("agent", Health.MISSING, error.message, "install qemu-guest-agent in the guest")
    except RingfenceError as error:
        return Finding("agent", Health.MISSING, error.message, error.hint)
    able = {command["name"] for command in info["supported_commands"] if command["enabled"]}
    lacking = sorted({"guest-get-vcpus", "guest-set-vcpus"} - able)
    if lacking:
        fix = "allow them in the guest's /etc/qemu/qemu-ga.conf"
        return Finding("agent", Health.ADVICE, f"answers, but refuses {', '.join(lacking)}", fix)
    return Finding("agent", Health.OK, f"answers (qemu-ga {info['version']})")


async def _knobs(opened: OpenVm) -> list[Finding]:
    findings: list[Finding] = []
    for knob, parts in await opened.parts():
        if not parts and not isinstance(knob, Makes):
            findings.append(Finding(knob.prefix, Health.ADVICE, f"this VM has no {knob.prefix}"))
        for part in parts:
            first = knob.observation(part, knob.rows[0])
            about = f"{knob.prefix}.{part.name}" if part.name and len(knob.rows) > 1 else first.key
            if first.unavailable:
                fix = "; ".join(advice.option for advice in first.advice)
                findings.append(Finding(about, Health.MISSING, first.unavailable, fix))
                continue
            findings.append(Finding(about, Health.OK, f"can be changed, by {first.row.mechanism}"))
            findings += [Finding(about, Health.ADVICE, advice.why, advice.option) for advice in first.advice]
    return findings
