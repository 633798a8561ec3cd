"""How verbs print: one switch `-o table|json|yaml`, one data structure behind all three.

Names come from command lines, from QEMU and from guests, and may hold any byte: nothing of them reaches a terminal
as a control character, or a table as its markup.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


class Format(StrEnum):
    """The value of `-o`."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def printable(value: Any) -> Any:
    """The value with what a terminal or a text file does not take escaped, in lists and dicts too."""
    if isinstance(value, str):
        if value.isprintable():
            return value
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in value)
    if isinstance(value, dict):
        return {printable(key): printable(item) for key, item in value.items()}
    return [printable(item) for item in value] if isinstance(value, list | tuple) else value


def console(*, stderr: bool = False) -> Console:
    """A rich console that prints text as it stands, and does not wrap or truncate what goes into a pipe."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else 400
    return Console(
        file=stream, width=width, highlight=False, markup=False, emoji=False, soft_wrap=not stream.isatty()
    )


def emit(data: object, fmt: Format, render: Callable[[], None]) -> None:
    """Print `data` as JSON or YAML, or call `render` for people.

    :param data: only dict, list, tuple, str, int, float, bool and None.
    """
    if fmt is Format.JSON:
        import json

        sys.stdout.write(json.dumps(printable(data), indent=2, ensure_ascii=False) + "\n")
    elif fmt is Format.YAML:
        import yaml

        sys.stdout.write(yaml.safe_dump(printable(data), sort_keys=False, allow_unicode=True))
    else:
        render()


def line(text: str) -> None:
    """One line of a result."""
    sys.stdout.write(printable(text) + "\n")


def note(text: str) -> None:
    """Lines for people beside the result: standard error, so that a pipe stays clean."""
    sys.stderr.write("\n".join(map(printable, text.split("\n"))) + "\n")


def problem(message: str, *, state: str = "", hint: str = "") -> None:
    """What went wrong, what is left behind, and what to do next: on standard error."""
    for label, text in (("error", message), ("state", state), ("hint", hint)):
        if text:
            note(f"{label}: {text}")
