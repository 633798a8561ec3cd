"""PURE: how people write a share of a cache or of memory bandwidth, and how it is shown.

A share of a cache is `50%` of its ways, a size (`8MiB`), a number of ways (`4ways`) or a mask (`0x00f`); of memory
bandwidth `40%` or a rate (`2GB/s`), whichever the processor counts in. `0=50%;1=25%` gives each domain its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction

from ringfence import units
from ringfence.errors import TenantError, UsageError
from ringfence.knobs.resctrl.masks import is_run, ways
from ringfence.knobs.resctrl.model import PERCENT, Resource

_PERCENT = re.compile(r"(\d{1,6}(?:\.\d{1,6})?)\s*%")
_WAYS = re.compile(r"(\d{1,4})\s*ways?")
_MASK = re.compile(r"0[xX][0-9a-fA-F]{1,16}")
_DOMAINS = re.compile(r"\s*\d+\s*=.*")


def split(key: str, text: str, found: Resource) -> dict[int, str]:
    """The text for each domain: one for all, or one each.

    :raise UsageError: a domain that is not there, or that is named twice.
    """
    if not _DOMAINS.fullmatch(text):
        return dict.fromkeys(found.domains, text.strip())
    given: dict[int, str] = {}
    for field in text.split(";"):
        number, equals, value = field.partition("=")
        if not equals or not number.strip().isdigit():
            raise UsageError(f"{key}: {field.strip()!r} is not DOMAIN=VALUE", hint="write 0=50%;1=25%")
        domain = int(number)
        if domain not in found.domains:
            known = ", ".join(map(str, found.domains))
            raise UsageError(f"{key}: there is no domain {domain}", hint=f"{found.name} has the domains {known}")
        if domain in given:
            raise UsageError(f"{key}: domain {domain} is given twice", hint="give it once")
        given[domain] = value.strip()
    return given


def mask_of(key: str, text: str, found: Resource) -> int | None:
    """The mask that is asked for; None when it is a size, for which ringfence chooses the ways.

    :raise UsageError: the mask cannot be on this processor.
    """
    cache = found.cache
    if cache is None or not _MASK.fullmatch(text):
        return None
    mask = int(text, 16)
    if mask > cache.full:
        raise UsageError(f"{key}: {text} has ways that are not there", hint=f"all of them are {cache.full:#x}")
    if ways(mask) < cache.min_ways:
        raise UsageError(f"{key}: {text} has {ways(mask)} ways, and {cache.min_ways} are the fewest")
    if not cache.sparse and not is_run(mask):
        raise UsageError(
            f"{key}: the ways of {text} do not stand side by side", hint="this processor takes no mask with gaps"
        )
    return mask


def width_of(key: str, text: str, found: Resource, domain: int) -> int:
    """How many ways are asked for, rounded up to whole ones.

    :raise UsageError: not a share of a cache, or more than there is.
    """
    cache = found.cache
    if cache is None:
        raise UsageError(f"{key} is no cache")
    if match := _PERCENT.fullmatch(text):
        wanted = Fraction(match[1]) * cache.length / 100
    elif match := _WAYS.fullmatch(text):
        wanted = Fraction(match[1])
    elif text.isdigit():
        raise UsageError(
            f"{key}: {text} may be ways, percent or bytes", hint=f"write {text}ways, {text}% or {text}MiB"
        )
    else:
        wanted = Fraction(units.parse(units.BYTES, text), max(found.way_bytes[domain], 1))
    count = max(-(-wanted.numerator // wanted.denominator), cache.min_ways, 1)
    if wanted <= 0 or count > cache.length:
        whole = units.format_bytes(found.way_bytes[domain] * cache.length)
        raise UsageError(f"{key}={text} cannot be", hint=f"the cache has {cache.length} ways, {whole}")
    return int(count)


def band_of(key: str, text: str, found: Resource) -> int:
    """A bandwidth in the kernel's units, rounded up to its steps.

    :raise UsageError: not a bandwidth, or out of range; TenantError: the processor counts in another unit.
    """
    band = found.band
    if band is None:
        raise UsageError(f"{key} is no bandwidth")
    match = _PERCENT.fullmatch(text)
    if band.unit == PERCENT:
        if match is None:
            raise TenantError(
                f"{key}={text}: this processor limits bandwidth by percent",
                hint="write 40%, or mount resctrl with the option mba_MBps for a rate",
            )
        wanted = Fraction(match[1])
    elif match is not None:
        raise TenantError(f"{key}={text}: here bandwidth is limited by rate", hint="write 2GB/s")
    else:
        wanted = Fraction(units.parse(units.BYTES_PER_S, text), band.bytes_per_s)
    steps = wanted / band.step
    value = -(-steps.numerator // steps.denominator) * band.step
    if wanted < band.minimum or value > band.maximum:
        low, high = shown_band(band.minimum, found), shown_band(band.maximum, found)
        raise UsageError(f"{key}={text} is out of range", hint=f"from {low} to {high}")
    return int(value)


def shown_mask(mask: int, found: Resource) -> str:
    """A mask with as many digits as the cache's own."""
    digits = -(-(found.cache.length if found.cache else 4) // 4)
    return f"0x{mask:0{digits}x}"


def shown_band(value: int, found: Resource) -> str:
    """A bandwidth as it can be asked for."""
    band = found.band
    if band is None or band.unit == PERCENT:
        return f"{value}%"
    return f"{value}MiB/s" if band.bytes_per_s == units.MIB else f"{value * band.bytes_per_s // 10**6}MB/s"


def shown(values: Mapping[int, int], found: Resource) -> str:
    """The values of a resource as they can be asked for: one for all domains where they are equal."""
    form = shown_mask if found.cache is not None else shown_band
    texts = {domain: form(value, found) for domain, value in sorted(values.items())}
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return ";".join(f"{domain}={text}" for domain, text in texts.items())


def described(values: Mapping[int, int], found: Resource) -> str:
    """What masks come to, for people."""
    cache = found.cache
    if cache is None:
        return ""
    counts = sorted({ways(mask) for mask in values.values()})
    sizes = sorted({ways(mask) * found.way_bytes.get(domain, 0) for domain, mask in values.items()})
    span = " to ".join(dict.fromkeys((str(counts[0]), str(counts[-1]))))
    size = " to ".join(dict.fromkeys((units.format_bytes(sizes[0]), units.format_bytes(sizes[-1]))))
    return f"{span} of {cache.length} ways of each {found.name} cache, {size}"
