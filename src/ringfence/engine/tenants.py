"""The tenants of this host, and how they are reached."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress

from ringfence.core.host_check import Capacity
from ringfence.core.model import Tenant
from ringfence.core.spec import Rank, Spec
from ringfence.engine import api, authors
from ringfence.engine.doors import GREETING_TIMEOUT_S
from ringfence.engine.driver import ANSWER_TIMEOUT_S
from ringfence.engine.transaction import Doors, Opened
from ringfence.errors import UsageError


def find(selectors: Iterable[str] = ()) -> list[Tenant]:
    """Every VM and container that this user may see, and the cgroups that are named.

    :param selectors: such as `cgroup:/web`; other names, and those of what does not run, are passed over.
    """
    from ringfence.host import containers
    from ringfence.qemu.discovery import find_vms

    found: list[Tenant] = [*find_vms(), *containers.find_containers()]
    for selector in selectors:
        if selector.startswith(("container:", "cgroup:")):
            with suppress(UsageError):
                found.append(containers.find(selector))
    return list(dict.fromkeys(found))


def capacity() -> Capacity:
    """What this host has."""
    import os

    online: set[int] = set()
    with suppress(OSError, ValueError), open("/sys/devices/system/cpu/online", encoding="ascii") as file:
        for part in file.read().strip().split(","):
            first, _, last = part.partition("-")
            online.update(range(int(first), int(last or first) + 1))
    return Capacity(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), frozenset(online))


def named_by(spec: Spec) -> list[str]:
    """The names that a spec has, for `find`."""
    return [rule.selector.text for rule in spec.rules if rule.selector.rank is Rank.NAME]


def doors(*, greeting_timeout_s: float = GREETING_TIMEOUT_S, answer_timeout_s: float = ANSWER_TIMEOUT_S) -> Doors:
    """This host's own; the times are those of `api.open_tenant`."""

    async def open_(tenant: Tenant) -> Opened:
        return api.open_tenant(tenant, greeting_timeout_s=greeting_timeout_s, answer_timeout_s=answer_timeout_s)

    return Doors(open_, api.turn, authors.identity, time.time)
