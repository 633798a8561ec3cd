"""PURE: what was typed at the monitor, read: QMP commands in both syntaxes, scripts, and words that end the VM."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, NoReturn

from ringfence.errors import UsageError

QMP_SYNTAX = 'COMMAND key=value key.sub=value list=[1,2], or {"execute": "COMMAND", "arguments": {...}}'

_PAIR = re.compile(r"[\w.-]+=")
_CLOSING = {"{": "}", "[": "]"}


class QmpLine(NamedTuple):
    """A QMP command as typed."""

    command: str
    arguments: dict[str, Any]


def parse_qmp(line: str) -> QmpLine:
    """Read `COMMAND key=value ...` or a JSON object with `execute` and `arguments`.

    A value is JSON where it parses as JSON (`4`, `true`, `"text"`, `[1, 2]`), else a Python literal (`True`,
    `None`, `{'a': 1}`), else text as it stands. `a.b=1` is `{"a": {"b": 1}}`. An `id` in the object is of no use
    here and left out: each answer is shown after its command.

    :raise UsageError: empty, unbalanced quotes or brackets, no `=` in an argument, a key given twice, or an object
        that is no QMP command.
    """
    if line.lstrip().startswith("{"):
        return _parse_object(line)
    return parse_qmp_words(split_words(line))


def parse_qmp_words(words: Sequence[str]) -> QmpLine:
    """As `parse_qmp`, for words that are separated already.

    :raise UsageError: as `parse_qmp`.
    """
    if not words:
        raise UsageError("no command", hint=QMP_SYNTAX)
    command, *pairs = words
    if "=" in command:
        raise UsageError(f"{command!r} is no command name", hint=QMP_SYNTAX)
    arguments: dict[str, Any] = {}
    for pair in pairs:
        key, found, text = pair.partition("=")
        if not found or not key:
            raise UsageError(f"{pair!r} is not key=value", hint=QMP_SYNTAX)
        _put(arguments, key, parse_value(text))
    return QmpLine(command, arguments)


def join_words(arguments: Iterable[str]) -> list[str]:
    """Lines for `parse_qmp` from a shell's arguments: each a command, but `key=value` belongs to the one before.

    :raise UsageError: as `parse_qmp`, for any of them, or when the first argument is a `key=value`.
    """
    groups: list[tuple[str, list[str]]] = []
    for argument in arguments:
        if groups and _PAIR.match(argument):
            groups[-1][1].append(argument)
        else:
            groups.append((argument, []))
    lines: list[str] = []
    for command, pairs in groups:
        parsed = parse_qmp_words(split_words(command) + pairs) if pairs else parse_qmp(command)
        lines.append(json.dumps({"execute": parsed.command, "arguments": parsed.arguments}))
    return lines


def parse_value(text: str) -> Any:
    """Read one value, as `parse_qmp` says.

    :raise UsageError: it begins with `{` or a quote and is neither JSON nor a Python literal.
    """
    try:
        return json.loads(text, parse_constant=_no_constant)
    except ValueError:
        pass
    if text in ("True", "False", "None") or text[:1] in ("{", "[", '"', "'"):
        return _parse_literal(text)
    return text


def split_words(line: str) -> list[str]:
    """Split at white space that is neither in quotes nor in brackets. Both count only where a value begins.

    :raise UsageError: a quote or bracket is not closed, or text follows where it was closed.
    """
    words: list[str] = []
    at = 0
    while at < len(line):
        if line[at].isspace():
            at += 1
            continue
        end = _end_of_word(line, at)
        words.append(line[at:end])
        at = end
    return words


def is_quit(line: str, *, qmp: bool) -> bool:
    """Whether the line ends the VM at once, without asking the guest."""
    if not qmp:
        return line.split()[:1] in (["quit"], ["q"])
    try:
        return parse_qmp(line).command == "quit"
    except UsageError:
        return False


def is_secret(line: str) -> bool:
    """Whether the line should stay out of the history: it begins with a space, or names a password or a secret."""
    return line[:1].isspace() or re.search(r"passw|secret", line, re.IGNORECASE) is not None


def is_blank(line: str) -> bool:
    """Whether a line of a script holds no command: empty, or a `#` comment."""
    text = line.strip()
    return not text or text.startswith("#")


def _parse_object(line: str) -> QmpLine:
    message = parse_value(line.strip())
    if not isinstance(message, dict) or not isinstance(message.get("execute"), str):
        raise UsageError('a QMP command is an object with the key "execute"', hint=QMP_SYNTAX)
    unknown = set(message) - {"execute", "arguments", "id"}
    if unknown:
        raise UsageError(f"unknown key {min(map(str, unknown))!r} in a QMP command", hint=QMP_SYNTAX)
    arguments = message.get("arguments", {})
    if not isinstance(arguments, dict):
        raise UsageError('"arguments" must be an object', hint=QMP_SYNTAX)
    return QmpLine(message["execute"], arguments)


def _put(target: dict[str, Any], key: str, value: Any) -> None:
    *parents, leaf = key.split(".")
    for depth, parent in enumerate(parents, start=1):
        inner = target.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise UsageError(f"{'.'.join(parents[:depth])!r} is given a value and members")
        target = inner
    if leaf in target:
        raise UsageError(f"{key!r} is given twice")
    target[leaf] = value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _parse_literal(text: str) -> Any:
    import ast

    class Names(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.AST:
            known = {"true": True, "false": False, "null": None}
            return ast.Constant(known[node.id]) if node.id in known else node

    try:
        return ast.literal_eval(Names().visit(ast.parse(text, mode="eval")))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        if text.startswith("["):
            return text  # an IPv6 address
    raise UsageError(f"cannot read {text!r}", hint="Write JSON, and put it in single quotes in a shell.")


def _end_of_word(line: str, start: int) -> int:
    equals = re.compile(r"[^\s=]*=").match(line, start)
    value = equals.end() if equals else start
    opening = line[value : value + 1]
    if opening in ("'", '"'):
        end = _end_of_quote(line, value)
    elif opening in _CLOSING and opening:
        end = _end_of_bracket(line, value)
    else:
        return _next_space(line, value)
    if end < len(line) and not line[end].isspace():
        if opening == "[":
            return _next_space(line, end)  # [::1]:80
        raise UsageError(f"unexpected text after {line[value:end]}", hint=QMP_SYNTAX)
    return end


def _next_space(line: str, start: int) -> int:
    found = re.compile(r"\s").search(line, start)
    return found.start() if found else len(line)


def _end_of_quote(line: str, start: int) -> int:
    at = start + 1
    while at < len(line):
        if line[at] == "\\":
            at += 1
        elif line[at] == line[start]:
            return at + 1
        at += 1
    raise UsageError(f"{line[start]} is not closed in {line[start:]!r}")


def _end_of_bracket(line: str, start: int) -> int:
    expected = [_CLOSING[line[start]]]
    at = start + 1
    while expected and at < len(line):
        char = line[at]
        if char in ("'", '"'):
            at = _end_of_quote(line, at)
            continue
        if char in _CLOSING:
            expected.append(_CLOSING[char])
        elif char in _CLOSING.values() and char != expected.pop():
            raise UsageError(f"brackets do not match in {line[start:]!r}")
        at += 1
    if expected:
        raise UsageError(f"{line[start]} is not closed in {line[start:]!r}")
    return at
