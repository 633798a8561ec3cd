"""PURE: lists of CPUs and memory nodes as the kernel writes them: `0-3,8`; cpuset(7), "List format"."""

from __future__ import annotations

from collections.abc import Iterable

from ringfence.errors import UsageError

_MOST = 8192
"""As many as Linux can be built for: a longer range is a slip."""


def parse(text: str) -> frozenset[int]:
    """The numbers of a list; none for an empty one.

    :raise UsageError: it is no such list.
    """
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        if not (first.isdecimal() and (last or first).isdecimal()) or int(last or first) >= _MOST:
            raise UsageError(f"{text[:60]!r} is no list of CPUs", hint="write 0-3,8")
        if int(last or first) < int(first):
            raise UsageError(f"{part!r} goes backwards", hint=f"write {last}-{first}")
        found |= set(range(int(first), int(last or first) + 1))
    return frozenset(found)


def shown(numbers: Iterable[int]) -> str:
    """The shortest list of these numbers."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def bits(numbers: Iterable[int]) -> list[int]:
    """As bytes of a bit mask, the lowest first: systemd's form."""
    mask = sum(1 << number for number in set(numbers))
    return list(mask.to_bytes((mask.bit_length() + 7) // 8, "little"))
