"""PURE: the CPUs a guest uses, by its agent's word. It need not be true: QEMU's own count stands beside it.

Source: QEMU qga/qapi-schema.json (guest-get-vcpus, guest-set-vcpus).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ringfence.core.answers import ILL_FORMED, entries, ill_formed, number
from ringfence.core.requests import Agent, Clock, Steps, Wait
from ringfence.errors import GuestError

_POLL_S = 0.1


class GuestCpu(NamedTuple):
    """:param number: the guest's own, not QEMU's."""

    number: int
    online: bool
    can_offline: bool


def read() -> Steps[tuple[GuestCpu, ...] | None]:
    """The CPUs that the guest knows; None without an agent."""
    try:
        return (yield from _cpus(1.0))
    except GuestError:
        return None


def online() -> Steps[int | None]:
    """How many it has online; None without an agent."""
    cpus = yield from read()
    return None if cpus is None else sum(cpu.online for cpu in cpus)


def bring_online(want: int, deadline: float) -> Steps[int | None]:
    """Have the guest use what it has: its own policy may be slow or not there, its agent can do it.

    Returns the CPUs online in the end; None when the guest cannot be asked.
    """
    while True:
        try:
            cpus = yield from _cpus()
            request = switch(cpus, want) if sum(cpu.online for cpu in cpus) < want else None
            if request:
                yield request
                cpus = yield from _cpus()
        except GuestError:
            return None
        used = sum(cpu.online for cpu in cpus)
        now = yield Clock()
        if used >= want or now > deadline:
            return used
        yield Wait((), _POLL_S)


def switch(cpus: Sequence[GuestCpu], want: int) -> Agent | None:
    """What has the guest use `want` of its CPUs, the first ones; None when it does, or can do no more."""
    used = sum(cpu.online for cpu in cpus)
    if used < want:
        chosen = [cpu for cpu in cpus if not cpu.online][: want - used]
    else:
        chosen = [cpu for cpu in reversed(cpus) if cpu.online and cpu.can_offline][: used - want]
    wanted = [{"logical-id": cpu.number, "online": used < want} for cpu in chosen]
    return Agent("guest-set-vcpus", {"vcpus": wanted}) if wanted else None


def settled(want: int, deadline: float) -> Steps[int | None]:
    """The guest's online CPUs, waited for while they come down to `want`."""
    while True:
        left = yield from online()
        now = yield Clock()
        if left is None or left <= want or now > deadline:
            return left
        yield Wait((), _POLL_S)


def _cpus(timeout_s: float = 5.0) -> Steps[tuple[GuestCpu, ...]]:
    """Raises GuestError also for an answer that is none: a guest's nonsense must not hide its other limits."""
    request = Agent("guest-get-vcpus", timeout_s=timeout_s)
    answer = yield request
    try:
        return tuple(
            GuestCpu(number(cpu["logical-id"]), bool(cpu["online"]), bool(cpu.get("can-offline", True)))
            for cpu in entries(answer)
        )
    except ILL_FORMED as error:
        raise ill_formed(request, error) from error
