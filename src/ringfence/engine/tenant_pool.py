"""Keeps one quota over disks of several VMs, by the policy in `ringfence.policies.tenant_pool`.

Eight times a second: read what every member has done, divide, lower those that shrink, then raise those that grow.
A member that cannot be asked or set any more is dropped, its last limit stays, and the others are told why.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from ringfence.core.answers import entries, fields, number
from ringfence.core.knob import Verdict
from ringfence.core.requests import Qmp, Steps
from ringfence.engine.api import OpenVm
from ringfence.engine.driver import observe
from ringfence.errors import MonitorError, RingfenceError, UsageError
from ringfence.knobs import registry
from ringfence.policies.tenant_pool import Share, TenantPool, Use

TICK_S = 0.125
"""A tenth of a second of credit is the finest thing QEMU's throttle knows. Eight ticks make a second."""

_TRIES = 3
_COUNTERS = {"iops": ("rd_operations", "wr_operations"), "bps": ("rd_bytes", "wr_bytes")}


class Member(NamedTuple):
    """One disk in the pool. :param disk: any name of it. :param weight: against the others."""

    vm: OpenVm
    disk: str
    weight: float = 1.0

    @property
    def name(self) -> str:
        """For messages, and to tell members apart."""
        return f"{self.vm.info.name}:{self.disk}"


class Tick(NamedTuple):
    """What one round saw and decided.

    :param uses: by member; `shares` the limits that follow; `dropped` why members left in this round.
    """

    uses: Mapping[str, Use]
    shares: Mapping[str, Share]
    dropped: Mapping[str, str]


class _Reading(NamedTuple):
    done: int
    requests: int
    at_s: float


class PoolLoop:
    """The loop over its members.

    :param kind: `iops` or `bps`.
    :raise UsageError: no members, one disk twice, or a quota too small to divide.
    """

    def __init__(self, members: Iterable[Member], kind: str, quota_per_s: int) -> None:
        listed = list(members)
        self._members = {member.name: member for member in listed}
        if len(self._members) < len(listed):
            raise UsageError("a disk is named twice", hint="give each disk once")
        self._reserved: dict[str, int] = {}
        self._silent: dict[str, int] = {}
        self._kind, self._quota = kind, quota_per_s
        self._paths: dict[str, str] = {}
        self._limits: dict[str, int] = {}
        self._readings: dict[str, _Reading] = {}
        try:
            self._policy = TenantPool(quota_per_s, {name: member.weight for name, member in self._members.items()})
        except ValueError as error:
            raise _no_pool(error) from None

    async def start(self) -> Mapping[str, Share]:
        """Find the disks and set the first limits, by weight.

        :raise UsageError: a name fits no disk or several, or two members are the same disk.
        :raise TenantError: a disk already has limits that exclude this one.
        :raise MonitorError: a VM cannot be talked to. Limits set until then stay, and `state` names them.
        """
        for name, member in self._members.items():
            (step,) = await member.vm.plan({f"disk.{member.disk}.{self._kind}": None})
            state = step.part.state
            self._paths[name] = state.disk.qdev
            _check_alone(name, self._kind, state.limits, state.members)
        if len({(id(self._members[name].vm), path) for name, path in self._paths.items()}) < len(self._paths):
            raise UsageError("a disk is named twice", hint="give each disk once")
        shares = self._policy.begin(time.monotonic())
        try:
            for name, share in shares.items():
                await self._set(name, share.limit_per_s)
            for name in self._members:
                self._readings[name] = await self._read(name)
        except RingfenceError as error:
            if self._limits:
                error.add_state(
                    "limits set: " + ", ".join(f"{n} {v} {self._kind}" for n, v in self._limits.items())
                )
            raise
        return shares

    async def tick(self) -> Tick:
        """One round. While a member does not answer, nothing is moved; after three times it is dropped.

        Its limit stays in force as long as its QEMU lives, so that much of the quota stays reserved for it.

        :raise UsageError: no member is left.
        """
        dropped: dict[str, str] = {}
        names = list(self._members)
        answers = await asyncio.gather(*(self._read(name) for name in names), return_exceptions=True)
        uses: dict[str, Use] = {}
        for name, answer in zip(names, answers, strict=True):
            if isinstance(answer, RingfenceError):
                dropped[name] = answer.message
            elif isinstance(answer, BaseException):
                raise answer
            else:
                uses[name] = self._use(name, answer)
        silent = {name for name in dropped if self._waits_for(name)}
        if silent:
            still = {
                name: Share(limit, "nothing is moved while somebody is silent")
                for name, limit in self._limits.items()
            }
            return Tick(uses, still, {})
        self._silent.clear()
        self._drop(dropped)
        shares = self._policy.step(time.monotonic(), list(uses.values()))
        for name in sorted(shares, key=lambda name: shares[name].limit_per_s - self._limits[name]):
            try:
                await self._set(name, shares[name].limit_per_s)
            except RingfenceError as error:
                dropped[name] = error.message
        self._drop({name: why for name, why in dropped.items() if name in self._members})
        return Tick(uses, shares, dropped)

    async def run(self, on_tick: Callable[[Tick], None], *, tick_s: float = TICK_S) -> None:
        """Round after round until cancelled; then the limits are those by weight, whose sum keeps the quota."""
        try:
            while True:
                started = time.monotonic()
                on_tick(await self.tick())
                await asyncio.sleep(max(0.0, tick_s - (time.monotonic() - started)))
        finally:
            await asyncio.shield(self.settle())

    async def settle(self) -> None:
        """Set the limits by weight alone; members that cannot be set keep what they have."""
        for name, share in sorted(self._policy.split().items(), key=lambda item: item[1].limit_per_s):
            try:
                await self._set(name, share.limit_per_s)
            except RingfenceError:
                continue

    def _drop(self, dropped: Mapping[str, str]) -> None:
        for name in dropped:
            member = self._members.pop(name)
            limit = self._limits.pop(name)
            if member.vm.edges.rss_bytes() is not None:
                self._reserved[name] = limit
        if not self._members:
            raise UsageError(
                "no member of the pool is left", hint="; ".join(f"{n}: {w}" for n, w in dropped.items())
            )
        for name in dropped:
            try:
                self._policy.drop(name, self._quota - sum(self._reserved.values()))
            except ValueError as error:
                raise _no_pool(error) from None

    def _waits_for(self, name: str) -> bool:
        """Whether a member that did not answer may have another try: not when its QEMU has ended."""
        self._silent[name] = self._silent.get(name, 0) + 1
        return self._silent[name] < _TRIES and self._members[name].vm.edges.rss_bytes() is not None

    def _use(self, name: str, now: _Reading) -> Use:
        last, self._readings[name] = self._readings[name], now
        seconds = max(now.at_s - last.at_s, 1e-3)
        done, requests = now.done - last.done, now.requests - last.requests
        return Use(name, self._limits[name], done / seconds, done / requests if requests > 0 else 1.0)

    async def _read(self, name: str) -> _Reading:
        done = await observe(_done(self._paths[name], self._kind), self._members[name].vm.edges)
        if done is None:
            raise UsageError(f"{name}: the disk is gone")
        return _Reading(*done, time.monotonic())

    async def _set(self, name: str, limit_per_s: int) -> None:
        if self._limits.get(name) == limit_per_s:
            return
        member = self._members[name]
        (result,) = await member.vm.set({f"disk.{member.disk}.{self._kind}": limit_per_s})
        if result.verdict is not Verdict.APPLIED:
            raise MonitorError(
                f"{name}: limit {limit_per_s} {result.verdict}: {result.detail}",
                hint=result.hint,
                state=result.state,
            )
        self._limits[name] = limit_per_s


def _no_pool(error: ValueError) -> UsageError:
    return UsageError(str(error), hint="raise the quota, or give weights above 0")


def _check_alone(name: str, kind: str, limits: Mapping[str, int], members: Sequence[str]) -> None:
    """:raise UsageError: a burst, or a group, would void the quota."""
    bursts = [
        field
        for field, value in limits.items()
        if value and field in (f"{kind}_max", f"{kind}_rd_max", f"{kind}_wr_max")
    ]
    if bursts:
        raise UsageError(
            f"{name} has a burst, which would pass the quota", hint=f"lift its limits first: {kind}=unlimited"
        )
    if members:
        raise UsageError(
            f"{name} shares a throttle group with {', '.join(members)}", hint="take it out: group=none"
        )


def _done(qdev: str, kind: str) -> Steps[tuple[int, int] | None]:
    """What a disk has done in sum, and in how many requests; None when the VM has no such disk."""
    for block in entries((yield Qmp("query-blockstats"))):
        if block.get("qdev") == qdev:
            stats = fields(block["stats"])
            done, requests = (sum(number(stats[name]) for name in _COUNTERS[of]) for of in (kind, "iops"))
            return done, requests
    return None


def parse_member(text: str) -> tuple[str, str, float]:
    """`web1:vda` or `web1:vda=2` as VM, disk and weight.

    :raise UsageError: it is neither.
    """
    name, _, weight = text.partition("=")
    vm, colon, disk = name.rpartition(":")
    try:
        number = float(weight) if weight else 1.0
    except ValueError:
        number = 0.0
    if not (vm and colon and disk) or not 0 < number < float("inf"):
        raise UsageError(f"{text!r} is no member", hint="write VM:DISK or VM:DISK=WEIGHT, such as web1:vda=2")
    registry.parse_key(f"disk.{disk}.iops")
    return vm, disk, number
