"""By whose hand a value is what it is, as far as the journal and the process can tell. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ringfence.core.knob import CONTAINER, Knob, Observation, Value
from ringfence.engine.fences import TenantPlan
from ringfence.engine.journal import MIXED, NEW, Change, Transaction

NOBODY, OURS, RESTART, GUEST, MONITOR, HOST = "nobody", "ringfence", "restart", "guest", "monitor", "host"


class Hand(NamedTuple):
    """Who did it. :param hand: one of the words above. :param said: for people.

    :param transaction: the last one of ringfence's that set it, None where there is none.
    """

    hand: str
    said: str
    transaction: Transaction | None = None


class Setter(NamedTuple):
    """A transaction that set a key: from what, to what, by which rule."""

    transaction: Transaction
    change: Change
    before: Value | None
    after: Value | None
    rule: str


def setters(key: str, history: Sequence[Transaction], tenant: str) -> list[Setter]:
    """Who set a key of a tenant, the last first.

    :param history: the tenant's transactions, newest first.
    """
    found: list[Setter] = []
    for transaction in history:
        for change in transaction.changes:
            if change.tenant != tenant or change.state not in (NEW, MIXED):
                continue
            before = change.before.get(key)
            after = change.asked.get(key) if change.after is None else change.after.get(key)
            if key in change.asked or before != after:
                found.append(Setter(transaction, change, before, after, change.rules.get(key, "")))
    return found


def hand(
    observation: Observation,
    history: Sequence[Transaction],
    tenant: str,
    identity: str,
    started_at_s: float | None,
    *,
    is_host: bool,
) -> Hand:
    """By whose hand a value is what it is now.

    :param identity: of the tenant's process now; `started_at_s` when it was started.
    :param is_host: the knob is the kernel's, not QEMU's.
    """
    last = next(iter(setters(observation.key, history, tenant)), None)
    if last is None:
        return Hand(NOBODY, "ringfence has not set it")
    if last.change.identity != identity:
        return Hand(RESTART, "its process was started again since ringfence set it", last.transaction)
    if observation.target == last.after:
        if observation.actual != observation.target:
            return Hand(GUEST, "ringfence asked for it, and the guest has not come to it or has left it")
        undone = " in taking another change back" if last.transaction.kind in ("undo", "revert") else ""
        return Hand(OURS, f"ringfence set it so{undone}", last.transaction)
    if started_at_s is not None and started_at_s > last.transaction.at_s:
        return Hand(RESTART, "it was started again since ringfence set it", last.transaction)
    if is_host:
        said = "something else on the host has written it since, such as systemd at a daemon-reload"
        return Hand(HOST, said, last.transaction)
    return Hand(MONITOR, "another client of QEMU's monitor has set it since", last.transaction)


def is_host(knob: Knob) -> bool:
    """Whether a knob is the kernel's: a container has no QEMU, so what concerns one is."""
    return CONTAINER in knob.tenants


class Difference(NamedTuple):
    """One key that is not as fenced. :param want: what it is fenced to be."""

    tenant: str
    observation: Observation
    want: Value | None
    hand: Hand


def differences(
    plan: TenantPlan, history: Sequence[Transaction], identity: str, started_at_s: float | None
) -> list[Difference]:
    """Where a tenant is not as its fence says.

    :param history: its transactions, newest first. The others are as for `hand`.
    """
    found: list[Difference] = []
    for step in plan.steps:
        for leaf, key in step.keys.items():
            observation = step.knob.observation(step.part, key.row)
            want = step.wants[leaf]
            if key.row.modifies or observation.target == observation.actual == want:
                continue
            by = hand(observation, history, plan.name, identity, started_at_s, is_host=is_host(step.knob))
            found.append(Difference(plan.name, observation, want, by))
    return found
