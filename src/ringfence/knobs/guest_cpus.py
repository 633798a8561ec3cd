"""PURE: the CPUs a guest uses, by its agent's word. It need not be true: QEMU's own count stands beside it.

Source: QEMU qga/qapi-schema.json (guest-get-vcpus, guest-set-vcpus).
"""

from __future__ import annotations

from ringfence.core.answers import ILL_FORMED, entries, ill_formed, number
from ringfence.core.requests import Agent, Clock, Steps, Wait
from ringfence.errors import GuestError

_POLL_S = 0.1


def online() -> Steps[int | None]:
    """CPUs the guest has online by its agent's word; None without an agent."""
    try:
        cpus = yield from _cpus(1.0)
    except GuestError:
        return None
    return sum(cpus.values())


def bring_online(want: int, deadline: float) -> Steps[int | None]:
    """Have the guest use what it has: its own policy may be slow or not there, its agent can do it.

    Returns the CPUs online in the end; None when the guest cannot be asked.
    """
    while True:
        try:
            cpus = yield from _cpus()
            offline = [{"logical-id": cpu, "online": True} for cpu, is_online in cpus.items() if not is_online]
            used = sum(cpus.values())
            if used < want and offline:
                yield Agent("guest-set-vcpus", {"vcpus": offline[: want - used]})
                used = sum((yield from _cpus()).values())
        except GuestError:
            return None
        now = yield Clock()
        if used >= want or now > deadline:
            return used
        yield Wait((), _POLL_S)


def settled(want: int, deadline: float) -> Steps[int | None]:
    """The guest's online CPUs, waited for while they come down to `want`."""
    while True:
        left = yield from online()
        now = yield Clock()
        if left is None or left <= want or now > deadline:
            return left
        yield Wait((), _POLL_S)


def _cpus(timeout_s: float = 5.0) -> Steps[dict[int, bool]]:
    """The guest's CPUs by its own number, and whether each is online.

    Raises GuestError also for an answer that is none: a guest's nonsense must not hide its other limits.
    """
    request = Agent("guest-get-vcpus", timeout_s=timeout_s)
    answer = yield request
    try:
        return {number(cpu["logical-id"]): bool(cpu["online"]) for cpu in entries(answer)}
    except ILL_FORMED as error:
        raise ill_formed(request, error) from error
