"""What an SSD is made of and how long its parts take; all times are whole nanoseconds, all sizes bytes.

A *channel* is a bus with several *chips* on it; a chip holds *dies*, each of which does one thing at a time; a die
holds *planes*, a plane *blocks*, which are erased as a whole, a block *pages*, which are read and programmed.
"""

from __future__ import annotations

from typing import NamedTuple

from ringfence.errors import UsageError

SECTOR_BYTES = 512
"""Unit of logical addresses, whatever the guest's block size is."""


class Die(NamedTuple):
    """Where a die is: the smallest thing that can serve one tenant without another feeling it, but for the bus."""

    channel: int
    chip: int
    die: int = 0


class Geometry(NamedTuple):
    """How many of each there are in the next larger one.

    :param chips: of one channel; :param dies: of one chip; :param planes: of one die; and so on.
    """

    channels: int
    chips: int
    dies: int
    planes: int
    blocks: int
    pages: int
    page_bytes: int

    @property
    def dies_per_channel(self) -> int:
        return self.chips * self.dies

    @property
    def die_count(self) -> int:
        return self.channels * self.chips * self.dies

    @property
    def plane_count(self) -> int:
        return self.die_count * self.planes

    @property
    def block_bytes(self) -> int:
        return self.pages * self.page_bytes

    @property
    def plane_bytes(self) -> int:
        return self.blocks * self.block_bytes

    @property
    def die_bytes(self) -> int:
        return self.planes * self.plane_bytes

    @property
    def channel_bytes(self) -> int:
        return self.dies_per_channel * self.die_bytes

    @property
    def capacity_bytes(self) -> int:
        """All of the flash, over-provisioned space included."""
        return self.channels * self.channel_bytes

    @property
    def sectors_per_page(self) -> int:
        return self.page_bytes // SECTOR_BYTES

    def die_index(self, die: Die) -> int:
        """Its number, counting dies within chips within channels.

        :raise UsageError: there is no such die.
        """
        if not (0 <= die.channel < self.channels and 0 <= die.chip < self.chips and 0 <= die.die < self.dies):
            raise UsageError(
                f"there is no die {die.die} on chip {die.chip} of channel {die.channel}",
                hint=f"{self.channels} channels of {self.chips} chips of {self.dies} dies, counted from 0",
            )
        return (die.channel * self.chips + die.chip) * self.dies + die.die

    def die_at(self, index: int) -> Die:
        """The inverse of `die_index`."""
        chip, die = divmod(index, self.dies)
        return Die(chip // self.chips, chip % self.chips, die)

    def check(self) -> None:
        """:raise UsageError: it describes no SSD."""
        if min(self) < 1 or self.page_bytes % SECTOR_BYTES or self.sectors_per_page > 64:
            raise UsageError(
                "this is no geometry of an SSD: " + ", ".join(f"{k}={v}" for k, v in self._asdict().items()),
                hint="at least one of each, and pages of 512 bytes to 32 KiB in whole sectors",
            )


class Timing(NamedTuple):
    """What the flash and its bus take.

    :param read_ns: from command to data ready in the die, by kind of page: one for SLC or where a device gives one
        value, two for MLC, three for TLC.
    :param program_ns: the same for programming.
    :param two_byte_ns: two bytes on the bus of one channel. A bus of N MT/s takes 2 * int(1000 / N): the cycle is
        counted in whole nanoseconds.
    :param read_ready_ns: from the die's "ready" to the start of its data.
    :param read_command_ns: command and address cycles on the bus; the same for program and erase (ONFI NV-DDR2).
    """

    read_ns: tuple[int, ...]
    program_ns: tuple[int, ...]
    erase_ns: int
    two_byte_ns: int
    read_ready_ns: int = 20
    read_command_ns: int = 290
    program_command_ns: int = 361
    erase_command_ns: int = 220

    def transfer_ns(self, size_bytes: int) -> int:
        """Data of one page, or of a part of it, on the bus."""
        return size_bytes // 2 * self.two_byte_ns


class HostLink(NamedTuple):
    """The way to the host: PCI Express with NVMe queues, one message at a time in each direction.

    :param bytes_per_us: of all lanes together, 1000 for each GB/s.
    :param payload_bytes: of one packet; each packet carries `packet_overhead_bytes` more.
    :param submission_bytes: what the device fetches for one request; `completion_bytes` what it writes back.
    """

    bytes_per_us: int = 4000
    payload_bytes: int = 128
    packet_overhead_bytes: int = 28
    submission_bytes: int = 64
    completion_bytes: int = 16

    def message_ns(self, size_bytes: int) -> int:
        """A message with that much data in it."""
        full, rest = divmod(size_bytes, self.payload_bytes)
        wire = full * (self.payload_bytes + self.packet_overhead_bytes)
        wire += rest + self.packet_overhead_bytes if rest else 0
        return -(-wire * 1000 // self.bytes_per_us)

    @property
    def doorbell_ns(self) -> int:
        return self.message_ns(2)

    @property
    def read_request_ns(self) -> int:
        """The device asking for something in the host's memory."""
        return -(-(self.packet_overhead_bytes + 4) * 1000 // self.bytes_per_us)


class Device(NamedTuple):
    """An SSD: its geometry and times, and how it was built to be used.

    :param source: where the figures come from.
    :param over_provisioning: share of the flash that is not offered as capacity.
    :param gc_free_blocks: garbage collection begins when a plane has fewer free blocks than this.
    :param gc_parallel: at most so many collections at once in a plane; with fewer free blocks than this, writes to
        it wait.
    """

    name: str
    geometry: Geometry
    timing: Timing
    source: str
    link: HostLink = HostLink()
    over_provisioning: float = 0.127
    gc_free_blocks: int = 10
    gc_parallel: int = 10
    endurance_erases: int = 3000


def page_kind(page: int, kinds: int) -> int:
    """Which of the kinds of pages in a block one is: lower and upper in MLC, lower, middle and upper in TLC.

    TLC's order is that of Yaakobi et al., "Characterization and Error-Correcting Codes for TLC Flash Memories",
    ICNC 2012.
    """
    if kinds < 3:
        return page % kinds
    if page < 8:
        return 0 if page <= 5 else 1
    return (page - 8 >> 1) % kinds
