"""PURE: the CPU time of a group: cap, weight and burst, on v1 and v2, written or told to systemd.

Sources: the kernel's Documentation/scheduler/sched-bwc.rst, cgroup-v2.rst (cpu.max, cpu.weight, cpu.max.burst);
systemd.resource-control(5) (CPUQuotaPerSecUSec, CPUQuotaPeriodUSec, CPUWeight).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ringfence.core.requests import HostRequest, ReadFile, Steps, Systemd, WriteFile
from ringfence.knobs.host.home import Do, Home

SHORT_PERIOD_US, PERIOD_US = 10_000, 100_000
"""A vCPU that is stopped by its quota may hold QEMU's big lock: with the kernel's own period of 100 ms the monitor
was seen to wait 99 ms, with 10 ms 19 ms. Containers keep the kernel's."""

QUOTA_MIN_US, PERIOD_MAX_US = 1000, 1_000_000
WEIGHT_DEFAULT, SHARES_DEFAULT = 100, 1024
INFINITY = 2**64 - 1


class Bandwidth(NamedTuple):
    """:param quota_us: of CPU time in each period, over all CPUs; None is unlimited.
    :param weight: from 1 to 10000, as v2 has it; v1's shares are 1024 where this is 100.
    :param burst_us: how much more a period may have of what earlier ones left; None where this kernel has none.
    """

    quota_us: int | None = None
    period_us: int = PERIOD_US
    weight: int = WEIGHT_DEFAULT
    burst_us: int | None = None

    @property
    def percent(self) -> int | None:
        """The cap in percent of one CPU, rounded; None is unlimited."""
        return None if self.quota_us is None else round(self.quota_us * 100 / self.period_us)


def read(home: Home) -> Steps[Bandwidth]:
    """What the kernel holds for a group; its defaults while there is none."""
    if not home.exists:
        return Bandwidth(burst_us=0)
    if home.version == 2:
        limit, weight, burst = yield [
            ReadFile(home.file("cpu.max")),
            ReadFile(home.file("cpu.weight")),
            ReadFile(home.file("cpu.max.burst"), optional=True),
        ]
        quota, period = limit.split()
        return Bandwidth(None if quota == "max" else int(quota), int(period), int(weight), _burst(burst))
    quota, period, shares, burst = yield [
        ReadFile(home.file("cpu.cfs_quota_us")),
        ReadFile(home.file("cpu.cfs_period_us")),
        ReadFile(home.file("cpu.shares")),
        ReadFile(home.file("cpu.cfs_burst_us"), optional=True),
    ]
    weight = max(1, round(int(shares) * WEIGHT_DEFAULT / SHARES_DEFAULT))
    return Bandwidth(None if int(quota) < 0 else int(quota), int(period), weight, _burst(burst))


def _burst(text: str | None) -> int | None:
    return None if text is None else int(text)


def capped(now: Bandwidth, percent: int | None, *, short: bool) -> Bandwidth:
    """`now` with another cap; its burst is cut to the new quota, which the kernel wants it within.

    :param short: whether the short period is wanted; a cap too small for it gets as long a one as it needs.
    """
    if percent is None:
        return now._replace(quota_us=None, burst_us=now.burst_us and 0)
    period = SHORT_PERIOD_US if short else now.period_us
    period = min(max(period, -(-QUOTA_MIN_US * 100 // percent)), PERIOD_MAX_US)
    quota = period * percent // 100
    return now._replace(quota_us=quota, period_us=period, burst_us=now.burst_us and min(now.burst_us, quota))


def changes(home: Home, now: Bandwidth, then: Bandwidth) -> Sequence[Do]:
    """What brings a group from `now` to `then`; nothing where it is so."""
    steps: list[Do] = []
    cap = (then.quota_us, then.period_us) != (now.quota_us, now.period_us)
    cap = cap and not (then.quota_us is None and now.quota_us is None)
    # A burst must fit into the quota at any time, so it goes down before, and up after.
    falls = then.burst_us is not None and then.burst_us < (now.burst_us or 0)
    if falls:
        steps.append(_burst_step(home, now, then))
    if home.unit:
        steps += _by_systemd(home, now, then, cap=cap)
    else:
        steps += (_v2_cap if home.version == 2 else _v1_cap)(home, now, then) if cap else ()
        if then.weight != now.weight:
            steps.append(_weight_step(home, now, then))
    if then.burst_us is not None and then.burst_us > (now.burst_us or 0):
        steps.append(_burst_step(home, now, then))
    return [*home.making, *steps] if steps else []


def _by_systemd(home: Home, now: Bandwidth, then: Bandwidth, *, cap: bool) -> list[Do]:
    """systemd writes what it knows of again whenever anything of the unit changes: so it must know."""
    wanted: dict[str, object] = {}
    before: dict[str, object] = {}
    if cap:
        wanted |= _quota_properties(then)
        before |= _quota_properties(now)
    if then.weight != now.weight:
        wanted["CPUWeight"], before["CPUWeight"] = then.weight, now.weight
    if not wanted:
        return []
    return [Do(_set(home, wanted), _set(home, before))]


def _set(home: Home, properties: Mapping[str, object]) -> Systemd:
    return Systemd("SetUnitProperties", home.unit, properties)


def _quota_properties(bandwidth: Bandwidth) -> dict[str, object]:
    if bandwidth.quota_us is None:
        return {"CPUQuotaPerSecUSec": INFINITY}
    per_second = bandwidth.quota_us * 1_000_000 // bandwidth.period_us
    return {"CPUQuotaPeriodUSec": bandwidth.period_us, "CPUQuotaPerSecUSec": per_second}


def _v2_cap(home: Home, now: Bandwidth, then: Bandwidth) -> list[Do]:
    path = home.file("cpu.max")
    return [Do(WriteFile(path, _max(then)), WriteFile(path, _max(now)))]


def _max(bandwidth: Bandwidth) -> str:
    return f"{'max' if bandwidth.quota_us is None else bandwidth.quota_us} {bandwidth.period_us}"


def _v1_cap(home: Home, now: Bandwidth, then: Bandwidth) -> list[Do]:
    """Quota and period are two files; between them the share must not pass the parent's: the quota goes first."""
    quota, period = home.file("cpu.cfs_quota_us"), home.file("cpu.cfs_period_us")

    def text(value: Bandwidth) -> str:
        return str(-1 if value.quota_us is None else value.quota_us)

    if then.period_us == now.period_us:
        return [Do(WriteFile(quota, text(then)), WriteFile(quota, text(now)))]
    steps = [Do(WriteFile(quota, "-1"), WriteFile(quota, text(now)))] if now.quota_us is not None else []
    steps.append(Do(WriteFile(period, str(then.period_us)), WriteFile(period, str(now.period_us))))
    return [*steps, Do(WriteFile(quota, text(then)), WriteFile(quota, "-1"))]


def _weight_step(home: Home, now: Bandwidth, then: Bandwidth) -> Do:
    path = home.file("cpu.weight" if home.version == 2 else "cpu.shares")
    new, old = (_weight_text(home, value) for value in (then, now))
    return Do(WriteFile(path, new), WriteFile(path, old))


def _weight_text(home: Home, bandwidth: Bandwidth) -> str:
    if home.version == 2:
        return str(bandwidth.weight)
    return str(max(2, round(bandwidth.weight * SHARES_DEFAULT / WEIGHT_DEFAULT)))


def _burst_step(home: Home, now: Bandwidth, then: Bandwidth) -> Do:
    path = home.file("cpu.max.burst" if home.version == 2 else "cpu.cfs_burst_us")
    return Do(WriteFile(path, str(then.burst_us)), WriteFile(path, str(now.burst_us)))


def requests(steps: Sequence[Do]) -> list[HostRequest]:
    """What the steps send."""
    return [step.request for step in steps]
