"""A QMP session on paper: answers from a table, at once, in this very task."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import pytest

from ringfence.engine.driver import Edges
from ringfence.errors import MonitorGoneError, MonitorRefusedError
from ringfence.testing.obedient_vm import ObedientVm
from ringfence.testing.script import Event, HangUp, Refuse, Return, unfold


class PaperSession:
    """Stands for a `ringfence.qemu.session.Session`.

    :ivar answers: as those of a `FakeQemu`; an exception is raised.
    :ivar timeouts_s: how long each answer was allowed to take.
    """

    def __init__(self, answers: Mapping[str, Any]) -> None:
        self.answers = dict(answers)
        self.asked: list[str] = []
        self.timeouts_s: list[float] = []
        self.reopened = 0
        self._events: list[dict[str, Any]] = []

    async def execute(self, command: str, arguments: Any = None, *, timeout_s: float) -> Any:
        self.asked.append(command)
        self.timeouts_s.append(timeout_s)
        answer = self.answers.get(command, Refuse("CommandNotFound", f"{command} has not been found"))
        if isinstance(answer, Exception):
            raise answer
        value: Any = None
        for act in unfold(answer, arguments or {}):
            match act:
                case Return(value):
                    pass
                case Refuse(error_class, description):
                    raise MonitorRefusedError(description, error_class=error_class)
                case Event(name, data):
                    self._events.append({"event": name, "data": data})
                case HangUp():
                    raise MonitorGoneError("QEMU closed the connection")
        return value

    async def execute_all(self, commands: Sequence[tuple[str, Any]], *, timeout_s: float) -> list[Any]:
        return [await self.execute(command, arguments, timeout_s=timeout_s) for command, arguments in commands]

    async def reopen(self, *, timeout_s: float) -> None:
        self.reopened += 1

    @contextlib.contextmanager
    def listen(self, events: Collection[str]) -> Iterator[PaperSession]:
        yield self

    async def get(self, timeout_s: float | None) -> Any:
        return self._events.pop(0) if self._events else None


@pytest.fixture
def vm() -> ObedientVm:
    return ObedientVm()


@pytest.fixture
def session(vm: ObedientVm) -> PaperSession:
    return PaperSession(vm.answers)


@pytest.fixture
def edges(session: PaperSession) -> Edges:
    return Edges(session, None, 0)  # type: ignore[arg-type]
