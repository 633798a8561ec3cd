"""What a shell offers on Tab: names of VMs and guests, and for `set` the keys and values of the VM typed before.

Never raises, as an error would end up in the middle of the line being typed. What is offered comes from other
users' processes too, and typer's scripts for shells evaluate it, so only plain words are let through.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from ringfence.core.model import Vm

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]*")
_ANSWER_WITHIN_S = 0.5  # somebody waits with a finger on the key


def vm_names(incomplete: str) -> list[str]:
    """Names of the VMs that this user may see."""
    names: list[str] = []
    with suppress(Exception):
        from ringfence.qemu.discovery import find_vms

        names = [vm.name for vm in find_vms()]
    return [name for name in _plain(names) if name.startswith(incomplete)]


def tenant_names(incomplete: str) -> list[str]:
    """Names of the VMs and containers that this user may see."""
    names: list[str] = []
    if incomplete and "container:".startswith(incomplete[:10]):
        with suppress(Exception):
            from ringfence.host.containers import find_containers

            names = [f"container:{name}" for name in _plain(c.name for c in find_containers())]
    return [*vm_names(incomplete), *(name for name in names if name.startswith(incomplete))]


def guest_names(incomplete: str) -> list[str]:
    """Names of this user's lab guests."""
    names: list[str] = []
    with suppress(Exception):
        from ringfence.lab.guest import list_guests

        names = [guest.name for guest in list_guests()]
    return [name for name in _plain(names) if name.startswith(incomplete)]


def set_words(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """The words of `set`, each with its meaning: a VM, then keys, then values."""
    words: list[tuple[str, str]] = []
    with suppress(Exception):
        before = [str(word) for word in ctx.params.get("words") or ()]
        qmp = ctx.params.get("qmp")
        if not before and qmp is None:
            return [(name, "") for name in tenant_names(incomplete)]
        words = list(_pairs(_find(None if qmp else before[0], qmp), before, incomplete))
    return words


def _pairs(vm: Vm | None, before: Sequence[str], incomplete: str) -> Iterator[tuple[str, str]]:
    if key := _key_split_off(before):
        yield from ((value, "") for value in _values(key, vm))
        return
    key, equals, _ = incomplete.partition("=")
    if equals:
        yield from ((f"{key}={value}", "") for value in _values(key, vm))
        return
    given = {word.partition("=")[0] for word in before}
    keys = {key: text for key, text in _keys(vm, incomplete) if key.startswith(incomplete) and key not in given}
    yield from ((f"{key}=", text) for key, text in keys.items())
    if len(keys) == 1:  # a second word that begins so keeps the shell from adding a blank behind the first
        yield from ((f"{key}={value}", "") for key in keys for value in _values(key, vm))


def _key_split_off(before: Sequence[str]) -> str:
    """The key whose value is being typed where the shell made words of its own of `KEY`, `=` and value: bash."""
    if len(before) > 1 and before[-1] == "=":
        return before[-2]
    typed, cursor = os.environ.get("COMP_WORDS", "").split("\n"), os.environ.get("COMP_CWORD", "")
    at_equals = cursor.isdecimal() and typed[int(cursor) : int(cursor) + 1] == ["="]
    return before[-1] if at_equals and before else ""


def _keys(vm: Vm | None, incomplete: str) -> Iterator[tuple[str, str]]:
    """Every key that can be set, with this VM's disks or the disk or pool that is being typed.

    The rarer ones come once a disk, or the part up to the dot, was typed.
    """
    from ringfence.knobs.registry import rows

    typed = incomplete.split(".")
    named = typed[0] if len(typed) > 2 else ""
    disks = _disks(vm) if vm and not named and "disk.".startswith(typed[0]) else []
    for row in rows():
        if row.read_only:
            continue
        kind = row.key.partition(".")[0]
        slot = f"<{kind}>"
        if slot not in row.key:
            if "<" in row.key:
                continue
            if row.main or "." in incomplete:
                yield row.key, row.help
        elif row.main or kind == named:
            names = [typed[1]] if kind == named else disks if kind == "disk" else []
            yield from ((row.key.replace(slot, name), row.help) for name in names)


def _values(key: str, vm: Vm | None) -> list[str]:
    """What is known of a key's values; the figures in between are the user's to know."""
    from ringfence.knobs.memory.choose import START_WITH
    from ringfence.knobs.registry import parse_key
    from ringfence.units import MIB, SWITCH

    row = parse_key(key).row
    if row.unit == SWITCH:
        return ["on", row.lifted]
    if row.lifts:
        return [row.lifted]
    if row.key == "memory.target.via":
        return list(START_WITH)
    if vm is None:
        return []
    if row.key == "vcpus":
        return [str(count) for count in range(1, vm.vcpus_max + 1)]
    return [f"{vm.memory_bytes // part // MIB}MiB" for part in (2, 1) if vm.memory_bytes]


def _disks(vm: Vm) -> list[str]:
    """What its disks are called now, or were at its start when its monitor is busy or silent."""
    import asyncio

    from ringfence.engine.survey import survey
    from ringfence.host.socket_table import SocketTable

    (entry,) = asyncio.run(survey([vm], SocketTable(), timeout_s=_ANSWER_WITHIN_S))
    return _plain(disk["name"] for disk in entry["disks"])


def _find(selector: str | None, qmp: str | None) -> Vm | None:
    from ringfence.cli import target
    from ringfence.errors import UsageError

    try:
        return target.find(selector, qmp)
    except UsageError:
        return None


def _plain(names: Iterable[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if _PLAIN.fullmatch(name)]
