"""`ringfence monitor VM`: QEMU's own monitor, HMP or QMP, at a prompt, for one command, or for a script."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from ringfence.cli import completion, monitor_batch, target
from ringfence.errors import UsageError

if TYPE_CHECKING:
    from ringfence.cli.monitor_console import Console, Sent
    from ringfence.core.model import Address, Vm

Opening: TypeAlias = "Callable[[], Awaitable[Console]]"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(name="monitor", epilog="Example: ringfence monitor web1 'info block' 'balloon 512'")(monitor)


def monitor(
    vm: Annotated[
        str,
        typer.Argument(
            metavar="VM", help=target.VM_HELP + ", or of its human monitor", autocompletion=completion.vm_names
        ),
    ],
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
    interactive = not commands and sys.stdin.isatty()
    show = _write_out if interactive else _write_err
    limit_s = None if timeout is None else target.timeout(timeout)
    info, address = _find(vm)
    open_ = partial(_open, info, address, qmp=qmp, sent=show if verbose else None, limit_s=limit_s)
    if interactive:
        code = asyncio.run(_interact(open_, name=info.name, events=not no_events))
    else:
        code = asyncio.run(_carry_out(open_, commands or [], keep_going=keep_going))
    raise typer.Exit(code)


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


async def _carry_out(open_: Opening, commands: Sequence[str], *, keep_going: bool) -> int:
    console = await open_()
    try:
        lines = _lines(console, commands)
        return await monitor_batch.run_lines(console, lines, keep_going=keep_going, out=_write_out, err=_write_err)
    finally:
        await console.close()


def _lines(console: Console, commands: Sequence[str]) -> AsyncIterator[monitor_batch.Line]:
    if commands:
        return monitor_batch.from_arguments(console, commands)
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="replace")
    return monitor_batch.from_script(sys.stdin)


async def _interact(open_: Opening, *, name: str, events: bool) -> int:
    from prompt_toolkit.output import create_output

    from ringfence.cli import monitor_format
    from ringfence.cli.monitor_prompt import Prompt

    console = await open_()
    try:
        # With the answers in a pipe (`| tee log`) the prompt is still on a terminal, that of standard error.
        output = create_output(always_prefer_tty=True)
        prompt = Prompt(console, console.lookup(), events=events, output=output)
        greeting = monitor_format.banner(name, await console.version(), console.mode, console.address)
        return await prompt.run(greeting)
    finally:
        await console.close()


def _write_out(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _write_err(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
