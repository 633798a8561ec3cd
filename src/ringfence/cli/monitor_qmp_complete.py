"""PURE: what can follow in a line of QMP typed as `COMMAND key=value`, by this QEMU's own schema."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ringfence.cli.monitor_complete import Candidate, matching
from ringfence.cli.monitor_parse import split_words
from ringfence.errors import UsageError

if TYPE_CHECKING:
    from ringfence.qemu.schema import Argument, Schema


def complete(line: str, schema: Schema) -> list[Candidate]:
    """Everything that may stand at the end of `line`: a command, an argument's name, or an enum's or bool's value.

    :param line: what stands before the cursor. Nothing is offered inside JSON, quotes or brackets.
    """
    try:
        words = split_words(line)
    except UsageError:
        return []
    typed = words.pop() if words and not line[-1].isspace() else ""
    if not words:
        return [
            Candidate(name + " " if _arguments(schema, name) else name, len(typed), synopsis(name, schema), name)
            for name in schema.commands()
            if name.startswith(typed)
        ]
    arguments = _arguments(schema, words[0])
    key, equals, value = typed.partition("=")
    if equals:
        return matching(_values(_find(arguments, key)), value)
    parent, dot, _ = typed.rpartition(".")
    if dot:
        inside = _find(arguments, parent)
        arguments = inside.members if inside is not None else ()
    given = {word.partition("=")[0] for word in words[1:]}
    return [
        Candidate(_key(parent + dot, argument), len(typed), _help(argument), argument.name)
        for argument in sorted(arguments, key=lambda argument: argument.optional)
        if (parent + dot + argument.name).startswith(typed) and parent + dot + argument.name not in given
    ]


def synopsis(line: str, schema: Schema) -> str:
    """The arguments that may still be given: `value=int [id=str]`; empty for none, or no such command."""
    command, *pairs = line.split() or [""]
    given = {pair.partition("=")[0] for pair in pairs}
    return " ".join(
        f"[{argument.name}={argument.type}]" if argument.optional else f"{argument.name}={argument.type}"
        for argument in sorted(_arguments(schema, command), key=lambda argument: argument.optional)
        if argument.name not in given
    )


def _arguments(schema: Schema, command: str) -> tuple[Argument, ...]:
    return tuple(schema.arguments(command).values()) if schema.has_command(command) else ()


def _find(arguments: Iterable[Argument], key: str) -> Argument | None:
    """The argument that a dotted key names."""
    first, _, rest = key.partition(".")
    found = next((argument for argument in arguments if argument.name == first), None)
    return found if found is None or not rest else _find(found.members, rest)


def _values(argument: Argument | None) -> tuple[str, ...]:
    if argument is None or argument.type.startswith("["):
        return ()
    return argument.values or (("true", "false") if argument.type == "bool" else ())


def _key(parent: str, argument: Argument) -> str:
    nests = argument.members and not argument.type.startswith("[")
    return parent + argument.name + ("." if nests else "=")


def _help(argument: Argument) -> str:
    notes = ["optional"] * argument.optional + ["deprecated"] * argument.deprecated
    choices = argument.values or ()
    kind = "|".join(choices) if 0 < len(choices) <= 6 else argument.type
    return ", ".join([kind, *notes])
