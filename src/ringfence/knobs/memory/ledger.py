"""What a VM's memory is made of: boot memory, what was plugged, and what the balloon holds.

    usable by the guest = boot + plugged (pc-dimm, virtio-mem) - ballooned

`query-balloon` counts boot memory and DIMMs and leaves virtio-mem out, so each is read by itself.
Sources: QEMU qapi/machine.json, docs/interop/virtio-balloon-stats.rst, docs/memory-hotplug.txt.
"""

from __future__ import annotations

from typing import NamedTuple

from ringfence import units

PAGE_BYTES = 4096
UNKNOWN_STAT = 2**64 - 1
GUEST_RESERVE_BYTES = 32 * units.MIB
"""Left to a guest above what it cannot give up: below this the lab's guests began to kill processes."""
DIMM_BLOCK_BYTES = 128 * units.MIB
"""Linux's memory block on x86 up to 64 GiB; a DIMM that is no multiple never appears in the guest."""
OUR_BACKEND = "ringfence-mem-"
OPTIONS = {
    "deflate-on-oom": "the balloon gives memory back before the guest kills processes",
    "free-page-reporting": "memory the guest frees returns to the host by itself",
}


class Stats(NamedTuple):
    """What the guest's driver last said of its memory; None where it said nothing.

    :param age_s: seconds since then; None when it never said anything.
    """

    available_bytes: int | None
    total_bytes: int | None
    age_s: float | None


class Balloon(NamedTuple):
    """:param path: QOM path of the device.
    :param actual_bytes: by QEMU's count: boot memory and DIMMs, less what it holds.
    :param poll_s: how often the guest reports statistics; 0 is never.
    :param options: which of the recommended options of the device are on.
    """

    path: str
    actual_bytes: int
    poll_s: int
    options: frozenset[str]


class Dimm(NamedTuple):
    """:param id: the device's, empty when it has none and so cannot be unplugged.
    :param memdev: name of its backend object.
    :param removable: plugged while the VM ran.
    :param leaving: an unplug of it was asked for and the guest has not ended it.
    """

    id: str
    memdev: str
    size_bytes: int
    slot: int
    node: int
    removable: bool
    leaving: bool


class VirtioMem(NamedTuple):
    """:param path: QOM path of the device.
    :param requested_bytes: what the guest was asked to have plugged; `size_bytes` what it has.
    """

    path: str
    block_bytes: int
    size_bytes: int
    requested_bytes: int
    max_bytes: int

    @property
    def name(self) -> str:
        """As the user wrote it on QEMU's command line."""
        return self.path.rpartition("/")[2]


class State(NamedTuple):
    """:param poll_s: how often the guest reports statistics; 0 is never.
    :param runstate: QEMU's word, such as `running` or `paused`.
    :param free_slots: for DIMMs.
    :param room_bytes: address space left for DIMMs; None when this QEMU does not tell.
    :param nodes: the VM's NUMA nodes.
    :param shared: whether its memory is shared with other processes, which plugged memory then has to be, too.
    :param pinned: why the host gets nothing back from a balloon, empty when it does.
    :param objects: names of all objects, backends among them.
    :param used: mechanisms that the last change used; `pace` how fast it was asked to go.
    """

    boot_bytes: int
    dimms: tuple[Dimm, ...]
    virtio_mems: tuple[VirtioMem, ...]
    balloon: Balloon | None
    stats: Stats
    runstate: str
    free_slots: int
    room_bytes: int | None
    nodes: tuple[int, ...]
    shared: bool
    pinned: str
    objects: frozenset[str]
    used: str = ""
    pace: int | None = None

    @property
    def dimm_bytes(self) -> int:
        """Of all DIMMs."""
        return sum(dimm.size_bytes for dimm in self.dimms)

    @property
    def virtio_mem_bytes(self) -> int:
        """What the guest has plugged of virtio-mem."""
        return sum(device.size_bytes for device in self.virtio_mems)

    @property
    def ballooned_bytes(self) -> int:
        """What the balloon holds."""
        return self.boot_bytes + self.dimm_bytes - self.balloon.actual_bytes if self.balloon else 0

    @property
    def usable_bytes(self) -> int:
        """What the guest may use."""
        return self.boot_bytes + self.dimm_bytes + self.virtio_mem_bytes - self.ballooned_bytes

    @property
    def target_bytes(self) -> int:
        """As `usable_bytes`, once virtio-mem has met its request."""
        return self.usable_bytes + sum(d.requested_bytes - d.size_bytes for d in self.virtio_mems)

    @property
    def poll_s(self) -> int:
        """Of the balloon; 0 without one."""
        return self.balloon.poll_s if self.balloon else 0

    @property
    def maximum_bytes(self) -> int | None:
        """With all plugged that can be; None when this QEMU does not tell."""
        room = dimm_room_bytes(self)
        if room is None:
            return None
        return self.boot_bytes + self.dimm_bytes + sum(d.max_bytes for d in self.virtio_mems) + room

    @property
    def leftovers(self) -> tuple[str, ...]:
        """Backends of ours without a device: an unplug ended after its deadline, or we were interrupted."""
        used = {dimm.memdev for dimm in self.dimms}
        return tuple(sorted(n for n in self.objects if n.startswith(OUR_BACKEND) and n not in used))


def dimm_room_bytes(state: State) -> int | None:
    """How much more can be plugged as DIMMs; None when this QEMU does not tell."""
    if not state.free_slots:
        return 0
    return None if state.room_bytes is None else state.room_bytes // DIMM_BLOCK_BYTES * DIMM_BLOCK_BYTES


def floor_bytes(state: State) -> int | None:
    """The least usable memory the guest can meet without killing processes; None when it does not say.

    Only statistics that come regularly count: others may be from before the last move.
    """
    stats = state.stats
    if not state.poll_s or stats.available_bytes is None or stats.age_s is None:
        return None
    if stats.age_s > 3 * state.poll_s + 2 or stats.available_bytes > state.usable_bytes:
        return None
    return max(PAGE_BYTES, state.usable_bytes - stats.available_bytes + GUEST_RESERVE_BYTES)
