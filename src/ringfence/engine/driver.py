"""Runs a knob's steps against a real VM: the one place where requests become I/O."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from ringfence.core.answers import ILL_FORMED, ill_formed
from ringfence.core.requests import (
    Agent,
    Clock,
    HostRss,
    Progress,
    Qmp,
    Steps,
    Wait,
    WallClock,
)
from ringfence.errors import (
    AgentAbsentError,
    InterruptError,
    MonitorError,
    MonitorTimeoutError,
    RingfenceError,
)

if TYPE_CHECKING:
    from ringfence.core.model import Address, Tenant
    from ringfence.host.edge import HostEdge
    from ringfence.qemu.agent import AgentSession
    from ringfence.qemu.door import Events, QmpDoor

ANSWER_TIMEOUT_S = 5.0
"""A QEMU that its own limits starve of CPU was seen to take 0.1 s; fifty times that without an answer means no."""
_AGENT_OPEN_S = 1.0  # an agent that runs answers within milliseconds

_TRUSTED = (Clock, WallClock, HostRss, Progress)
"""Requests that are answered from here: what follows reads somebody else's answer, of before."""

T = TypeVar("T")
ProgressCallback: TypeAlias = Callable[[Progress], None]


Pause: TypeAlias = Callable[[float], Awaitable[None]]


async def sleep(seconds: float) -> None:
    """`asyncio.sleep`, imported when somebody has to wait: not every change does."""
    import asyncio

    await asyncio.sleep(seconds)


def no_progress(_: Progress) -> None:
    """Default for callers that show none."""


class Edges:
    """What the steps of one tenant reach: a VM's monitor, its guest's agent, its process, the host's kernel.

    The agent's channel takes one client at a time, so it is opened on its first use and released when the steps
    that used it end. Until then an agent that was found absent is not asked again. The monitor and the host are
    opened on their first use and kept.

    :param session: the monitor when it is open already.
    :param answer_timeout_s: how long QEMU, and at most how long the agent, may take for one answer.
    :param opener: opens the monitor when it is needed; without it, and without `session`, there is none.
    :param tenant: whose threads and groups the host is asked for; without it those of `pid`.
    :param host: another host's kernel than this one's, such as one made of files.
    :param pause: how to wait: in the event loop, unless there is none.
    """

    def __init__(
        self,
        session: QmpDoor | None = None,
        agent: Address | None = None,
        pid: int = 0,
        *,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
        opener: Callable[[], Awaitable[QmpDoor]] | None = None,
        tenant: Tenant | None = None,
        host: HostEdge | None = None,
        pause: Pause = sleep,
    ) -> None:
        self.answer_timeout_s = answer_timeout_s
        self.pause = pause
        self.interrupted = False
        self._session = session
        self._opener = opener
        self._session_error: RingfenceError | None = None
        self._agent_address = agent
        self._agent: AgentSession | None = None
        self._agent_error: AgentAbsentError | None = None
        self._pid = pid
        self._tenant = tenant
        self._host = host

    @property
    def session(self) -> QmpDoor:
        """The monitor, open.

        :raise MonitorError: there is none, or it is not open.
        """
        if self._session is None:
            raise self._session_error or MonitorError("this tenant has no monitor that could be asked")
        return self._session

    async def monitor(self) -> QmpDoor:
        """The monitor, opened now where it was not yet; one that could not be opened is not tried again.

        :raise RingfenceError: as the opener does.
        """
        if self._session is None and self._opener is not None and self._session_error is None:
            try:
                self._session = await self._opener()
            except RingfenceError as error:
                self._session_error = error
        return self.session

    @property
    def host(self) -> HostEdge:
        """The kernel of this host, as it concerns this tenant."""
        if self._host is None:
            from ringfence.host.edge import HostEdge

            self._host = HostEdge.of(self._tenant, pid=self._pid)
        return self._host

    def interrupt(self) -> None:
        """Have steps that are under way end: their next wait raises InterruptError, so that they leave order."""
        self.interrupted = True

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
                self._agent = await AgentSession.open(
                    self._agent_address, timeout_s=min(_AGENT_OPEN_S, self.answer_timeout_s)
                )
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
        if self._session is not None:
            await self._session.close()
        if self._host is not None:
            await self._host.close()


async def observe(steps: Steps[T], edges: Edges) -> T:
    """Drive steps that only read. QEMU's answers may take `edges.answer_timeout_s` all together.

    :raise MonitorError: also for an answer that is not of the form the steps expect. Nothing was changed.
    """
    try:
        return await _Drive(edges, shared=True).run(steps)
    except RingfenceError as error:
        error.state = ""  # the session does not know which commands only read
        raise


async def run(
    steps: Steps[T], edges: Edges, *, events: tuple[str, ...] = (), progress: ProgressCallback = no_progress
) -> T:
    """Drive `steps` to their end and return what they return.

    Errors of a request are thrown into the steps; one they do not catch comes out here, and so does a
    MonitorProtocolError or GuestError for an answer that they cannot read. Events named in `events` are collected
    from before the first request. Each answer may take `edges.answer_timeout_s`; after a late one what follows, to
    leave order, shares that time.
    """
    if not events:
        return await _Drive(edges, progress=progress).run(steps)
    session = await edges.monitor()
    with session.listen(events) as listener:
        return await _Drive(edges, listener, progress).run(steps)


class _Drive:
    """One run of some steps.

    :param shared: whether QEMU's answers share the time that else each of them has.
    """

    def __init__(
        self,
        edges: Edges,
        listener: Events | None = None,
        progress: ProgressCallback = no_progress,
        *,
        shared: bool = False,
    ) -> None:
        self._edges = edges
        self._listener = listener
        self._progress = progress
        self._shared = shared
        self._left_s = edges.answer_timeout_s

    async def run(self, steps: Steps[T]) -> T:
        error: RingfenceError | None = None
        answer: Any = None
        asked: Any = None
        try:
            while True:
                try:
                    request = steps.throw(error) if error else steps.send(answer)
                except StopIteration as stop:
                    result: T = stop.value
                    return result
                except ILL_FORMED as unreadable:
                    if asked is None:
                        raise
                    raise ill_formed(asked, unreadable) from unreadable
                error, answer = None, None
                try:
                    answer = await self._answer(request)
                except RingfenceError as caught:
                    error = caught
                if answer if isinstance(request, Wait) else not isinstance(request, _TRUSTED):
                    asked = request
        finally:
            await self._edges.release_agent()

    async def _answer(self, request: Any) -> Any:
        edges = self._edges
        match request:
            case Qmp() | [Qmp(), *_]:
                return await self._qmp(request)
            case Agent(command, arguments, timeout_s):
                agent = await edges.agent()
                limit_s = min(timeout_s, edges.answer_timeout_s)
                return await agent.execute(command, arguments or None, timeout_s=limit_s)
            case Wait(events, timeout_s):
                return await self._wait(events, timeout_s)
            case Clock():
                return time.monotonic()
            case WallClock():
                return time.time()
            case HostRss():
                return edges.rss_bytes()
            case Progress():
                self._progress(request)
                return None
            case _:
                return await edges.host.answer(request)

    async def _qmp(self, request: Qmp | list[Qmp]) -> Any:
        session, late = await self._edges.monitor(), False
        start = time.monotonic()
        try:
            if isinstance(request, Qmp):
                return await session.execute(request.command, request.arguments or None, timeout_s=self._left_s)
            commands = [(q.command, q.arguments or None) for q in request]
            return await session.execute_all(commands, timeout_s=self._left_s)
        except MonitorTimeoutError:
            late = True
            raise
        finally:
            if self._shared:
                self._left_s = max(0.0, self._left_s - (time.monotonic() - start))
            self._shared = self._shared or late

    async def _wait(self, events: tuple[str, ...], timeout_s: float) -> dict[str, Any] | None:
        self._refuse_interrupted()
        event = None
        if events:
            event = await self._event(events, timeout_s)
        else:
            await self._edges.pause(timeout_s)
        self._refuse_interrupted()
        return event

    async def _event(self, events: tuple[str, ...], timeout_s: float) -> dict[str, Any] | None:
        if self._listener is None:
            raise MonitorError(f"steps wait for {', '.join(events)} and nobody listens")
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            event = await self._listener.get(left)
            if event is None or event["event"] in events:
                return event
        return None

    def _refuse_interrupted(self) -> None:
        if self._edges.interrupted:
            raise InterruptError("it was ended by hand", hint="the same command again goes on from here")
