"""What is to be served, as a person writes it: `NAME,size=1GiB,channels=0-7,isolation=channel`."""

from __future__ import annotations

import re

from ringfence import units
from ringfence.errors import UsageError
from ringfence.flash.geometry import Device
from ringfence.flash.vssd import Isolation, VirtualSsd, bandwidth_of, dies_of_channels, striped

_FORM = "write NAME,size=1GiB,channels=0-3[,chips=0-1][,isolation=channel|die|none]"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,30}")


def parse(text: str, device: Device) -> VirtualSsd:
    """Read a virtual SSD. Numbers are `0-3`, or `0+2+5`; without `channels` it has all of them.

    Isolation is by default that of its own channels, or of its own dies where `chips` names some.

    :raise UsageError: an unknown key or class, no such channel or chip, or no size.
    """
    name, *rest = text.split(",")
    options = dict(part.partition("=")[::2] for part in rest)
    unknown = set(options) - {"size", "channels", "chips", "isolation"}
    if not _NAME.fullmatch(name) or unknown or "size" not in options:
        raise UsageError(f"cannot read the virtual SSD {text[:60]!r}", hint=_FORM)
    size_bytes = units.parse(units.BYTES, options["size"])
    if size_bytes < 4096 or size_bytes % 4096:
        raise UsageError(f"{name} cannot have {size_bytes} bytes", hint="a multiple of 4096")
    geometry = device.geometry
    channels = _numbers(options.get("channels", ""), geometry.channels, "channel")
    chips = _numbers(options.get("chips", ""), geometry.chips, "chip")
    dies = striped(tuple(die for die in dies_of_channels(geometry, channels) if die.chip in chips))
    usual = Isolation.DIE if len(chips) < geometry.chips else Isolation.CHANNEL
    try:
        isolation = Isolation(options.get("isolation", usual))
    except ValueError:
        raise UsageError(f"{name}: no class of isolation {options['isolation']!r}", hint=_FORM) from None
    return VirtualSsd(name, isolation, dies, 0, size_bytes, bandwidth_of(device, dies))


def check(tenants: list[VirtualSsd]) -> None:
    """:raise UsageError: a name twice, or a channel for one alone that another one uses."""
    names = [tenant.name for tenant in tenants]
    if not names or len(set(names)) < len(names):
        raise UsageError("each virtual SSD needs a name of its own", hint=_FORM)
    for tenant in tenants:
        if tenant.isolation is not Isolation.CHANNEL:
            continue
        for other in tenants:
            common = set(tenant.channels) & set(other.channels)
            if other is not tenant and common:
                raise UsageError(
                    f"{other.name} uses channel {min(common)}, which is {tenant.name}'s own",
                    hint="give them different channels, or isolation=none to both to share them",
                )


def _numbers(text: str, limit: int, what: str) -> tuple[int, ...]:
    if not text:
        return tuple(range(limit))
    found: set[int] = set()
    for part in text.split("+"):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UsageError(f"cannot read the {what}s {text[:40]!r}", hint="write 0-3, or 0+2+5")
        found |= set(range(int(first), int(last if dash else first) + 1)) if len(part) < 9 else {limit}
    if not found or max(found) >= limit:
        raise UsageError(f"there is no such {what} in {text[:40]!r}", hint=f"they are 0 to {limit - 1}")
    return tuple(sorted(found))
