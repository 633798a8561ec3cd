"""Requests as data: what a knob yields, and what it is sent back.

A knob's steps are a plain generator. It yields one request, or a list of requests (all to QEMU, or all to the
host) that may be sent without waiting for each other, and is sent the answer, or the list of answers in the same
order. An error is thrown into the generator at the `yield`. Nothing here does I/O: `ringfence.engine.driver` does.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

if TYPE_CHECKING:
    from ringfence.core.host_requests import (
        BlockDevices as BlockDevices,
    )
    from ringfence.core.host_requests import (
        DeviceOf as DeviceOf,
    )
    from ringfence.core.host_requests import (
        GetAffinity as GetAffinity,
    )
    from ringfence.core.host_requests import (
        HostRequest as HostRequest,
    )
    from ringfence.core.host_requests import (
        ListDir as ListDir,
    )
    from ringfence.core.host_requests import (
        MakeDir as MakeDir,
    )
    from ringfence.core.host_requests import (
        Netlink as Netlink,
    )
    from ringfence.core.host_requests import (
        Placement as Placement,
    )
    from ringfence.core.host_requests import (
        ReadFile as ReadFile,
    )
    from ringfence.core.host_requests import (
        ReadLink as ReadLink,
    )
    from ringfence.core.host_requests import (
        RemoveDir as RemoveDir,
    )
    from ringfence.core.host_requests import (
        SetAffinity as SetAffinity,
    )
    from ringfence.core.host_requests import (
        Systemd as Systemd,
    )
    from ringfence.core.host_requests import (
        Tasks as Tasks,
    )
    from ringfence.core.host_requests import (
        WriteFile as WriteFile,
    )


class Qmp(NamedTuple):
    """A QMP command. Answer: what stands in its `return`. Throws MonitorError."""

    command: str
    arguments: Mapping[str, object] = {}

    def wire(self) -> dict[str, object]:
        """The command as QEMU's documentation writes it."""
        if self.arguments:
            return {"execute": self.command, "arguments": dict(self.arguments)}
        return {"execute": self.command}


class Agent(NamedTuple):
    """A guest agent command. Answer: what stands in its `return`. Throws GuestError."""

    agent_command: str
    arguments: Mapping[str, object] = {}
    timeout_s: float = 5.0

    def wire(self) -> dict[str, object]:
        """The command as the agent's documentation writes it."""
        if self.arguments:
            return {"execute": self.agent_command, "arguments": dict(self.arguments)}
        return {"execute": self.agent_command}


class Wait(NamedTuple):
    """Wait for one of `events`, at most `timeout_s`. Answer: the event (`{"event", "data", ...}`) or None.

    Events that arrived since the steps began, and were not yet waited for, count.
    """

    events: tuple[str, ...]
    timeout_s: float


class Clock(NamedTuple):
    """Answer: monotonic seconds, as a float; only differences mean something."""

    of: str = "monotonic"


class WallClock(NamedTuple):
    """Answer: seconds since 1970, to compare with the times QEMU reports."""

    of: str = "wall"


class HostRss(NamedTuple):
    """Answer: bytes of the VM's process that lie in the host's memory, or None when that cannot be read."""

    of: str = "rss"


class Progress(NamedTuple):
    """How far a long step is. Answer: None. `done` of `total`, in `unit` (see `ringfence.units`)."""

    text: str
    done: int
    total: int
    unit: str


T = TypeVar("T")

if TYPE_CHECKING:
    Request: TypeAlias = Qmp | Agent | Wait | Clock | WallClock | HostRss | Progress | HostRequest
    Change: TypeAlias = Qmp | Agent | HostRequest
    Steps: TypeAlias = Generator[Request | list[Qmp] | Sequence[HostRequest], Any, T]
else:
    Request = Change = NamedTuple
    Steps = Generator[Any, Any, T]


def __getattr__(name: str) -> object:
    """The host's requests: defined only for who asks for one."""
    from ringfence.core import host_requests

    try:
        return getattr(host_requests, name)
    except AttributeError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
