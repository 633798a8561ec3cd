"""PURE: from fences and what was observed to a plan, for a real host as for a simulated one.

A tenant whose fence cannot wholly be met is left as it is: its problems are told, and its steps are not taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import NamedTuple

from ringfence.core.host_check import Capacity, Demand, complaints
from ringfence.core.knob import CONTAINER, VM, Knob, Part, Value
from ringfence.core.model import Container, Tenant
from ringfence.core.spec import BOUNDS, GLOB, Fence, Fences, Pool, Rank, Rule, Setting, Spec, selector
from ringfence.core.vocabulary import LENGTH, Vocabulary, vocabulary
from ringfence.engine.changes import Problem, Step, gathered, refusals
from ringfence.errors import RingfenceError, UsageError
from ringfence.knobs import registry

_SHARED_LEAVES = ("iops", "bps")  # the rates of a pool, which its tenants divide; lengths and sizes are the same


class Seen(NamedTuple):
    """What was read of one tenant.

    :param observed: the parts of every knob that its fence names.
    :param error: why it could not be read; then `observed` is empty.
    """

    tenant: Tenant
    fence: Fence
    observed: Mapping[Knob, tuple[Part, ...]]
    error: RingfenceError | None = None


class TenantPlan(NamedTuple):
    """What is to be done to one tenant.

    :param steps: in order; those that are as wanted already are left out.
    :param in_step: how many keys are as wanted already.
    :param problems: why its fence cannot be met; then no step is taken.
    :param settings: what each key of the steps was wanted by; the key is as the step has it.
    """

    seen: Seen
    steps: tuple[Step, ...]
    in_step: int
    problems: tuple[Problem, ...]
    settings: Mapping[str, Setting]

    @property
    def name(self) -> str:
        """What people call it."""
        tenant = self.seen.tenant
        return tenant.selector if isinstance(tenant, Container) else tenant.name

    @property
    def ready(self) -> bool:
        """Whether there is something to do, and nothing against it."""
        return bool(self.steps) and not self.problems


class Plan(NamedTuple):
    """What is to be done to a host.

    :param missing: rules for tenants that do not run now.
    :param complaints: what the host as a whole cannot bear; then nothing may be applied.
    """

    tenants: tuple[TenantPlan, ...]
    missing: tuple[Rule, ...]
    complaints: tuple[UsageError, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether the host is in step with its fences."""
        return not self.complaints and all(not t.steps and not t.problems for t in self.tenants)


@lru_cache(maxsize=1)
def words() -> Vocabulary:
    """The words of a file of fences."""
    rows = registry.rows()
    known = {row.key for row in rows}
    return vocabulary([*rows, *(row for row in BOUNDS if row.key not in known)])


@lru_cache(maxsize=1)
def bound_keys() -> frozenset[str]:
    """Those of `core.spec.BOUNDS` that are no knobs."""
    known = {row.key for row in registry.rows()}
    return frozenset(row.key for row in BOUNDS if row.key not in known)


def read_value(key: str, text: str) -> Value | None:
    """A value of a file; for `core.spec_read.document`.

    :raise UsageError: it cannot be read as one.
    """
    bound = next((row for row in BOUNDS if row.key == key and key in bound_keys()), None)
    if bound is not None:
        return registry.parse_value(registry.Key(key, registry.knobs()[0], "", "", bound), text)
    return registry.parse_value(registry.parse_key(key), text)


def fences(spec: Spec) -> Fences:
    """Finds the fence of each tenant."""
    return Fences(spec, bound_keys())


def names(tenant: Tenant) -> tuple[tuple[str, str], ...]:
    """Every name that a rule may call a tenant by, as `(kind, name)`."""
    if isinstance(tenant, Container):
        group = ("cgroup", tenant.cgroup)
        return (group,) if tenant.engine == "cgroup" else (("container", tenant.name), group)
    return (("vm", tenant.name), ("vm", tenant.uuid)) if tenant.uuid else (("vm", tenant.name),)


def knobs_of(fence: Fence, tenant: Tenant) -> tuple[Knob, ...]:
    """The knobs to observe for a tenant's fence; those that do not concern it are left out."""
    knobs = dict.fromkeys(registry.parse_key(key).knob for key in _keys_to_read(fence))
    return tuple(knob for knob in knobs if _kind(tenant) in knob.tenants)


def _kind(tenant: Tenant) -> str:
    return CONTAINER if isinstance(tenant, Container) else VM


def _keys_to_read(fence: Fence) -> Iterable[str]:
    for key in fence.settings:
        yield key
        if key.endswith(".pool"):
            yield "pool.any.iops"


def plan(spec: Spec, seen: Sequence[Seen], *, force: bool = False, host: Capacity | None = None) -> Plan:
    """What leads from what was seen to what the spec says. Pure.

    :param seen: every tenant of the host that has a fence.
    :param force: also what would only hurt the guest itself.
    :param host: what the host has; without it nothing is held against that.
    """
    wanted = [_wanted(one) for one in seen]
    shares = _shares(spec.pools, wanted)
    tenants = tuple(
        _tenant_plan(one, {**wants, **more}, force=force)
        for one, wants, more in zip(seen, wanted, shares, strict=True)
    )
    missing = tuple(fences(spec).missing([names(one.tenant) for one in seen]))
    if host is None:
        return Plan(tenants, missing)
    demands = [Demand(one.name, wants, one.seen.fence.bounds) for one, wants in zip(tenants, wanted, strict=True)]
    return Plan(tenants, missing, tuple(complaints(host, demands, spec.pools)))


def _wanted(seen: Seen) -> dict[str, Setting]:
    """The settings of a tenant's fence, with those for several instances spread over its own."""
    plain: dict[str, Setting] = {}
    spread: dict[str, Setting] = {}
    for text, setting in seen.fence.settings.items():
        key = registry.parse_key(text)
        if not GLOB & set(key.instance):
            plain[text] = setting
            continue
        for part in seen.observed.get(key.knob, ()):
            if any(fnmatchcase(name, key.instance) for name in (part.name, *part.aliases)):
                one = _with_instance(key, part.name)
                spread[one] = setting._replace(key=one)
    if not spread:
        return plain
    taken = {_identity(seen, key) for key in plain}
    return {**{key: one for key, one in spread.items() if _identity(seen, key) not in taken}, **plain}


def _with_instance(key: registry.Key, name: str) -> str:
    head, _, tail = key.row.key.partition("<")
    return f"{head}{name}{tail.partition('>')[2]}"


def _identity(seen: Seen, text: str) -> tuple[Knob, str, str]:
    """What two keys have in common when they are the same thing under two names."""
    key = registry.parse_key(text)
    for part in seen.observed.get(key.knob, ()):
        if key.instance == part.name or key.instance in part.aliases:
            return key.knob, part.identity or part.name, key.leaf
    return key.knob, key.instance, key.leaf


def _shares(pools: Mapping[str, Pool], wanted: Sequence[Mapping[str, Setting]]) -> list[dict[str, Setting]]:
    """Each tenant's part of the pools of the host: by the number of its disks in each.

    A pool is an object of one VM's QEMU, so that several VMs have one each; together they are never more than the
    pool's quota.
    """
    members = [
        [str(setting.value) for key, setting in wants.items() if key.endswith(".pool") and setting.value in pools]
        for wants in wanted
    ]
    total: dict[str, int] = {}
    for names_ in members:
        for name in names_:
            total[name] = total.get(name, 0) + 1
    shares: list[dict[str, Setting]] = []
    for names_ in members:
        mine: dict[str, Setting] = {}
        for name in dict.fromkeys(names_):
            for leaf, setting in pools[name].settings.items():
                value = setting.value
                if isinstance(value, int) and leaf.startswith(_SHARED_LEAVES) and not leaf.endswith(LENGTH):
                    value = max(1, value * names_.count(name) // total[name])
                key = f"pool.{name}.{leaf}"
                mine[key] = Setting(key, value, setting.place, f"pools.{name}")
        shares.append(mine)
    return shares


def _tenant_plan(seen: Seen, settings: Mapping[str, Setting], *, force: bool) -> TenantPlan:
    if seen.error is not None:
        problem = Problem(tuple(settings), seen.error)
        return TenantPlan(seen, (), 0, (problem,), settings)
    problems = _out_of_bounds(seen.fence)
    wanted: list[tuple[registry.Key, Value | None]] = []
    for text, setting in settings.items():
        key = registry.parse_key(text)
        if key.knob in seen.observed:
            wanted.append((key, setting.value))
        elif selector(setting.rule).rank is Rank.NAME:  # who names all, means whom it concerns
            error = UsageError(f"{setting.place}: {text} is not for a {_kind(seen.tenant)}")
            problems.append(Problem((text,), error))
    steps, unknown = gathered(wanted, seen.observed)
    left = tuple(step for step in steps if not step.in_step())
    problems += [*unknown, *refusals(left, force=force)]
    in_step = sum(len(step.keys) for step in steps) - sum(len(step.keys) for step in left)
    return TenantPlan(seen, left, in_step, tuple(problems), settings)


def _out_of_bounds(fence: Fence) -> list[Problem]:
    target = fence.settings.get("memory.target")
    low, high = fence.bounds.get("memory.min"), fence.bounds.get("memory.max")
    if target is None or target.value is None:
        return []
    value = int(target.value)
    if low and low.value is not None and value < int(low.value):
        error = UsageError(f"{target.place}: memory.target is below memory.min", hint=f"see {low.place}")
    elif high and high.value is not None and value > int(high.value):
        error = UsageError(f"{target.place}: memory.target is above memory.max", hint=f"see {high.place}")
    else:
        return []
    return [Problem(("memory.target",), error)]
