"""A fence divided into what can be kept apart, so that a guest that still boots holds up no disk limit.

One kind is what touches each other: a disk's limits and its pools; memory; vCPUs; the share of the CPU.
"""

from __future__ import annotations

from ringfence.core.spec import Fence, Rule, Spec

_WHOSE = {"pool": "disk"}


def kind_of(key: str) -> str:
    """The kind that a key belongs to."""
    head = key.partition(".")[0]
    return _WHOSE.get(head, head)


def kinds(fence: Fence) -> tuple[str, ...]:
    """The kinds of a fence, those of the host first: they need neither QEMU nor the guest."""
    found = dict.fromkeys(kind_of(key) for key in fence.settings)
    return tuple(sorted(found, key=lambda kind: (kind in _GUESTS, kind)))


_GUESTS = ("memory", "vcpus")
"""What takes a guest that has booted; it comes last, and is tried again while the guest comes up."""


def waits_for_guest(kind: str) -> bool:
    """Whether a guest that still boots is the likely reason that it cannot be done yet."""
    return kind in _GUESTS


def only(spec: Spec, kind: str) -> Spec:
    """The same spec with nothing in it but this kind."""
    rules = tuple(_rule(rule, kind) for rule in spec.rules)
    return spec._replace(rules=tuple(rule for rule in rules if rule.settings))


def _rule(rule: Rule, kind: str) -> Rule:
    return rule._replace(settings=tuple(one for one in rule.settings if kind_of(one.key) == kind))


def pools_of(fence: Fence, spec: Spec) -> frozenset[str]:
    """The host's pools that a tenant's disks are in: their quota is divided by how many there are."""
    found = (one.value for key, one in fence.settings.items() if key.endswith(".pool"))
    return frozenset(str(value) for value in found if value in spec.pools)
