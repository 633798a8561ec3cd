"""The shape of a way to QMP, whoever holds the socket: for annotations only, so that it costs nothing at start."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from ringfence.qemu.schema import Schema


class Events(Protocol):
    """Events since the context was entered; see `events.Listener`."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def get(self, timeout_s: float | None) -> dict[str, Any] | None:
        """The next event, or None when none came in time; raises MonitorGoneError at the session's end."""


class QmpDoor(Protocol):
    """What `session.Session` offers, and what else executes QMP commands; see there for each method."""

    greeting: Mapping[str, Any]

    @property
    def address(self) -> object:
        """Prints as where it leads."""

    async def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, *, timeout_s: float = 5.0
    ) -> Any: ...

    async def execute_all(
        self, commands: Sequence[tuple[str, Mapping[str, object] | None]], *, timeout_s: float = 5.0
    ) -> list[Any]: ...

    async def hmp(self, line: str, *, timeout_s: float = 10.0) -> str: ...

    async def schema(self) -> Schema: ...

    def listen(self, events: Collection[str] = ()) -> Events: ...

    async def reopen(self, *, timeout_s: float = 2.0) -> None: ...

    async def close(self) -> None: ...
