"""`ringfence flash`: SSDs shared by tenants; each of its verbs has a file of its own."""

from __future__ import annotations

import importlib

import typer

_VERBS = ("plan", "sim", "wear", "serve")

_flash = typer.Typer(
    no_args_is_help=True,
    help="SSDs carved into virtual ones that cannot hurt each other: plan, simulate, and serve to a VM.",
)


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    for verb in _VERBS:
        importlib.import_module(f"ringfence.cli.flash_{verb}").register(_flash)
    app.add_typer(_flash, name="flash")
