"""The tenants of this host, and how they are reached."""

from __future__ import annotations

import time

from ringfence.core.model import Vm
from ringfence.engine import api, authors
from ringfence.engine.transaction import Doors


def find() -> list[Vm]:
    """Every tenant that this user may see."""
    from ringfence.qemu.discovery import find_vms

    return find_vms()


def doors(*, greeting_timeout_s: float | None = None, answer_timeout_s: float | None = None) -> Doors:
    """This host's own; the times are those of `api.open_vm`."""
    given = {"greeting_timeout_s": greeting_timeout_s, "answer_timeout_s": answer_timeout_s}
    times = {name: seconds for name, seconds in given.items() if seconds is not None}
    return Doors(lambda vm: api.open_vm(vm, **times), api.turn, authors.identity, time.time)
