"""PURE: limits that are one number in one file each: what memory and the number of processes have in common.

Sources: the kernel's cgroup-v2.rst (Memory, PID), cgroup-v1/memory.rst; systemd.resource-control(5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ringfence.core.knob import Row, Value
from ringfence.core.requests import ReadFile, Steps, Systemd, WriteFile
from ringfence.knobs.host.home import Do, Home

INFINITY = 2**64 - 1
_V1_NO_LIMIT = 2**62
"""v1 shows the largest whole number of pages for no limit."""


class Setting(NamedTuple):
    """One such limit.

    :param v1: its file on v1, empty where v1 has nothing like it; `v2` likewise.
    :param unit_property: systemd's name for it.
    :param none: what lifts it: `max`, or `0` for a protection.
    """

    row: Row
    v1: str
    v2: str
    unit_property: str
    none: str = "max"

    @property
    def leaf(self) -> str:
        """The last part of its key."""
        return self.row.key.rpartition(".")[2]

    def file(self, version: int) -> str:
        """Its file on a version of cgroups; empty where there is none."""
        return self.v2 if version == 2 else self.v1

    def text(self, version: int, value: int | None) -> str:
        """What is written for a value."""
        if value is not None:
            return str(value)
        return "-1" if version == 1 and self.v1.startswith("memory.") else self.none

    def property_value(self, value: int | None) -> int:
        """What systemd is told for a value."""
        return value if value is not None else INFINITY if self.none == "max" else 0


class Held(NamedTuple):
    """:param values: by leaf; None is no limit. A leaf whose file this kernel has not is left out."""

    values: Mapping[str, int | None]


def read(home: Home, settings: Sequence[Setting]) -> Steps[Held]:
    """What the kernel holds; no limits where the group is yet to be made."""
    known = [setting for setting in settings if setting.file(home.version)]
    if not home.exists:
        return Held({setting.leaf: None for setting in known})
    texts = yield [ReadFile(home.file(setting.file(home.version)), optional=True) for setting in known]
    found = zip(known, texts, strict=True)
    return Held({setting.leaf: _number(setting, text) for setting, text in found if text is not None})


def _number(setting: Setting, text: str) -> int | None:
    word = text.strip()
    if word in ("max", setting.none):
        return None
    number = int(word)
    return None if number < 0 or number >= _V1_NO_LIMIT else number


def steps(home: Home, settings: Sequence[Setting], held: Held, wants: Mapping[str, Value | None]) -> Sequence[Do]:
    """What brings a group to what is wanted, in the order of `wants`; nothing where it is so."""
    by_leaf = {setting.leaf: setting for setting in settings}
    differing = [(by_leaf[leaf], _int(want)) for leaf, want in wants.items() if held.values.get(leaf) != want]
    if not differing:
        return []
    if home.unit:
        new = {setting.unit_property: setting.property_value(want) for setting, want in differing}
        old = {s.unit_property: s.property_value(held.values.get(s.leaf)) for s, _ in differing}
        undo = Systemd("SetUnitProperties", home.unit, old)
        return [*home.making, Do(Systemd("SetUnitProperties", home.unit, new), undo)]
    return [
        *home.making,
        *(write(home, setting, held.values.get(setting.leaf), want) for setting, want in differing),
    ]


def write(home: Home, setting: Setting, old: int | None, new: int | None) -> Do:
    """One limit written."""
    path = home.file(setting.file(home.version))
    return Do(WriteFile(path, setting.text(home.version, new)), WriteFile(path, setting.text(home.version, old)))


def _int(value: Value | None) -> int | None:
    return None if value is None else int(value)
