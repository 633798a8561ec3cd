"""Every knob there is. CLI keys, JSON, completion and the docs' table are derived from this list.

A knob's module is imported when a key is looked up that may be one of its own: most of a short command's time
would else go into the modules of knobs that it has nothing to do with.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache, lru_cache
from importlib import import_module
from typing import NamedTuple

from ringfence import units
from ringfence.core.knob import Knob, Makes, Part, Row, Value
from ringfence.errors import UsageError


class Listed(NamedTuple):
    """One knob of the list.

    :param stems: what its keys are, or begin with, blanks in between; `<...>` is any name.
    :param module: below `ringfence.knobs`; `name` the knob's class there.
    :param brief: its steps await no event and ask no guest, so that a command can do without an event loop.
    :param host: it asks the host, and QEMU only for what it can do without.
    """

    stems: str
    module: str
    name: str
    brief: bool = False
    host: bool = False

    def may_have(self, text: str) -> bool:
        """Whether a key may be one of this knob's; some are not."""
        return any(_may_begin(text, stem) for stem in self.stems.split())


LISTED = (
    Listed("memory.target memory.ramp memory.boot memory.plugged memory.ballooned", "memory", "MemoryTarget"),
    Listed("memory.deflate_on_oom memory.free_page_reporting", "memory.options", "BalloonOptions", brief=True),
    Listed("vcpus", "vcpus", "Vcpus"),
    Listed(
        "disk.<disk>.iops disk.<disk>.bps disk.<disk>.io_size disk.<disk>.group",
        "disk.throttle",
        "DiskThrottle",
        brief=True,
    ),
    Listed("disk.<disk>.pool", "disk.membership", "PoolMembership", brief=True),
    Listed("disk.<disk>.latency_histogram", "disk.histogram", "LatencyHistogram", brief=True),
    Listed("pool.<pool>.", "disk.pools", "Pools", brief=True),
    Listed("cpu.cap cpu.weight cpu.burst", "host.cpu", "CpuTime", brief=True, host=True),
    Listed("cpu.vcpus.cap", "host.vcpu_cpu", "VcpusTime", brief=True, host=True),
    Listed("cpu.vcpu.<n>.cap", "host.vcpu_cpu", "VcpuTime", brief=True, host=True),
    Listed(
        "memory.limit memory.high memory.low memory.guarantee memory.swap",
        "host.memory",
        "MemoryLimits",
        brief=True,
        host=True,
    ),
    Listed("memory.oom_score", "host.oom", "OomScore", brief=True, host=True),
    Listed("disk.<disk>.host.", "host.disk", "HostDisk", brief=True),
    Listed("pids.limit", "host.pids", "PidsLimit", brief=True, host=True),
    Listed("cpu.pin", "host.pin", "Pin", brief=True, host=True),
    Listed("cpu.pin.<n>", "host.pin", "PinEach", brief=True, host=True),
    Listed("cpu.emulator_pin", "host.pin", "PinEmulator", brief=True, host=True),
    Listed("pressure.", "host.pressure", "Pressure", brief=True, host=True),
    Listed("cache. memory.bandwidth", "resctrl.knob", "CacheShares", brief=True, host=True),
    Listed("net.<if>.egress net.<if>.ingress", "net.knob", "NetShaping", host=True),
)
"""In the order of the docs, and of `show`."""


@cache
def load(listed: Listed) -> Knob:
    """The knob itself, the same each time."""
    knob: Knob = getattr(import_module(f"ringfence.knobs.{listed.module}"), listed.name)()
    return knob


def knobs() -> tuple[Knob, ...]:
    """Every knob, in the order of the list; imports all of them."""
    return tuple(map(load, LISTED))


class Key(NamedTuple):
    """A key taken apart: `disk.vda.iops.burst` is the disk knob, instance `vda`, leaf `iops.burst`."""

    text: str
    knob: Knob
    instance: str
    leaf: str
    row: Row


def are_brief(keys: Iterable[str]) -> bool:
    """Whether whatever knobs these keys may belong to are all `brief`. Imports none of them."""
    return all(listed.brief for key in keys for listed in LISTED if listed.may_have(key))


def are_the_hosts(keys: Iterable[str]) -> bool:
    """Whether whatever knobs these keys may belong to are all `host`: no monitor has to be open for them."""
    return all(listed.host for key in keys for listed in LISTED if listed.may_have(key))


def rows() -> tuple[Row, ...]:
    """The row of every key, in the order of the docs."""
    return tuple(row for knob in knobs() for row in knob.rows)


@lru_cache(maxsize=4096)
def parse_key(text: str) -> Key:
    """Take a key apart. Instance names may hold dots: the longest leaf that fits is the key's end.

    :raise UsageError: no such key; the hint names the nearest ones.
    """
    best: Key | None = None
    for knob in (load(listed) for listed in LISTED if listed.may_have(text)):
        for row in knob.rows:
            instance = _instance(text, row.key)
            if instance is not None:
                leaf = row.key.partition(">.")[2] or row.key.removeprefix(knob.prefix).removeprefix(".")
                if best is None or len(leaf) > len(best.leaf):
                    best = Key(text, knob, instance, leaf, row)
    if best is None:
        raise _unknown(text)
    return best


def _may_begin(text: str, stem: str) -> bool:
    head, _, tail = stem.partition("<")
    return text.startswith(head) and tail.partition(">")[2] in text[len(head) :]


def _instance(text: str, pattern: str) -> str | None:
    """The name standing at `<...>` of the pattern, empty where it has none; None when the text does not fit."""
    if "<" not in pattern:
        return "" if text == pattern else None
    start, rest = pattern.split("<", 1)
    end = rest.split(">", 1)[1]
    fits = text.startswith(start) and text.endswith(end) and len(text) > len(start) + len(end)
    return text[len(start) : len(text) - len(end)] if fits else None


def _unknown(text: str) -> UsageError:
    import difflib
    import re

    parts = text.split(".")
    instance = parts[1] if len(parts) > 2 else ""
    known = [re.sub(r"<\w+>", lambda slot: instance or slot[0], row.key) for row in rows()]
    near = difflib.get_close_matches(text, known, n=2, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else f"keys begin with {', '.join(_prefixes())};"
    return UsageError(f"there is no knob {text!r}", hint=f"{hint} `ringfence show VM --all` lists every key")


def _prefixes() -> list[str]:
    return list(dict.fromkeys(listed.stems.partition(".")[0] for listed in LISTED))


def parse_value(key: Key, value: str | int | float | None) -> Value | None:
    """A value as the user wrote it, or a number in the key's base unit; None lifts the limit.

    :raise UsageError: not a value of the key's unit.
    """
    unit = key.row.unit
    if value is None or (isinstance(value, str) and units.is_unlimited(value)):
        if not key.row.lifts:
            raise UsageError(f"{key.text} cannot be unlimited", hint="give a value")
        return None
    if unit == units.NAME:
        return _name(key, str(value))
    if unit == units.SWITCH:
        return _switch(key, str(value))
    if unit == units.INTEGER:
        return _integer(key, value)
    if isinstance(value, str):
        try:
            number = int(units.parse_seconds(value)) if unit == units.SECONDS else units.parse(unit, value)
        except UsageError as error:
            raise UsageError(f"{key.text}: {error.message}", hint=error.hint) from None
        if unit == units.SECONDS and number != units.parse_seconds(value):
            raise UsageError(f"{key.text}={value} is not a whole number of seconds", hint="write 10s")
    else:
        number = int(value)
        if number != value or number < 0:
            raise UsageError(f"{key.text}={value} is no whole number from 0 up", hint="give an integer")
    return None if number == 0 and key.row.lifts and unit != units.SECONDS else number


def _integer(key: Key, value: str | int | float) -> int:
    try:
        number = int(value)
    except ValueError:
        raise UsageError(f"{key.text}={value} is no whole number", hint="such as 0, 500 or -500") from None
    if number != float(value):
        raise UsageError(f"{key.text}={value} is no whole number", hint="such as 0, 500 or -500")
    return number


def _name(key: Key, value: str) -> str:
    if not value.strip():
        raise UsageError(f"{key.text} needs a name", hint=f"or {key.text}=none to leave")
    if not value.isprintable():  # what cannot be encoded is not printable either
        raise UsageError(
            f"{key.text} has a character that cannot be printed", hint="use letters, digits, '-', '_'"
        )
    return value


def _switch(key: Key, value: str) -> Value | None:
    if value.strip().lower() == "on":
        return "on"
    raise UsageError(f"{key.text}={value} is neither on nor off", hint=f"write {key.text}=on or {key.text}=off")


def pick(parts: tuple[Part, ...], key: Key) -> Part:
    """The part that the key's instance names, or the one to be made by naming it.

    :raise UsageError: nobody, or more than one, is called so; the hint lists every name.
    """
    if not key.instance:
        return parts[0]
    found = [part for part in parts if key.instance == part.name or key.instance in part.aliases]
    if len(found) == 1:
        return found[0]
    if not found and isinstance(key.knob, Makes):
        return key.knob.absent(key.instance)
    if found:
        names = "; ".join(" = ".join((part.name, *part.aliases)) for part in found)
        raise UsageError(
            f"{key.instance!r} names {len(found)} {key.knob.prefix}s", hint=f"use another of their names: {names}"
        )
    names = "; ".join(" = ".join(_short_names(part)) for part in parts)
    hint = f"this VM has: {names}" if parts else f"this VM has no {key.knob.prefix}"
    raise UsageError(f"there is no {key.knob.prefix} {key.instance!r}", hint=hint)


def _short_names(part: Part) -> list[str]:
    """The names that a person would type: QOM paths only where there is nothing else."""
    names = [part.name, *part.aliases]
    return [name for name in names if not name.startswith("/")] or names[:1]
