"""`ringfence monitor VM`: QEMU's own monitor, HMP or QMP, at a prompt, for one command, or for a script."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ringfence.cli import completion, monitor_batch, target
from ringfence.errors import UsageError

if TYPE_CHECKING:
    from ringfence.cli.monitor_console import Console, Sent
    from ringfence.core.model import Address, Vm


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(name="monitor", epilog="Example: ringfence monitor web1 'info block' 'balloon 512'")(monitor)


def monitor(
    vm: Annotated[
        str | None,
        typer.Argument(
            metavar="[VM]", help=target.VM_HELP + ", or of its human monitor", autocompletion=completion.vm_names
        ),
    ] = None,
    commands: Annotated[
        list[str] | None,
        typer.Argument(metavar="[COMMAND]...", help="carry these out and leave; quote one that has arguments"),
    ] = None,
    qmp: Annotated[bool, typer.Option("--qmp", help="QMP: COMMAND key=value ..., or JSON")] = False,
    hmp: Annotated[bool, typer.Option("--hmp", help="the human monitor, which is the default")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="show the QMP that is sent, too")] = False,
    keep_going: Annotated[bool, typer.Option("--keep-going", help="do not stop at a command that fails")] = False,
    timeout: Annotated[
        str | None, typer.Option("--timeout", help="how long a command may take [default: as long as it takes]")
    ] = None,
    no_events: Annotated[bool, typer.Option("--no-events", help="do not show events at the prompt")] = False,
    vnc: Annotated[
        str | None,
        typer.Option(
            metavar="SERVER", help="instead of VM: type on its console, by VNC at HOST:DISPLAY, unix:PATH"
        ),
    ] = None,
    password_file: Annotated[str | None, typer.Option(metavar="FILE", help="the VNC server's password")] = None,
    tmux: Annotated[
        str | None,
        typer.Option(metavar="PANE", help="instead of VM: type on its curses display, in a pane of tmux"),
    ] = None,
) -> None:
    """QEMU's own monitor: at a prompt, for the commands given, or for a script on standard input, a line each.

    HMP (info block, balloon 512, ...) goes over a QMP socket of the VM, or over a socket of its own. It has no
    error codes: a command counts as failed when QEMU answers `Error: ...`, `unknown command: ...` or that its
    arguments cannot be read; some commands tell of a failure in other words, and count as done. The text of a
    failure goes to standard error. With --qmp, what a command returns is printed as JSON.

    At the prompt Tab completes, Ctrl-D leaves, and quit, which ends the VM, must be given twice.

    Exit code: 0 done; 2 bad request; 3 this VM has no such monitor; 4 QEMU said no, is gone, or serves another
    client.
    """
    if qmp and hmp:
        raise UsageError("--qmp and --hmp exclude each other")
    lines = list(commands or [])
    limit_s = None if timeout is None else target.timeout(timeout)
    if vnc is not None or tmux is not None:
        if qmp or (vnc is not None and tmux is not None):
            raise UsageError("a console has the human monitor only, and is reached by --vnc or by --tmux")
        # There is no VM to name, so the first word is a command.
        lines = lines if vm is None else [vm, *lines]
        way = partial(_on_screen, vnc, password_file, tmux, limit_s)
    elif vm is None or password_file is not None:
        raise UsageError("which VM?", hint="`ringfence ps` lists them; --password-file goes with --vnc")
    else:
        sent = _write_out if _is_interactive(lines) else _write_err
        way = partial(_on_socket, *_find(vm), qmp=qmp, sent=sent if verbose else None, limit_s=limit_s)
    raise typer.Exit(asyncio.run(_monitor(way, lines, keep_going=keep_going, events=not no_events)))


def _find(selector: str) -> tuple[Vm, Address | None]:
    """The VM, and its socket when that is what it was named by."""
    from ringfence.qemu import discovery

    address = target.socket_named(selector)
    return (discovery.find_vm(selector) if address is None else discovery.vm_at(address)), address


async def _open(
    vm: Vm, address: Address | None, *, qmp: bool, sent: Sent | None, limit_s: float | None
) -> Console:
    from ringfence.cli.monitor_open import open_console
    from ringfence.engine.doors import GREETING_TIMEOUT_S

    if limit_s is None:
        return await open_console(vm, address, qmp=qmp, sent=sent)
    greeting_s = min(limit_s, GREETING_TIMEOUT_S)
    console = await open_console(vm, address, qmp=qmp, sent=sent, timeout_s=greeting_s)
    console.limit_s = limit_s
    return console


async def _on_screen(
    vnc: str | None, password_file: str | None, tmux: str | None, limit_s: float | None
) -> tuple[str, Console]:
    """The name to greet with, and the console."""
    from ringfence.cli import monitor_open

    if vnc is not None:
        console = await monitor_open.open_vnc(vnc, password_file)
    else:
        console = await monitor_open.open_tmux(tmux or "")
    if limit_s is not None:
        console.limit_s = limit_s
    return console.address, console


async def _on_socket(
    vm: Vm, address: Address | None, *, qmp: bool, sent: Sent | None, limit_s: float | None
) -> tuple[str, Console]:
    return vm.name, await _open(vm, address, qmp=qmp, sent=sent, limit_s=limit_s)


async def _monitor(
    way: Callable[[], Coroutine[Any, Any, tuple[str, Console]]],
    commands: Sequence[str],
    *,
    keep_going: bool,
    events: bool,
) -> int:
    name, console = await way()
    try:
        if _is_interactive(commands):
            return await _interact(name, console, events)
        lines = _lines(console, commands)
        return await monitor_batch.run_lines(console, lines, keep_going=keep_going, out=_write_out, err=_write_err)
    finally:
        await console.close()


def _is_interactive(commands: Sequence[str]) -> bool:
    return not commands and sys.stdin.isatty()


def _lines(console: Console, commands: Sequence[str]) -> AsyncIterator[monitor_batch.Line]:
    if commands:
        return monitor_batch.from_arguments(console, commands)
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="replace")
    return monitor_batch.from_script(sys.stdin)


async def _interact(name: str, console: Console, events: bool) -> int:
    from prompt_toolkit.output import create_output

    from ringfence.cli import monitor_format
    from ringfence.cli.monitor_prompt import Prompt

    # With the answers in a pipe (`| tee log`) the prompt is still on a terminal, that of standard error.
    output = create_output(always_prefer_tty=True)
    prompt = Prompt(console, console.lookup(), events=events, output=output)
    return await prompt.run(monitor_format.banner(name, await console.version(), console.mode, console.address))


def _write_out(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _write_err(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
