"""Runs a knob's steps against a real VM: the one place where requests become I/O."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from ringfence.core.requests import (
    Agent,
    Clock,
    HostRss,
    Progress,
    Qmp,
    Request,
    Steps,
    Wait,
    WallClock,
)
from ringfence.errors import AgentAbsentError, MonitorError, RingfenceError

if TYPE_CHECKING:
    from ringfence.core.model import Address
    from ringfence.qemu.agent import AgentSession
    from ringfence.qemu.door import Events, QmpDoor

T = TypeVar("T")
ProgressCallback: TypeAlias = Callable[[Progress], None]


def no_progress(_: Progress) -> None:
    """Default for callers that show none."""


class Edges:
    """What the steps of one VM reach: its monitor, its guest's agent, its process.

    The agent's channel takes one client at a time, so it is opened on its first use and released when the steps
    that used it end. Until then an agent that was found absent is not asked again.
    """

    def __init__(self, session: QmpDoor, agent: Address | None, pid: int) -> None:
        self.session = session
        self._agent_address = agent
        self._agent: AgentSession | None = None
        self._agent_error: AgentAbsentError | None = None
        self._pid = pid

    async def agent(self) -> AgentSession:
        """The agent's session.

        :raise AgentAbsentError: the VM has no channel, or nobody answers on it.
        """
        from ringfence.qemu.agent import AgentSession

        if self._agent_address is None:
            raise AgentAbsentError(
                "this VM has no guest agent channel", hint="`ringfence doctor VM` prints the options for one"
            )
        if self._agent_error is not None:
            raise self._agent_error
        if self._agent is None:
            try:
                self._agent = await AgentSession.open(self._agent_address)
            except AgentAbsentError as error:
                self._agent_error = error
                raise
        return self._agent

    def rss_bytes(self) -> int | None:
        """Resident memory of the VM's process, None when that cannot be read."""
        from ringfence.host.process import rss_bytes

        return rss_bytes(self._pid) if self._pid else None

    async def release_agent(self) -> None:
        """Let others use the agent's channel; the next use opens it again."""
        agent, self._agent, self._agent_error = self._agent, None, None
        if agent is not None:
            await agent.close()

    async def close(self) -> None:
        """Release the agent and the monitor; what was changed stays."""
        await self.release_agent()
        await self.session.close()


async def run(
    steps: Steps[T], edges: Edges, *, events: tuple[str, ...] = (), progress: ProgressCallback = no_progress
) -> T:
    """Drive `steps` to their end and return what they return.

    Errors of a request are thrown into the steps; one they do not catch comes out here. Events named in
    `events` are collected from before the first request.
    """
    try:
        if not events:
            return await _drive(steps, edges, None, progress)
        with edges.session.listen(events) as listener:
            return await _drive(steps, edges, listener, progress)
    finally:
        await edges.release_agent()


async def _drive(steps: Steps[T], edges: Edges, listener: Events | None, progress: ProgressCallback) -> T:
    error: RingfenceError | None = None
    answer: Any = None
    while True:
        try:
            request = steps.throw(error) if error else steps.send(answer)
        except StopIteration as stop:
            result: T = stop.value
            return result
        error, answer = None, None
        try:
            answer = await _answer(request, edges, listener, progress)
        except RingfenceError as caught:
            error = caught


async def _answer(
    request: Request | list[Qmp], edges: Edges, listener: Events | None, progress: ProgressCallback
) -> Any:
    match request:
        case list():
            return await edges.session.execute_all([(q.command, q.arguments or None) for q in request])
        case Qmp(command, arguments):
            return await edges.session.execute(command, arguments or None)
        case Agent(command, arguments, timeout_s):
            agent = await edges.agent()
            return await agent.execute(command, arguments or None, timeout_s=timeout_s)
        case Wait(events, timeout_s):
            return await _wait(events, timeout_s, listener)
        case Clock():
            return time.monotonic()
        case WallClock():
            return time.time()
        case HostRss():
            return edges.rss_bytes()
        case Progress():
            progress(request)
            return None


async def _wait(events: tuple[str, ...], timeout_s: float, listener: Events | None) -> dict[str, Any] | None:
    if not events:
        await asyncio.sleep(timeout_s)
        return None
    if listener is None:
        raise MonitorError(f"steps wait for {', '.join(events)} and nobody listens")
    deadline = time.monotonic() + timeout_s
    while (left := deadline - time.monotonic()) > 0:
        event = await listener.get(left)
        if event is None or event["event"] in events:
            return event
    return None
