"""What a VM can do as it was started, and which option each missing thing needs."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from ringfence.core.answers import entries, fields, text
from ringfence.core.knob import Knob, Makes, Part
from ringfence.core.model import Vm
from ringfence.core.requests import Agent, Steps
from ringfence.engine.api import OpenVm, open_vm
from ringfence.engine.doors import GREETING_TIMEOUT_S
from ringfence.engine.driver import ANSWER_TIMEOUT_S, observe
from ringfence.errors import AgentAbsentError, RingfenceError
from ringfence.knobs import registry


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


async def examine(
    vm: Vm, *, greeting_timeout_s: float = GREETING_TIMEOUT_S, answer_timeout_s: float = ANSWER_TIMEOUT_S
) -> list[Finding]:
    """Look a VM over. Changes nothing, and raises nothing: what fails is a finding. Deadlines as in `open_vm`."""
    findings = _monitors(vm)
    try:
        opened = await open_vm(vm, greeting_timeout_s=greeting_timeout_s, answer_timeout_s=answer_timeout_s)
    except RingfenceError as error:
        return [*findings, _failed("qmp", error)]
    async with opened:
        findings.append(await _agent(vm, opened))
        for knob in registry.knobs():
            try:
                parts = await observe(knob.observe(), opened.edges)
            except RingfenceError as error:
                failed = _failed(knob.prefix, error)
                findings += [failed] if failed not in findings else []
            else:
                findings += [found for found in _knob(knob, parts) if found not in findings]
    return findings


def _failed(about: str, error: RingfenceError) -> Finding:
    return Finding(about, Health.MISSING, error.message, error.hint)


def _monitors(vm: Vm) -> list[Finding]:
    count = len(vm.qmp_addresses)
    if count > 1:
        return [Finding("qmp", Health.OK, f"{count} QMP sockets: several clients can work side by side")]
    if count == 1:
        text = "one QMP socket, which serves one client at a time"
        fix = "-qmp unix:/run/NAME.qmp2,server=on,wait=off"
        return [Finding("qmp", Health.OK if vm.manager != "plain" else Health.ADVICE, text, fix)]
    return []


async def _agent(vm: Vm, opened: OpenVm) -> Finding:
    if vm.agent is None:
        return Finding(
            "agent", Health.MISSING, "no guest agent channel: the guest cannot be asked or helped", AGENT_OPTIONS
        )
    try:
        version, able = await observe(_agent_info(), opened.edges)
    except AgentAbsentError as error:
        return Finding("agent", Health.MISSING, error.message, "install qemu-guest-agent in the guest")
    except RingfenceError as error:
        return _failed("agent", error)
    lacking = sorted({"guest-get-vcpus", "guest-set-vcpus"} - able)
    if lacking:
        fix = "allow them in the guest's /etc/qemu/qemu-ga.conf"
        return Finding("agent", Health.ADVICE, f"answers, but refuses {', '.join(lacking)}", fix)
    return Finding("agent", Health.OK, f"answers (qemu-ga {version})")


def _agent_info() -> Steps[tuple[str, set[str]]]:
    """The agent's version, and the commands it carries out."""
    info = yield Agent("guest-info", timeout_s=2.0)
    able = {text(command["name"]) for command in entries(info["supported_commands"]) if command["enabled"]}
    return text(fields(info)["version"]), able


def _knob(knob: Knob, parts: tuple[Part, ...]) -> list[Finding]:
    findings: list[Finding] = []
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
