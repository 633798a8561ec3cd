"""Devices to begin with, each with the source of its figures; what a source does not say is usual for its kind.

Reads and programs of real drives differ by vendor, age and temperature: a preset stands for a class of devices,
and what it shows are ratios between classes of isolation, not a drive's latency.
"""

from __future__ import annotations

from ringfence.errors import UsageError
from ringfence.flash.geometry import Device, Geometry, HostLink, Timing

_KIB = 1024


def _bus_ns(mega_transfers_per_s: int) -> int:
    """Two bytes on a bus of that speed, in whole cycles."""
    return 2 * (1000 // mega_transfers_per_s)


VD16 = Device(
    "vd16",
    Geometry(16, 4, 1, 1, 64, 256, 16 * _KIB),
    Timing((75_000,), (750_000,), 3_800_000, _bus_ns(333)),
    "validation device: MLC of 2018 on 333 MT/s NV-DDR2, behind four lanes of 1 GB/s, as the simulator MQSim "
    "(FAST'18) has it; its submission entries take 72 bytes",
    HostLink(submission_bytes=72),
)

FLASHBLOX = Device(
    "flashblox",
    Geometry(16, 4, 1, 4, 1024, 256, 16 * _KIB),
    Timing((75_000,), (750_000,), 3_800_000, _bus_ns(333)),
    "the size of the prototype of Huang et al., FlashBlox, FAST'17, with the times of vd16",
)

OCSSD = Device(
    "ocssd",
    Geometry(16, 8, 1, 4, 1067, 256, 16 * _KIB),
    Timing((48_000, 64_000), (850_000, 2_300_000), 3_000_000, 6),
    "CNEX open-channel SSD, the family of FlashBlox's prototype: tR 48/64 us, tPROG 850/2300 us, erase 3 ms, "
    "a page in 52 us (Bjorling et al., LightNVM, FAST'17)",
)

MLC = Device(
    "mlc",
    Geometry(8, 4, 1, 2, 1024, 256, 8 * _KIB),
    Timing((75_000,), (750_000,), 3_800_000, _bus_ns(333)),
    "MLC with 75 us / 750 us / 3.8 ms on 333 MT/s (MQSim's example device, FAST'18)",
)

TLC = Device(
    "tlc",
    Geometry(8, 4, 1, 4, 1024, 768, 16 * _KIB),
    Timing((56_500, 77_500, 106_000), (820_000, 2_225_000, 5_734_000), 3_000_000, 4),
    "3D TLC: tR 56.5/77.5/106 us, tPROG 820/2225/5734 us, erase 3 ms (SimpleSSD's TLC model)",
)

ZN540 = Device(
    "zn540",
    Geometry(8, 4, 1, 4, 512, 768, 16 * _KIB),
    Timing((50_000, 50_000, 58_000), (561_000,), 3_000_000, 2),
    "WD Ultrastar DC ZN540 as emulated by ConfZNS and NVMeVirt: 8 channels of 4 dies, tR 50/58 us, tPROG 561 us",
)

PRO970 = Device(
    "970pro",
    Geometry(8, 2, 1, 1, 4096, 256, 32 * _KIB),
    Timing((36_000,), (185_000,), 3_000_000, 2),
    "Samsung 970 PRO as emulated by NVMeVirt (FAST'23): 8 channels of 2 dies at 800 MB/s, pages of 32 KiB, "
    "tR 30 to 42 us, tPROG 185 us",
)

PRESETS = {device.name: device for device in (VD16, FLASHBLOX, OCSSD, MLC, TLC, ZN540, PRO970)}


def preset(name: str) -> Device:
    """The preset of that name.

    :raise UsageError: there is none.
    """
    if name not in PRESETS:
        raise UsageError(f"no device called {name!r}", hint=f"there are {', '.join(PRESETS)}")
    return PRESETS[name]
