"""Plays a knob's steps without any edge: scripted answers, virtual time, everything sent on record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from ringfence.core.host_requests import HostRequest
from ringfence.core.requests import Agent, Change, Clock, HostRss, Progress, Qmp, Steps, Wait, WallClock
from ringfence.errors import AgentAbsentError, HostError, MonitorRefusedError, RingfenceError
from ringfence.host.edge import HostEdge

T = TypeVar("T")
_HOST_READS = ("ReadFile", "ListDir", "ReadLink", "DeviceOf", "BlockDevices", "Tasks", "Placement", "GetAffinity")


class PaperVm:
    """A VM on paper.

    :param answers: command to what it returns; a callable is given the arguments; an exception is thrown.
        A QMP command that is not named is refused as QEMU refuses an unknown one, an agent command that is not
        named meets no agent.
    :param events: handed to the steps' waits one by one, in order.
    :param host: answers what is asked of the host, such as `FakeTree.edge`; without it nobody does.
    :ivar sent: every QMP and agent request, in order, and every one to the host.
    :ivar now_s: virtual seconds; a wait without an event lasts its whole time-out.
    """

    def __init__(
        self,
        answers: Mapping[str, Any],
        events: Sequence[Mapping[str, Any]] = (),
        *,
        host: HostEdge | None = None,
    ) -> None:
        self.answers = dict(answers)
        self.host = host
        self.events = list(events)
        self.sent: list[Change] = []
        self.progress: list[Progress] = []
        self.now_s = 1000.0
        self.rss_bytes: int | None = None

    def play(self, steps: Steps[T]) -> T:
        """Run the steps to their end and return their result; what they do not catch is raised."""
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
                answer = self._all(request) if isinstance(request, list) else self._one(request)
            except RingfenceError as caught:
                error = caught

    def commands(self) -> list[str]:
        """Names of everything sent."""
        return [_name(request) for request in self.sent]

    def changes(self) -> list[Change]:
        """What was sent that changes the VM."""
        return [r for r, name in zip(self.sent, self.commands(), strict=True) if not _only_reads(name)]

    def _all(self, requests: Sequence[Any]) -> list[Any]:
        answers: list[Any] = []
        first: RingfenceError | None = None
        for request in requests:
            try:
                answers.append(self._one(request))
            except RingfenceError as error:
                first = first or error
        if first:
            raise first
        return answers

    def _one(self, request: Any) -> Any:
        match request:
            case Qmp(command, arguments):
                self.sent.append(request)
                unknown = MonitorRefusedError(f"unknown command {command}", error_class="CommandNotFound")
                return _give(self.answers.get(command, unknown), arguments)
            case Agent(command, arguments):
                self.sent.append(request)
                return _give(self.answers.get(command, AgentAbsentError("no agent")), arguments)
            case Wait(names, timeout_s):
                return self._wait(names, timeout_s)
            case Clock() | WallClock():
                return self.now_s
            case HostRss():
                return self.rss_bytes
            case Progress():
                self.progress.append(request)
                return None
            case _:
                return self._host(request)

    def _host(self, request: HostRequest) -> Any:
        self.sent.append(request)
        if self.host is None:
            raise HostError("this VM on paper is on no host")
        return self.host.answer_now(request)

    def _wait(self, names: Sequence[str], timeout_s: float) -> Mapping[str, Any] | None:
        for event in self.events:
            if event["event"] in names:
                self.events.remove(event)
                return event
        self.now_s += timeout_s
        return None


def _name(request: Change) -> str:
    match request:
        case Qmp(command) | Agent(command):
            return command
        case _:
            return type(request).__name__


def _only_reads(command: str) -> bool:
    return command.startswith(("query-", "qom-get", "qom-list", "guest-get-", *_HOST_READS))


def _give(answer: Any, arguments: Mapping[str, object]) -> Any:
    if isinstance(answer, RingfenceError):
        raise answer
    if callable(answer):
        return answer(arguments)
    return answer
