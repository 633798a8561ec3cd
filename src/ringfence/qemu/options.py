"""PURE: the grammar of QEMU's command line. Nothing here raises, whatever the text.

Three notations of an option's value, all of them read into one flat mapping of strings:

* `key=value,key=value`, a comma in a value doubled, the first key often implied, a key alone a flag that is on
  (`nowait`: off);
* JSON, as libvirt writes it; nested objects become dotted keys (`file.filename`), as in the first notation;
* a section of a `-readconfig` file.

Sources: QEMU docs/interop and util/qemu-option.c, util/keyval.c, util/qemu-config.c, qemu-options.hx.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

Fields: TypeAlias = dict[str, str]

# fmt: off
_FLAGS = {
    "S", "alt-grab", "ctrl-grab", "curses", "daemonize", "enable-fips", "enable-kvm", "enable-nesting",
    "enable-sync-profile", "full-screen", "h", "help", "jitdump", "localtime", "mem-prealloc", "no-acpi",
    "no-fd-bootchk", "no-frame", "no-hpet", "no-kvm", "no-kvm-irqchip", "no-kvm-pit", "no-kvm-pit-reinjection",
    "no-quit", "no-reboot", "no-shutdown", "no-user-config", "nodefaults", "nodefconfig", "nographic",
    "old-param", "one-insn-per-tick", "only-migratable", "perfmap", "portrait", "preconfig", "rtc-td-hack",
    "sdl", "semihosting", "singlestep", "snapshot", "tdf", "usb", "version", "win2k-hack", "xen-attach",
    "xen-create", "xen-domid-restrict",
}
# fmt: on
"""Options without a value, of every QEMU since 1.0."""

_FREE_TEXT = {"append", "name", "kernel", "initrd", "fw_cfg", "smbios", "serial"}
"""Options whose value may well begin with a dash."""

_SUFFIXES = "bkmgtpe"
_SECTION = r'\[\s*([^"\]\s]+)\s*(?:"([^"]*)")?\s*\]'
_ENTRY = r'([^\s=]+)\s*=\s*"([^"]*)"'


class Option(NamedTuple):
    """One option of a command line. :param name: without dashes. :param text: as written, empty for a flag."""

    name: str
    text: str


def split(arguments: Sequence[str]) -> list[Option]:
    """Take a command line, without its program, apart. A disk image that stands alone is an `hda`.

    An option that QEMU had not yet, when this was written, takes the next word for its value unless that looks
    like an option.
    """
    options: list[Option] = []
    words = iter(range(len(arguments)))
    for index in words:
        word = arguments[index]
        if not word.startswith("-") or word == "-":
            options.append(Option("hda", word))
            continue
        name = word.removeprefix("-").removeprefix("-")
        following = arguments[index + 1] if index + 1 < len(arguments) else ""
        is_value = not following.startswith("-") or following == "-" or name in _FREE_TEXT
        if name in _FLAGS or not is_value:
            options.append(Option(name, ""))
        else:
            options.append(Option(name, following))
            next(words, None)
    return options


def keyval(text: str, implied: str = "") -> Fields:
    """Read an option's value. The last of several equal keys wins, as in QEMU.

    :param implied: the key that the first value belongs to when it stands without one.
    """
    if text.startswith("{"):
        return _from_json(text)
    fields: Fields = {}
    for index, part in enumerate(text.replace(",,", "\0").split(",")):
        key, equals, value = part.partition("=")
        if implied and index == 0 and (not equals or "\0" in key):
            key, value = implied, part
        elif not equals:
            negated = key.startswith("no") and len(key) > 2
            key, value = (key[2:], "off") if negated else (key, "on")
        fields[key.replace("\0", ",")] = value.replace("\0", ",")
    return fields


def merged(options: Iterable[Option], names: Sequence[str], implied: str) -> Fields:
    """The fields of all options called one of `names`, for those that QEMU merges (-m, -smp, -machine, -name)."""
    fields: Fields = {}
    for option in options:
        if option.name in names:
            fields.update(keyval(option.text, implied))
    return fields


def is_on(value: str) -> bool:
    """Whether a flag's value means yes."""
    return value in ("on", "yes", "true", "y")


def size_bytes(text: str, default_unit: str = "b") -> int | None:
    """A size as QEMU writes it (`4G`, `1.5g`, `0x1000`); None when it is none.

    :param default_unit: the suffix of a number that has none.
    """
    text = text.strip().lower()
    hexadecimal = text.startswith("0x")
    suffix = default_unit
    if text[-1:] in tuple(_SUFFIXES) and not (hexadecimal and text[-1] in "be"):
        text, suffix = text[:-1], text[-1]
    number: int | float
    try:
        if hexadecimal:
            number = int(text, 16)
        else:
            digits = text.replace(".", "", 1)
            if not digits.isascii() or not digits.isdigit() or len(digits) > 40:
                return None
            number = float(text) if "." in text else int(text)
    except ValueError:
        return None
    return int(number * 1024 ** _SUFFIXES.index(suffix))


def count(text: str) -> int | None:
    """A whole number from 0 up; None when it is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def from_config(text: str) -> list[Option]:
    """The options that stand in a file of `-readconfig`, as if they had been given on the command line."""
    sections: list[tuple[str, Fields]] = []
    for line in text.splitlines():
        line = line.strip()
        if section := re.match(_SECTION, line):
            sections.append((section[1], {"id": section[2]} if section[2] is not None else {}))
        elif sections and (entry := re.match(_ENTRY, line)):
            sections[-1][1][entry[1]] = entry[2]
    names = {"memory": "m", "smp-opts": "smp"}
    return [Option(names.get(name, name), _joined(fields)) for name, fields in sections]


def _joined(fields: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value.replace(',', ',,')}" for key, value in fields.items())


def _from_json(text: str) -> Fields:
    try:
        fields: Fields = {}
        _flatten(json.loads(text), "", fields)
    except (ValueError, RecursionError):
        return {}
    return fields


def _flatten(value: Any, key: str, fields: Fields) -> None:
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, item in items:
            _flatten(item, f"{key}.{name}" if key else str(name), fields)
    elif isinstance(value, bool):
        fields[key] = "on" if value else "off"
    elif value is not None:
        fields[key] = str(value)
