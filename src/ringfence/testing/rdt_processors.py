"""The processors whose resctrl was recorded: what of theirs can be shared out."""

from __future__ import annotations

from typing import NamedTuple


class Kind(NamedTuple):
    """One resource of a processor.

    :param bits: ways of a cache; 0 for bandwidth.
    :param maximum: the most bandwidth; `step` what it is rounded up to.
    :param closids: groups that the hardware can tell apart.
    """

    name: str
    closids: int
    bits: int = 0
    hardware: int = 0
    min_bits: int = 1
    sparse: bool = False
    cache_bytes: int = 0
    minimum: int = 0
    maximum: int = 0
    step: int = 1

    @property
    def default(self) -> int:
        """What the default group begins with."""
        return (1 << self.bits) - 1 if self.bits else self.maximum


ICELAKE = (
    Kind("MB", 8, minimum=10, maximum=100, step=10),
    Kind("L3", 16, bits=11, hardware=0x600, cache_bytes=16 << 20),
)
ICELAKE_CDP = (
    Kind("MB", 8, minimum=10, maximum=100, step=10),
    Kind("L3DATA", 8, bits=11, hardware=0x600, cache_bytes=16 << 20),
    Kind("L3CODE", 8, bits=11, hardware=0x600, cache_bytes=16 << 20),
)
ICELAKE_MBPS = (Kind("MB", 8, minimum=10, maximum=2**32 - 1), ICELAKE[1])
EPYC = (
    Kind("SMBA", 16, maximum=2048),
    Kind("L3", 16, bits=11, hardware=0x600, min_bits=0, sparse=True, cache_bytes=8 << 20),
)
"""The processors of the transcripts."""
