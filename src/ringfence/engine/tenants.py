"""The tenants of this host, and how they are reached."""

from __future__ import annotations

import time
from contextlib import suppress

from ringfence.core.model import Tenant
from ringfence.core.spec import Rank, Spec
from ringfence.engine import api, authors
from ringfence.engine.doors import GREETING_TIMEOUT_S
from ringfence.engine.driver import ANSWER_TIMEOUT_S
from ringfence.engine.transaction import Doors, Opened
from ringfence.errors import UsageError


def find(spec: Spec) -> list[Tenant]:
    """Every VM that this user may see, and the containers and cgroups that a spec names."""
    from ringfence.host import containers
    from ringfence.qemu.discovery import find_vms

    found: list[Tenant] = list(find_vms())
    for rule in spec.rules:
        if rule.selector.rank is Rank.NAME and rule.selector.kind != "vm":
            with suppress(UsageError):  # it does not run now: the plan tells
                found.append(containers.find(rule.selector.text))
    return list(dict.fromkeys(found))


def doors(*, greeting_timeout_s: float = GREETING_TIMEOUT_S, answer_timeout_s: float = ANSWER_TIMEOUT_S) -> Doors:
    """This host's own; the times are those of `api.open_tenant`."""

    async def open_(tenant: Tenant) -> Opened:
        return api.open_tenant(tenant, greeting_timeout_s=greeting_timeout_s, answer_timeout_s=answer_timeout_s)

    return Doors(open_, api.turn, authors.identity, time.time)
