"""Which tenants get in that want to share an SSD, by which class of isolation, and what would help the others.

Those named first go before those named later. First as many as possible are let in, those that leave the choice
of the class to us (`auto`) with blocks of their own on shared dies; then these are given more, one after the
other: whole channels where there are enough, else dies. What is said to help was tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from ringfence import units
from ringfence.errors import UsageError
from ringfence.flash.allocator import Allocator, Request
from ringfence.flash.geometry import Device
from ringfence.flash.vssd import Bandwidth, Isolation, VirtualSsd

AUTO = "auto"
STRONGEST_FIRST = tuple(Isolation)
_LEAST_OF_AUTO = Isolation.SOFTWARE
_MOST_CHANNELS = 64
STEPS = 4096
"""In which less capacity or bandwidth is tried."""


class Wanted(NamedTuple):
    """What a tenant wants. :param isolation: at least this class; None for the best that can be had (`auto`).

    :param bandwidth: at least this, of reads and of writes, in bytes per second; 0 for what the capacity brings.
    """

    name: str
    capacity_bytes: int
    isolation: Isolation | None = None
    bandwidth: Bandwidth = Bandwidth(0, 0)

    @property
    def wanted_class(self) -> str:
        """As it is written in a file of tenants."""
        return self.isolation.value if self.isolation else AUTO


class Refusal(NamedTuple):
    """:param helps: what would let the tenant in, each by itself, with all others that are in."""

    tenant: Wanted
    why: str
    helps: tuple[str, ...]


class Plan(NamedTuple):
    """:param tenants: those that are let in, in the order in which they were named; `refused` likewise.
    :param free_channels: of which nobody has anything.
    """

    tenants: tuple[VirtualSsd, ...]
    refused: tuple[Refusal, ...]
    free_channels: tuple[int, ...]


_Tenants: TypeAlias = tuple[VirtualSsd, ...]


def plan(device: Device, wanted: Sequence[Wanted]) -> Plan:
    """Divide an SSD among tenants.

    :raise UsageError: the device is none, or two tenants have one name.
    """
    tenants, refused = _admitted(device, wanted)
    left_out = {one.name for one in refused}
    inside = [one for one in wanted if one.name not in left_out]
    tenants = _raised(device, inside, tenants)
    by_name = {tenant.name: tenant for tenant in tenants}
    return Plan(
        tuple(by_name[one.name] for one in inside),
        tuple(Refusal(one, _why(device, one, tenants), _helps(device, wanted, inside, one)) for one in refused),
        Allocator(device, tenants).free_channels(),
    )


def _request(one: Wanted, isolation: Isolation | None = None) -> Request:
    return Request(one.name, isolation or one.isolation or _LEAST_OF_AUTO, one.capacity_bytes, one.bandwidth)


def _admitted(
    device: Device, wanted: Sequence[Wanted], *, all_or_none: bool = False
) -> tuple[_Tenants, list[Wanted]]:
    """As many as fit, and the others; `auto` at the least that it stands for.

    :param all_or_none: end with the first one that does not fit.
    """
    tenants: _Tenants = ()
    requests: list[Request] = []
    refused = []
    for one in wanted:
        request = _request(one)
        found = _added(device, tenants, request) or _packed(device, [*requests, request])
        if found is None:
            refused.append(one)
            if all_or_none:
                break
        else:
            tenants = found
            requests.append(request)
    return tenants, refused


def _added(device: Device, tenants: _Tenants, request: Request) -> _Tenants | None:
    allocator = Allocator(device, tenants)
    try:
        allocator.allocate(request)
    except UsageError:
        return None
    return allocator.tenants


def _packed(device: Device, requests: Sequence[Request]) -> _Tenants | None:
    """All of them, from the beginning: whole channels are given away before others take parts of them."""
    tenants: _Tenants = ()
    for request in sorted(requests, key=lambda request: STRONGEST_FIRST.index(request.isolation)):
        found = _added(device, tenants, request)
        if found is None:
            return None
        tenants = found
    return tenants


def _raised(device: Device, inside: Sequence[Wanted], tenants: _Tenants) -> _Tenants:
    """Give each that leaves its class to us the best with which all still get what they want."""
    requests = {one.name: _request(one) for one in inside}
    for one in inside:
        better = () if one.isolation else STRONGEST_FIRST[: STRONGEST_FIRST.index(_LEAST_OF_AUTO)]
        for isolation in better:
            trial = {**requests, one.name: _request(one, isolation)}
            found = _packed(device, tuple(trial.values()))
            if found is not None:
                requests, tenants = trial, found
                break
    return tenants


def _why(device: Device, one: Wanted, tenants: _Tenants) -> str:
    """The first thing that is missing."""
    isolation = one.isolation or _LEAST_OF_AUTO
    asks = f"{units.format_bytes(one.capacity_bytes)} of class {isolation}"
    if _added(device, (), _request(one)) is None:
        return f"{asks} is more than all of {device.name} has"
    free = len(Allocator(device, tenants).free_channels())
    at = f", at {_told(one.bandwidth)}," if any(one.bandwidth) else ""
    return f"{asks}{at} does not fit beside the others; {free} of {device.geometry.channels} channels are free"


def _told(bandwidth: Bandwidth) -> str:
    return ", ".join(f"{what} {units.format_bytes(rate)}/s" for what, rate in bandwidth._asdict().items() if rate)


def _helps(device: Device, wanted: Sequence[Wanted], inside: Sequence[Wanted], one: Wanted) -> tuple[str, ...]:
    def fits(changed: Wanted, others: Sequence[Wanted] = inside, on: Device = device) -> bool:
        """Whether it gets in without another one falling out."""
        named = {other.name: other for other in (*others, changed)}
        trial = [named[w.name] for w in wanted if w.name in named]
        return not _admitted(on, trial, all_or_none=True)[1]

    found = (
        *_weaker(one, fits),
        *_less(one, fits),
        *_others(one, inside, fits),
        *_larger(device, one, fits),
    )
    return found or ("a larger SSD, or one of its own",)


_Fits: TypeAlias = Callable[..., bool]


def _weaker(one: Wanted, fits: _Fits) -> Iterator[str]:
    least = STRONGEST_FIRST.index(one.isolation or _LEAST_OF_AUTO)
    for isolation in STRONGEST_FIRST[least + 1 :]:
        if fits(one._replace(isolation=isolation)):
            yield f"class: {isolation}"
            return


def _less(one: Wanted, fits: _Fits) -> Iterator[str]:
    """Less of one thing, with all the other things as they are."""

    def smaller(step: int) -> Wanted:
        return one._replace(capacity_bytes=rounded(one.capacity_bytes * step // STEPS))

    def slower(step: int) -> Wanted:
        return one._replace(bandwidth=Bandwidth(*(rounded(rate * step // STEPS) for rate in one.bandwidth)))

    step = most_steps(lambda step: fits(smaller(step)))
    if step and smaller(step).capacity_bytes:
        yield f"capacity: {units.format_bytes(smaller(step).capacity_bytes)}"
    if any(one.bandwidth):
        step = most_steps(lambda step: fits(slower(step)))
        rates = slower(step).bandwidth
        if any(rates):
            yield f"bandwidth: {_told(rates)}"
        elif fits(slower(0)):
            yield "no bandwidth"


def rounded(value: int) -> int:
    """Down to tenths of GiB, MiB or KiB: what is printed of it is no more than it is."""
    unit = next((unit for unit in (units.GIB, units.MIB, units.KIB) if value >= unit), 1)
    return value * 10 // unit * unit // 10


def most_steps(fits: Callable[[int], bool]) -> int:
    """The most steps below `STEPS` that fit; 0 where not even one does."""
    low, high = 0, STEPS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _others(one: Wanted, inside: Sequence[Wanted], fits: _Fits) -> Iterator[str]:
    """Others that ask for more isolation than they may need."""

    def eased(names: Sequence[str]) -> bool:
        return fits(one, [w._replace(isolation=None) if w.name in names else w for w in inside])

    names = [other.name for other in inside if other.isolation in (Isolation.CHANNEL, Isolation.DIE)]
    if not names or not eased(names):
        return
    low, high = 0, len(names)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if eased(names[:middle]) else (middle, high)
    needed = names[:high]
    for name in names[: high - 1]:
        without = [other for other in needed if other != name]
        needed = without if eased(without) else needed
    yield f"class: {AUTO} for {', '.join(needed)}"


def _larger(device: Device, one: Wanted, fits: _Fits) -> Iterator[str]:
    """An SSD of the same kind with more channels."""

    def larger(channels: int) -> Device:
        return device._replace(geometry=device.geometry._replace(channels=channels))

    low, high = device.geometry.channels, max(_MOST_CHANNELS, device.geometry.channels)
    if not fits(one, on=larger(high)):
        return
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(one, on=larger(middle)) else (middle, high)
    yield f"an SSD like {device.name} with {high} channels"
