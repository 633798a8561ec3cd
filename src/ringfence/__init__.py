"""Resource isolation for running QEMU virtual machines.

The command line is `ringfence`; from Python:

    async with ringfence.connect() as host:
        vm = await host.vm("web1")
        await vm.set({"memory.target": "2GiB", "disk.vda.iops": "100"})

Names are resolved on first use: importing the package costs nothing, which the command line depends on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ringfence.engine.api import Host, OpenVm, connect
    from ringfence.errors import RingfenceError

__all__ = ["Host", "OpenVm", "RingfenceError", "connect"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name == "RingfenceError":
        from ringfence.errors import RingfenceError

        return RingfenceError
    if name in ("Host", "OpenVm", "connect"):
        from ringfence.engine import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
