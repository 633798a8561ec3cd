"""`ringfence set VM key=value ...`: change limits of a running VM, and say what became of each."""

from __future__ import annotations

from typing import Annotated

import typer

from ringfence.cli import completion, set_change, target
from ringfence.cli.output import Format

_EPILOG = "Example: ringfence set web1 memory.target=2GiB disk.vda.iops=500 disk.vda.iops.burst=2000"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(name="set", epilog=_EPILOG)(set_)


def set_(
    words: Annotated[
        list[str],
        typer.Argument(metavar="VM KEY=VALUE...", help=target.TENANT_HELP, autocompletion=completion.set_words),
    ],
    qmp: Annotated[str | None, typer.Option("--qmp", help=target.QMP_HELP)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what would be sent, change nothing")] = False,
    timeout: Annotated[str, typer.Option("--timeout", help="how long a guest may take for one key")] = "60s",
    force: Annotated[bool, typer.Option("--force", help="also what would hurt the guest itself")] = False,
    output: Annotated[Format, typer.Option("-o", "--output", help="how to print")] = Format.TABLE,
) -> None:
    """Change limits of a running VM. All are checked before the first is changed.

    Ctrl-C ends a change that is under way: the guest keeps what it has reached.

    Exit code: 0 all applied; 2 bad request, nothing changed; 3 this VM cannot; 4 the monitor or QEMU said no;
    6 the guest did not follow, or not wholly; 130 interrupted.
    """
    code = set_change.change(words, qmp=qmp, dry_run=dry_run, timeout=timeout, force=force, output=output)
    raise typer.Exit(code)
