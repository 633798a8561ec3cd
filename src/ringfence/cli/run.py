"""`ringfence run`: start a VM with all that limits need later."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from ringfence.cli.output import line as say
from ringfence.cli.output import note

if TYPE_CHECKING:
    from ringfence.qemu.files import Files


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command()(run)


def run(
    name: Annotated[str, typer.Argument(help="The VM's name.", show_default=False)],
    memory: Annotated[str, typer.Option(help="Memory at the start.")] = "1GiB",
    max_memory: Annotated[
        str | None, typer.Option(help="Memory at most.", show_default="four times the memory")
    ] = None,
    virtio_mem: Annotated[
        str | None, typer.Option(help="Memory that virtio-mem can add.", show_default="no such device")
    ] = None,
    vcpus: Annotated[int, typer.Option(help="vCPUs at the start.")] = 1,
    max_vcpus: Annotated[int | None, typer.Option(help="vCPUs at most.", show_default="the host's CPUs")] = None,
    disk: Annotated[
        list[str] | None,
        typer.Option(help="FILE[,format=raw|qcow2] or nbd+unix://...; once for each.", show_default=False),
    ] = None,
    machine: Annotated[str, typer.Option(help="q35 or pc.")] = "q35",
    accel: Annotated[str, typer.Option(help="auto, kvm, tcg, or any value for QEMU's -accel.")] = "auto",
    qemu: Annotated[str, typer.Option(help="The QEMU program.", show_default="the one installed")] = "",
    group: Annotated[
        bool, typer.Option(help="Start it in a cgroup of its own: limits hold from the start.")
    ] = True,
    only_print: Annotated[bool, typer.Option("--print", help="Print the command line instead.")] = False,
    extra: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- QEMU ARGS]", help="Passed to QEMU; they win over ours.", show_default=False),
    ] = None,
) -> None:
    """Start a VM that can be fenced: balloon, guest agent, two monitors, room to plug memory, vCPUs and devices.

    QEMU takes this program's place, in the foreground; `-- -daemonize` sends it to the background.
    """
    import os
    import shlex

    from ringfence import units
    from ringfence.qemu import accel as accelerators
    from ringfence.qemu import launch
    from ringfence.qemu.disks import parse_disk

    qemu = qemu or launch.installed_qemu()
    memory_bytes = units.parse(units.BYTES, memory)
    virtio_mem_bytes = units.parse(units.BYTES, virtio_mem) if virtio_mem else 0
    backend = launch.object_properties(qemu, launch.RAM_BACKEND) if virtio_mem_bytes else ()
    chosen = accelerators.choose(qemu, accel)
    options = launch.VmOptions(
        name=name,
        files=_files(name),
        memory_bytes=memory_bytes,
        memory_max_bytes=_most(max_memory, memory_bytes, virtio_mem_bytes),
        virtio_mem_bytes=virtio_mem_bytes,
        qemu=qemu,
        machine=machine,
        accel=chosen.name,
        vcpus=vcpus,
        vcpus_max=max_vcpus or max(vcpus, os.cpu_count() or 1),
        disks=[parse_disk(text) for text in disk or ()],
        extra=extra or (),
    )
    line = launch.command_line(options, launch.device_properties(qemu, launch.BALLOON), backend)
    if only_print:
        say(shlex.join(line))
        return
    _tell(name, options.files, f"{chosen.name} ({chosen.reason})")
    _become(line, group=name if group else "")


def _most(asked: str | None, memory_bytes: int, virtio_mem_bytes: int) -> int:
    """The most that the VM's memory may come to; when nobody says, with room to grow."""
    from ringfence import units

    if asked:
        return units.parse(units.BYTES, asked)
    return max(4 * memory_bytes, memory_bytes + virtio_mem_bytes)


def _tell(name: str, files: Files, accelerator: str) -> None:
    from ringfence.qemu.launch import CONSOLE

    note(f"{name} under {accelerator}")
    note(f"QMP at {files.qmp}; its console: ringfence monitor {name} 'ringbuf_read {CONSOLE} 65536'")


def _enter_group(name: str) -> None:
    """Without rights to it the VM runs all the same, among the others."""
    from ringfence.errors import HostError
    from ringfence.host import inside

    try:
        trouble = inside.enter(name)
    except HostError as error:
        trouble = error.message
    if trouble:
        note(f"it has no group of its own yet ({trouble}): memory.limit would not count what it uses until then")


def _files(name: str) -> Files:
    """The VM's files, in a directory that is ready for its sockets.

    :raise UsageError: a VM of this name runs.
    """
    from ringfence.errors import UsageError
    from ringfence.qemu import running
    from ringfence.qemu.files import files_of
    from ringfence.qemu.paths import private_dir

    files = files_of("vm", name)
    private_dir(files.directory)
    pid = running.holder(files.pidfile)
    if pid is not None:
        raise UsageError(f"a VM {name} runs already (pid {pid})", hint="choose another name, or end that VM")
    return files


def _become(line: list[str], *, group: str) -> NoReturn:
    import os
    import signal
    import sys

    from ringfence.qemu.launch import missing_qemu

    if group:
        _enter_group(group)
    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and that would be inherited
    try:
        os.execvp(line[0], line)
    except OSError as error:
        raise missing_qemu(line[0], error) from error
