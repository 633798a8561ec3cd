"""`ringfence lab`: real guests to try things on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.cli import completion
from ringfence.cli.output import Format, emit, note

if TYPE_CHECKING:
    from ringfence.lab.demo import Demo
    from ringfence.lab.guest import Guest

_FORMAT = typer.Option("-o", "--output", help="How to print.")
_NEW_NAME = typer.Argument(help="The guest's name.", show_default=False)
_NAME = typer.Argument(help="The guest's name.", show_default=False, autocompletion=completion.guest_names)

_lab = typer.Typer(
    no_args_is_help=True,
    help="Real Linux guests to try things on: made from the distribution's packages, up in seconds, without root.",
)


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.add_typer(_lab, name="lab")


@_lab.command()
def up(
    name: Annotated[str, _NEW_NAME],
    vcpus: Annotated[int, typer.Option(help="vCPUs at the start.")] = 1,
    max_vcpus: Annotated[int, typer.Option(help="vCPUs at most.")] = 4,
    memory: Annotated[str, typer.Option(help="Memory at the start.")] = "512MiB",
    max_memory: Annotated[str, typer.Option(help="Memory at most.")] = "4GiB",
    virtio_mem: Annotated[
        str | None, typer.Option(help="Memory that virtio-mem can add.", show_default="no such device")
    ] = None,
    disk: Annotated[
        list[str] | None, typer.Option(help="Size of an empty disk, or an NBD URI; once for each.")
    ] = None,
    machine: Annotated[str, typer.Option(help="q35 or pc.")] = "q35",
    accel: Annotated[str, typer.Option(help="auto, or a value for QEMU's -accel.")] = "auto",
    qemu: Annotated[str, typer.Option(help="The QEMU program.", show_default="the one installed")] = "",
    kernel_option: Annotated[
        list[str] | None, typer.Option(help="For the guest's kernel, such as ringfence.balloon=0; once for each.")
    ] = None,
    extra: Annotated[
        list[str] | None, typer.Argument(metavar="[-- QEMU ARGS]", help="Passed to QEMU.", show_default=False)
    ] = None,
) -> None:
    """Start a guest and wait until it answers. It runs on until `lab down`."""
    import asyncio

    from ringfence import units
    from ringfence.lab.guest import GuestSpec
    from ringfence.lab.guest import up as start
    from ringfence.qemu.disks import URIS

    memory_bytes = units.parse(units.BYTES, memory)
    spec = GuestSpec(
        name=name,
        vcpus=vcpus,
        vcpus_max=max(vcpus, max_vcpus),
        memory_bytes=memory_bytes,
        memory_max_bytes=max(memory_bytes, units.parse(units.BYTES, max_memory)),
        virtio_mem_bytes=units.parse(units.BYTES, virtio_mem) if virtio_mem else 0,
        disks_bytes=[units.parse(units.BYTES, size) for size in disk or () if not size.startswith(URIS)],
        served_disks=[uri for uri in disk or () if uri.startswith(URIS)],
        accel=accel,
        machine=machine,
        qemu=qemu,
        kernel_options=kernel_option or (),
        extra=extra or (),
    )
    guest = asyncio.run(start(spec, say=note))
    note(f"{name} is up: pid {guest.pid}, QMP at {guest.files.qmp}, console in {guest.files.serial}")


@_lab.command()
def run(
    name: Annotated[str, _NAME],
    command: Annotated[
        list[str],
        typer.Argument(metavar="-- COMMAND...", help="A command; one word with blanks is shell text."),
    ],
    timeout: Annotated[str, typer.Option(help="How long it may take.")] = "10min",
) -> None:
    """Run a command in a guest. Its exit code becomes ours; standard input is passed unless it is a terminal."""
    import asyncio
    import sys

    from ringfence import units
    from ringfence.lab.guest import find_guest

    timeout_s = units.parse_seconds(timeout)
    guest = find_guest(name)
    stdin = b"" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer.read()
    shell_text = len(command) == 1 and any(letter.isspace() for letter in command[0])
    done = asyncio.run(guest.run(command[0] if shell_text else command, stdin=stdin, timeout_s=timeout_s))
    sys.stdout.buffer.write(done.stdout)
    sys.stdout.buffer.flush()
    sys.stderr.buffer.write(done.stderr)
    if done.truncated:
        note("the guest agent dropped output past 16 MiB")
    raise typer.Exit(done.exit_code if done.exit_code >= 0 else 128 - done.exit_code)


@_lab.command()
def down(
    name: Annotated[str | None, _NAME] = None,
    every: Annotated[bool, typer.Option("--all", help="Every guest of this user.")] = False,
) -> None:
    """End guests and remove all they had, disks included."""
    import asyncio

    from ringfence.errors import UsageError
    from ringfence.lab.guest import find_guest, list_guests

    if (name is None) is not every:
        raise UsageError("say which guest", hint="give one name, or --all")
    guests = list_guests() if name is None else (find_guest(name),)

    async def end() -> None:
        await asyncio.gather(*(guest.down() for guest in guests))

    asyncio.run(end())
    for guest in guests:
        note(f"{guest.name} is gone")


@_lab.command()
def demo(
    json_: Annotated[bool, typer.Option("--json", help="One JSON document instead of the table.")] = False,
    accel: Annotated[str, typer.Option(help="auto, or a value for QEMU's -accel.")] = "auto",
) -> None:
    """The main job on a real guest: change its limits while it runs, and measure inside it that they hold."""
    import asyncio

    from ringfence.lab.demo import run as run_demo

    found = asyncio.run(run_demo(note, accel=accel))
    emit(found.as_data(), Format.JSON if json_ else Format.TABLE, lambda: _render_demo(found))
    raise typer.Exit(0 if found.ok else 1)


def _render_demo(found: Demo) -> None:
    from rich.table import Table
    from rich.text import Text

    from ringfence import units
    from ringfence.cli.output import console
    from ringfence.lab.demo import shown

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in (
        "KNOB",
        "BEFORE",
        "ASKED",
        "QEMU SAYS",
        "MEASURED INSIDE THE GUEST",
        "OFF BY",
        "VERDICT",
        "TOOK",
    ):
        table.add_column(title)
    for row in found.rows:
        verdict = Text(row.verdict) if row.holds else Text(f"{row.verdict}, does not hold", style="red")
        values = [shown(row, value) for value in (row.before, row.asked, row.actual)]
        took = units.format_seconds(row.took_ms / 1e3)
        table.add_row(row.knob, *values, row.evidence, f"{row.error_pct:.1f} %", verdict, took)
    console().print(table)
    for text in found.left_out:
        console().print(f"left out: {text}")
    held = sum(row.holds for row in found.rows)
    console().print(f"{held} of {len(found.rows)} rows hold. QEMU {found.qemu}, accelerator {found.accel}.")


@_lab.command()
def qemu(
    suite: Annotated[str, typer.Argument(help="Of this distribution, such as trixie.", show_default=False)],
) -> None:
    """Fetch the QEMU of another suite, without installing it, and print the program's path for --qemu."""
    import sys

    from ringfence.lab.qemus import ensure_qemu

    sys.stdout.write(f"{ensure_qemu(suite, note)}\n")


@_lab.command("ls")
def list_(output: Annotated[Format, _FORMAT] = Format.TABLE) -> None:
    """List this user's guests."""
    from ringfence.lab.guest import list_guests

    guests = list_guests()

    def render() -> None:
        from rich.table import Table

        from ringfence import units
        from ringfence.cli.output import console

        table = Table(box=None, pad_edge=False)
        for title in ("NAME", "PID", "ACCEL", "MEMORY", "QMP"):
            table.add_column(title)
        for guest in guests:
            memory = units.format_bytes(guest.memory_bytes)
            table.add_row(guest.name, str(guest.pid or "ended"), guest.accel, memory, str(guest.files.qmp))
        console().print(table)

    emit([_row(guest) for guest in guests], output, render)


def _row(guest: Guest) -> dict[str, str | int | None]:
    return {
        "name": guest.name,
        "pid": guest.pid,
        "accel": guest.accel,
        "memory_bytes": guest.memory_bytes,
        "qmp": guest.files.qmp.path,
        "agent": guest.files.agent.path,
        "console": str(guest.files.serial),
    }
