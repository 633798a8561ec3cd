"""What ringfence has made on this host, found again by its names: what need not be remembered is not lost.

Every kind of thing has a module with `find` and `remove`; all that it finds carries ringfence's prefix.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import NamedTuple, Protocol, cast

from ringfence.errors import HostError

KINDS = ("made_groups", "made_resctrl", "made_queues")
"""Modules beside this one, in the order in which their things are to be removed."""


class Made(NamedTuple):
    """One thing that ringfence made.

    :param kind: `cgroup`, `scope`, ...
    :param name: what the kernel, or systemd, calls it.
    :param holds: what it is there for at present, such as the processes in it; empty when it is a left-over.
    :param module: of `KINDS`, which removes it.
    """

    kind: str
    name: str
    holds: str
    module: str


def find(root: str = "") -> list[Made]:
    """Everything, in the order in which it can be removed. What this user may not see is left out."""
    return [made for kind in KINDS for made in _module(kind).find(root)]


async def remove(found: list[Made], root: str = "") -> list[tuple[Made, HostError | None]]:
    """Remove these, going on after one that cannot be; each with why not."""
    results: list[tuple[Made, HostError | None]] = []
    for made in found:
        try:
            await _module(made.module).remove(made, root)
        except HostError as error:
            results.append((made, error))
        else:
            results.append((made, None))
    return results


class _Kind(Protocol):
    """What a module of `KINDS` has."""

    def find(self, root: str) -> Iterable[Made]: ...

    async def remove(self, made: Made, root: str) -> None: ...


def _module(kind: str) -> _Kind:
    return cast("_Kind", import_module(f"ringfence.host.{kind}"))
