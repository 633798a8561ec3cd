"""`ringfence schema`: the JSON Schema of a file of fences, for editors."""

from __future__ import annotations

import json
import sys

import typer


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(name="schema")(schema)


def schema() -> None:
    """Print the JSON Schema of a file of fences.

    An editor with a YAML language server uses it by a first line `# yaml-language-server: $schema=PATH`.
    """
    from ringfence.core.spec_schema import schema as made
    from ringfence.engine.fences import words

    sys.stdout.write(json.dumps(made(words()), indent=2) + "\n")
