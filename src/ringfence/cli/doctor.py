"""`ringfence doctor [VM]`: what this host and its VMs can do, and what to add for what is missing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.cli import completion, target
from ringfence.cli.output import Format, console, emit

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
    output: Annotated[Format, typer.Option("-o", "--output", help="how to print")] = Format.TABLE,
) -> None:
    """What this host and its VMs can do, and the option to add for what is missing. Changes nothing."""
    from ringfence.qemu.discovery import find_vms

    named = vm is not None or qmp is not None
    vms = [target.find(vm, qmp)] if named else find_vms()
    report: dict[str, Sequence[Finding]] = {} if named else {"this host": _host()}
    report |= asyncio.run(_examine(vms))
    data = [
        {"subject": subject, "about": f.about, "health": str(f.health), "text": f.text, "fix": f.fix or None}
        for subject, findings in report.items()
        for f in findings
    ]
    emit(data, output, lambda: _render(report))


async def _examine(vms: Sequence[Vm]) -> dict[str, Sequence[Finding]]:
    from ringfence.engine.doctor import examine

    found = await asyncio.gather(*(examine(vm) for vm in vms))
    return {f"VM {vm.name} (pid {vm.pid})": findings for vm, findings in zip(vms, found, strict=True)}


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
    return findings


_STYLES: Mapping[str, str] = {"ok": "green", "advice": "yellow", "missing": "red"}


def _render(report: Mapping[str, Sequence[Finding]]) -> None:
    from rich.table import Table

    out = console()
    for subject, findings in report.items():
        table = Table(box=None, pad_edge=False, show_header=False, title=subject, title_justify="left")
        for f in findings:
            text = f"{f.text}\n[dim]add:[/dim] {f.fix}" if f.fix else f.text
            table.add_row(f"[{_STYLES[f.health]}]{f.health}[/]", f.about, text)
        out.print(table)
        out.print()
