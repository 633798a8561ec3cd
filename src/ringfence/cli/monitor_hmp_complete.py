"""PURE: what can follow in a line of the human monitor.

Commands, their aliases and arguments come from this QEMU's own `help`. Names of disks, devices and the like come
from the answers to `info` commands, as one row each of `_SOURCES` says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ringfence.cli.monitor_complete import Candidate, matching
from ringfence.qemu.hmp_help import HmpCommand


class HmpVocabulary(NamedTuple):
    """What this QEMU understands: its `help` and its `help info`."""

    commands: tuple[HmpCommand, ...]
    infos: tuple[HmpCommand, ...]


class NameSource(NamedTuple):
    """Where the names come from that an argument may take.

    :param commands: pattern for the whole command, `info` and its sub-command taken together.
    :param argument: the argument's name in QEMU's synopsis.
    :param query: the line of the human monitor that lists the names.
    :param pattern: finds them in the answer.
    """

    commands: str
    argument: str
    query: str
    pattern: str


_DISK_COMMANDS = (
    r"block_\w+|drive_(?:backup|del|mirror)|snapshot_\w+|eject|change|commit|qemu-io|nbd_server_add|info block"
)
_SOURCES = (
    NameSource(_DISK_COMMANDS, "device", "info block", r"^(\S+?)(?: \(.*?\))?: "),
    NameSource("device_del", "device|id", "qom-list /machine/peripheral", r"^(\S+) \(child<"),
    NameSource("object_del", "id", "qom-list /objects", r"^(\S+) \(child<"),
    NameSource("netdev_del|set_link", "id|name", "info network", r"^ ?(?:\\ )?(\S+): index="),
    NameSource(r"ringbuf_\w+|chardev-\S+", "device|id", "info chardev", r"^(\S+): filename="),
    NameSource("device_add", r"driver\b.*", "device_add help", r'^name "([^"]+)"'),
    NameSource("migrate_set_capability", "capability", "info migrate_capabilities", r"^(\S+): (?:on|off)"),
    NameSource("migrate_set_parameter", "parameter", "info migrate_parameters", r"^([\w-]+): "),
)
_LITERALS = {("migrate_set_capability", "state"): ("on", "off")}
_CHOICE = re.compile(r"[\w-]+(?:\|[\w-]+)+")
_FLAG = re.compile(r"(?<=[\[| ])-\w\b")
_FLAG_GROUP = re.compile(r"\[-\w\b[^\]]*\]")  # [-f], [-z|-l|-s], [-d display]


class _Place(NamedTuple):
    """Where the cursor is: behind `typed`, in the argument that the synopsis calls `argument`."""

    command: str
    argument: str
    flags: tuple[str, ...]
    typed: str


def complete(line: str, vocabulary: HmpVocabulary, names: Sequence[str] = ()) -> list[Candidate]:
    """Everything that may stand at the end of `line`, in QEMU's order.

    :param line: what stands before the cursor.
    :param names: the answer to `source(line, ...)`, where that gave one.
    """
    *before, typed = _words(line)
    if not before:
        return _commands(vocabulary.commands, typed)
    if _is_help(before[0], vocabulary):
        topics = vocabulary.infos if before[1:] == ["info"] else vocabulary.commands if len(before) == 1 else ()
        return _commands(topics, typed)
    if before == ["info"]:
        return _commands(vocabulary.infos, typed)
    place = _place(line, vocabulary)
    if place is None:
        return []
    return matching(place.flags if typed.startswith("-") else (*_choices(place), *names), typed)


def source(line: str, vocabulary: HmpVocabulary) -> NameSource | None:
    """Whom to ask for the names that may stand at the end of `line`; None when nobody knows."""
    place = _place(line, vocabulary)
    if place is None or place.typed.startswith("-"):
        return None
    for row in _SOURCES:
        if re.fullmatch(row.commands, place.command) and any(
            re.fullmatch(row.argument, part) for part in (place.argument, *place.argument.split("|"))
        ):
            return row
    return None


def read_names(row: NameSource, answer: str) -> list[str]:
    """The names in QEMU's answer to `row.query`, each once."""
    return list(dict.fromkeys(re.findall(row.pattern, answer, re.MULTILINE)))


def synopsis(line: str, vocabulary: HmpVocabulary) -> HmpCommand | None:
    """The command that `line` holds, complete with its sub-command for `info` where that is known."""
    words = line.split()
    found = _find(words[:1], vocabulary.commands)
    if found is None or found.name != "info" or len(words) < 2:
        return found
    info = _find(words[1:2], vocabulary.infos)
    return found if info is None else info._replace(names=tuple(f"info {name}" for name in info.names))


def _words(line: str) -> list[str]:
    """The words of the line; the last one is being typed, and may be empty."""
    return [*line.split(), ""] if not line or line[-1].isspace() else line.split()


def _is_help(word: str, vocabulary: HmpVocabulary) -> bool:
    found = _find([word], vocabulary.commands)
    return found is not None and found.name == "help"


def _find(words: Sequence[str], commands: Iterable[HmpCommand]) -> HmpCommand | None:
    return next((command for command in commands if words and words[0] in command.names), None)


def _commands(commands: Iterable[HmpCommand], typed: str) -> list[Candidate]:
    return [
        Candidate(
            command.name + " " * bool(command.arguments),
            len(typed),
            f"{command.arguments} -- {command.help}".removeprefix(" -- "),
            command.name,
        )
        for command in commands
        if command.name.startswith(typed)
    ]


def _place(line: str, vocabulary: HmpVocabulary) -> _Place | None:
    *before, typed = _words(line)
    command = synopsis(" ".join(before), vocabulary)
    if command is None:
        return None
    given = before[len(command.name.split()) :]
    flags = tuple(_FLAG.findall(command.arguments))
    positional = [word.strip("[]") for word in _FLAG_GROUP.sub("", command.arguments).split()]
    index = sum(not word.startswith("-") for word in given)
    argument = positional[index] if index < len(positional) else ""
    return _Place(command.name, argument, flags, typed)


def _choices(place: _Place) -> tuple[str, ...]:
    if _CHOICE.fullmatch(place.argument):
        sourced = any(re.fullmatch(row.commands, place.command) for row in _SOURCES)
        return tuple(part for part in place.argument.split("|") if not (sourced and part == "device"))
    return _LITERALS.get((place.command, place.argument), ())
