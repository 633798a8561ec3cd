"""The session without an event loop, against the same scripted QEMU, which runs in a thread."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from ringfence.core.model import Address
from ringfence.errors import (
    MonitorBusyError,
    MonitorError,
    MonitorGoneError,
    MonitorProtocolError,
    MonitorRefusedError,
    MonitorTimeoutError,
)
from ringfence.qemu.brief import BriefSession, finish, pause
from ringfence.testing.fake_hmp import BANNER
from ringfence.testing.fake_qemu import GREETING, FakeQemu
from ringfence.testing.script import SILENCE, Event, HangUp, Pause, Raw, Refuse, Return, Script

SHORT_S, LONG_S = 0.3, 5.0
Connected = Callable[..., AbstractContextManager[tuple[FakeQemu, BriefSession]]]


@pytest.fixture
def connected(path: Path) -> Connected:
    @contextmanager
    def connect(answers: Any = None) -> Iterator[tuple[FakeQemu, BriefSession]]:
        with FakeQemu(path, answers) as qemu:
            session = BriefSession.open(qemu.address, timeout_s=LONG_S)
            yield qemu, session
            finish(session.close())

    return connect


def ask(session: BriefSession, command: str, timeout_s: float = LONG_S) -> Any:
    return finish(session.execute(command, timeout_s=timeout_s))


def test_opens_and_keeps_the_greeting(connected: Connected) -> None:
    with connected() as (qemu, session):
        assert session.address == qemu.address
        assert session.greeting == GREETING["QMP"]
        assert qemu.received[0]["arguments"] == {"enable": ["oob"]}


@pytest.mark.parametrize(
    ("greeting", "kind"),
    [
        (None, MonitorBusyError),
        (BANNER, MonitorProtocolError),
        (b"RFB 003.008\n", MonitorProtocolError),
        (b"\xff\xfe\n", MonitorProtocolError),
        (b"[1, 2]\n", MonitorProtocolError),
        (b'{"QMP": {}}\n', MonitorProtocolError),
        (b'{"QMP": {"capabilities": "x"}}\n', MonitorProtocolError),
        (b'{"return": {}}\n', MonitorProtocolError),
    ],
    ids=str,
)
def test_what_does_not_greet(path: Path, greeting: bytes | None, kind: type[MonitorError]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    patience_s = LONG_S if greeting else SHORT_S
    with FakeQemu(path, greeting=greeting) as qemu, pytest.raises(kind):
        BriefSession.open(qemu.address, timeout_s=patience_s)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Refuse("GenericError", "no"), MonitorRefusedError),
        (SILENCE, MonitorTimeoutError),
        (HangUp(), MonitorGoneError),
        (Script((Raw(b'{"ret'), HangUp())), MonitorGoneError),
    ],
    ids=["refuses", "silent", "closes", "closes in mid-JSON"],
)
def test_who_does_not_negotiate(path: Path, answer: object, kind: type[MonitorError]) -> None:
    patience_s = 10 * SHORT_S if answer is SILENCE else LONG_S
    with FakeQemu(path, {"qmp_capabilities": answer}) as qemu, pytest.raises(kind):
        BriefSession.open(qemu.address, timeout_s=patience_s)


def test_nobody_there(path: Path) -> None:
    with pytest.raises(MonitorGoneError, match="nobody listens"):
        BriefSession.open(Address(str(path)), timeout_s=LONG_S)


def test_a_full_backlog_is_not_waited_for(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(path))
        server.listen(0)
        client.connect(str(path))
        with pytest.raises(MonitorBusyError, match="queued"):
            BriefSession.open(Address(str(path)), timeout_s=SHORT_S)


def test_answers_among_events(connected: Connected) -> None:
    answers = {
        "cont": Script((Event("RESUME"), Event("STOP", {"a": 1}), Return(3))),
        "x": {"y": "z\u20ac" * 100_000},
    }
    with connected(answers) as (qemu, session):
        assert ask(session, "cont") == 3
        assert ask(session, "x") == answers["x"]
        assert finish(session.execute("cont", {"value": 7})) == 3
        assert qemu.commands == [("cont", {}), ("x", {}), ("cont", {"value": 7})]


def test_a_burst_gives_its_answers_in_order(connected: Connected) -> None:
    with connected() as (qemu, session):

        def answer_both(_: object) -> Script:
            first = json.dumps({"return": 1, "id": qemu.received[-2]["id"]}).encode() + b"\r\n"
            return Script((Return(2), Raw(first)))

        qemu.answers.update({"first": SILENCE, "second": answer_both})
        burst = session.execute_all([("first", {"a": 1}), ("second", None)], timeout_s=LONG_S)
        assert finish(burst) == [1, 2]
        assert finish(session.execute_all([])) == []


def test_the_first_refusal_comes_after_all_were_answered(connected: Connected) -> None:
    answers = {"bad": Refuse("A", "a"), "worse": Refuse("B", "b"), "good": 1}
    with connected(answers) as (qemu, session):
        with pytest.raises(MonitorRefusedError, match="refused bad: a") as caught:
            finish(session.execute_all([("bad", None), ("worse", None), ("good", None)]))
        assert caught.value.error_class == "A"
        assert [name for name, _ in qemu.commands] == ["bad", "worse", "good"]


def test_a_late_answer_is_not_taken_for_the_next(connected: Connected) -> None:
    with connected({"slow": Script((Pause(2 * SHORT_S), Return("old"))), "quick": "new"}) as (_, session):
        with pytest.raises(MonitorTimeoutError, match="no answer to slow within") as caught:
            ask(session, "slow", SHORT_S)
        assert "may have taken effect" in caught.value.state
        assert ask(session, "quick") == "new"


@pytest.mark.parametrize("acts", [(HangUp(),), (Raw(b'{"return": [1, '), HangUp())], ids=["at once", "mid-JSON"])
def test_closed_instead_of_answered(connected: Connected, acts: Any) -> None:
    with connected({"quit": Script(acts)}) as (_, session):
        with pytest.raises(MonitorGoneError, match="closed the connection") as caught:
            ask(session, "quit")
        assert "may have taken effect" in caught.value.state
        with pytest.raises(MonitorGoneError, match="session is closed") as caught:
            ask(session, "quit")
        assert caught.value.state == ""


@pytest.mark.parametrize(
    "noise",
    [
        b"kernel panic\n",
        b"\xff\xff\n",
        b"[]\n",
        b"[" * 100_000 + b"\n",
        b'{"return": 1, "id": []}\n',
        b'{"error": {"class": "GenericError", "desc": "parse"}}\n',
    ],
    ids=["text", "not UTF-8", "not an object", "deep", "an odd id", "no id"],
)
def test_garbage_ends_the_session(connected: Connected, noise: bytes) -> None:
    with connected({"x": Raw(noise)}) as (_, session):
        with pytest.raises(MonitorProtocolError, match="not QMP"):
            ask(session, "x")
        with pytest.raises(MonitorGoneError):
            ask(session, "x")


@pytest.mark.parametrize("members", ['"maybe": 1', '"error": 1', '"error": {"desc": "x"}'])
def test_a_malformed_answer(connected: Connected, members: str) -> None:
    with connected() as (qemu, session):
        qemu.answers["x"] = lambda _: Raw(f'{{{members}, "id": {qemu.received[-1]["id"]}}}\n'.encode())
        with pytest.raises(MonitorProtocolError):
            ask(session, "x")
        with pytest.raises(MonitorGoneError):
            ask(session, "x")


def test_qemu_does_not_read(connected: Connected) -> None:
    with connected({"x": Pause(10 * SHORT_S)}) as (_, session):
        much = session.execute_all([("x", None), ("x", {"fill": "x" * 4_000_000})], timeout_s=SHORT_S)
        with pytest.raises(MonitorTimeoutError):
            finish(much)
        with pytest.raises(MonitorGoneError):
            ask(session, "x")


@pytest.mark.parametrize("answer", [HangUp(), SILENCE, Raw(b"garbage\n")], ids=["gone", "late", "garbage"])
def test_opens_again_after_an_error(connected: Connected, answer: object) -> None:
    with connected({"x": answer, "y": 1}) as (qemu, session):
        with pytest.raises(MonitorError):
            ask(session, "x", SHORT_S)
        finish(session.reopen())
        assert ask(session, "y") == 1
        assert qemu.clients == 2


def test_the_human_monitor_and_the_schema(connected: Connected) -> None:
    schema = [{"name": "stop", "meta-type": "command", "arg-type": "0", "ret-type": "0"}]
    with connected({"human-monitor-command": "a\r\nb\r\n", "query-qmp-schema": schema}) as (_, session):
        assert finish(session.hmp("info balloon")) == "a\nb\n"
        assert finish(session.schema()).commands() == ["stop"]
        with pytest.raises(MonitorError, match="not listened to"):
            session.listen()


async def test_what_needs_a_loop_is_told_so() -> None:
    import asyncio

    with pytest.raises(RuntimeError, match="there is none"):
        finish(asyncio.sleep(1))
    finish(pause(0))
