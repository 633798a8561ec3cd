"""`ringfence doctor [VM]`: what this host and its VMs can do, and what to add for what is missing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.cli import completion, target
from ringfence.cli.output import Format, console, emit, printable

if TYPE_CHECKING:
    from ringfence.core.model import Vm
    from ringfence.engine.doctor import Finding


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(name="doctor")(doctor)


def doctor(
    vm: Annotated[
        str | None, typer.Argument(metavar="[VM]", help=target.VM_HELP, autocompletion=completion.vm_names)
    ] = None,
    qmp: Annotated[str | None, typer.Option("--qmp", help=target.QMP_HELP)] = None,
    timeout: Annotated[str | None, typer.Option("--timeout", help=target.TIMEOUT_HELP)] = None,
    output: Annotated[Format, typer.Option("-o", "--output", help="how to print")] = Format.TABLE,
) -> None:
    """What this host and its VMs can do, and the option to add for what is missing. Changes nothing.

    Exit code: 0 also when something is missing; 2 bad request.
    """
    from ringfence.qemu.discovery import find_vms

    limits = target.deadlines(timeout)
    named = vm is not None or qmp is not None
    vms = [target.find(vm, qmp)] if named else find_vms()
    report: dict[str, Sequence[Finding]] = {} if named else {"this host": _host()}
    report |= asyncio.run(_examine(vms, limits))
    data = [
        {"subject": subject, "about": f.about, "health": str(f.health), "text": f.text, "fix": f.fix or None}
        for subject, findings in report.items()
        for f in findings
    ]
    emit(data, output, lambda: _render(report))


async def _examine(vms: Sequence[Vm], limits: target.Deadlines) -> dict[str, Sequence[Finding]]:
    from ringfence.engine.doctor import examine

    found = await asyncio.gather(*(examine(vm, **limits) for vm in vms))
    return {_subject(vm): findings for vm, findings in zip(vms, found, strict=True)}


def _subject(vm: Vm) -> str:
    return f"VM {vm.name} (pid {vm.pid})" if vm.pid else f"VM {vm.name}"


def _host() -> list[Finding]:
    import shutil

    from ringfence.engine.doctor import Finding, Health
    from ringfence.qemu.accel import probe_kvm
    from ringfence.qemu.launch import find_qemu

    qemu = find_qemu()
    if qemu is None:
        fix = "apt install qemu-system-x86"
        return [Finding("qemu", Health.MISSING, "no QEMU for this machine's architecture found", fix)]
    findings = [Finding("qemu", Health.OK, str(qemu))]
    kvm = probe_kvm(qemu)
    health = Health.OK if kvm.works else Health.ADVICE
    findings.append(
        Finding("kvm", health, kvm.reason if kvm.works else f"{kvm.reason}; VMs run without it, many times slower")
    )
    if shutil.which("mke2fs", path="/usr/sbin:/sbin:/usr/bin:/bin") is None:
        findings.append(Finding("lab", Health.MISSING, "no mke2fs for the lab's disks", "apt install e2fsprogs"))
    return findings + _drives()


def _drives() -> list[Finding]:
    """Of each NVMe drive, the best way that it has to hold tenants apart, and the others."""
    from ringfence.engine.doctor import Finding, Health
    from ringfence.flash.drives import abilities
    from ringfence.host.nvme import find_drives

    findings = []
    for drive in find_drives():
        best, *others = abilities(drive)
        text = f"{drive.model}: tenants apart by {best.kind}, which part {best.isolates}"
        if others:
            text += f"; also by {', '.join(ability.kind for ability in others)}"
        if not drive.known:
            text += "; it may have more"
            findings.append(Finding(drive.name, Health.ADVICE, text, "apt install nvme-cli, and run as root"))
        else:
            findings.append(Finding(drive.name, Health.OK, text, best.command))
    return findings


_STYLES: Mapping[str, str] = {"ok": "green", "advice": "yellow", "missing": "red"}


def _render(report: Mapping[str, Sequence[Finding]]) -> None:
    from rich.table import Table
    from rich.text import Text

    out = console()
    for subject, findings in report.items():
        title = printable(subject)
        table = Table(box=None, pad_edge=False, show_header=False, title=title, title_justify="left")
        for f in findings:
            text = Text(printable(f.text))
            if f.fix:
                text.append("\nfix: ", style="dim").append(printable(f.fix))
            table.add_row(Text(f.health, style=_STYLES[f.health]), printable(f.about), text)
        out.print(table)
        out.print()
