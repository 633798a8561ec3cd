"""How verbs print: one switch `-o table|json|yaml`, one data structure behind all three."""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


class Format(StrEnum):
    """The value of `-o`."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def console(*, stderr: bool = False) -> Console:
    """A rich console that does not wrap or truncate what it prints into a pipe."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else 400
    return Console(file=stream, width=width, highlight=False, soft_wrap=not stream.isatty())


def emit(data: object, fmt: Format, render: Callable[[], None]) -> None:
    """Print `data` as JSON or YAML, or call `render` for people.

    :param data: only dict, list, str, int, float, bool and None.
    """
    if fmt is Format.JSON:
        import json

        sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")
    elif fmt is Format.YAML:
        import yaml

        sys.stdout.write(yaml.safe_dump(data, sort_keys=False, allow_unicode=True))
    else:
        render()


def note(text: str) -> None:
    """One line for people beside the result: standard error, so that a pipe stays clean."""
    sys.stderr.write(text + "\n")
