"""Pace, peers, the service manager's protocol, kinds of a fence."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from ringfence.core.spec_read import document, merged
from ringfence.daemon import kinds, pace, peers, service
from ringfence.daemon.pace import Pace
from ringfence.daemon.peers import Peer
from ringfence.engine import fences


def test_looking_costs_no_more_than_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.01])
    monkeypatch.setattr(pace.time, "process_time", lambda: next(clock))
    measured = Pace()
    measured.things = 200
    with measured:
        pass
    assert measured.interval_s() == pytest.approx(200 * 0.01 / pace.SHARE)
    measured.things = 1
    assert measured.interval_s() == pace.SHORTEST_S
    measured.things = 10**6
    assert measured.interval_s() == pace.LONGEST_S


def test_who_may_do_what(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "_group", lambda: 777)
    root, member, owner, stranger = (
        Peer(1, 0, frozenset({0})),
        Peer(1, 1001, frozenset({777})),
        Peer(1, 1002, frozenset({1002})),
        Peer(1, 1003, frozenset({1003})),
    )
    assert [who.may_read(1002) for who in (root, member, owner, stranger)] == [True, True, True, False]
    assert [who.may_change(1002) for who in (root, member, owner, stranger)] == [True, False, True, False]
    assert [who.may_read() for who in (root, member, owner, stranger)] == [True, True, False, False]
    assert [who.may_change() for who in (root, member, owner, stranger)] == [True, False, False, False]


def test_the_kernel_says_who_is_at_the_other_end() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        peer = peers.peer_of(ours)
    assert (peer.pid, peer.uid) == (os.getpid(), os.getuid())
    assert os.getgid() in peer.groups


def test_the_service_manager_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        service.notify("READY=1", "STATUS=x")
        assert manager.recv(100) == b"READY=1\nSTATUS=x"
        service.reloading()
        assert manager.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    service.notify("READY=1")


@pytest.mark.parametrize(
    ("wanted", "pid", "every_s"),
    [("2000000", None, 1.0), ("2000000", "1", None), ("", None, None), ("x", None, None)],
)
def test_the_watchdog(
    wanted: str, pid: str | None, every_s: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", wanted)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    if pid:
        monkeypatch.setenv("WATCHDOG_PID", pid)
    assert service.watchdog_s() == every_s


def test_a_line_for_the_journal_has_its_level(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    service.log("warning", "drifted")
    monkeypatch.delenv("JOURNAL_STREAM")
    service.log("error", "broken")
    assert capsys.readouterr().err == "<4>drifted\nbroken\n"


def test_a_spec_is_divided_into_kinds_that_lose_nothing() -> None:
    text = b"""
pools: {bronze: {iops: 100}}
fences:
  web: {vcpus: 2, memory: {target: 1GiB}, cpu: {cap: 50%}, disks: {vda: {iops: 5, pool: bronze}}}
"""
    spec = merged([("f.yaml", document(text, "f.yaml", fences.words(), fences.read_value))])
    fence = fences.fences(spec).of([("vm", "web")])
    assert fence is not None
    assert kinds.kinds(fence) == ("cpu", "disk", "memory", "vcpus")
    assert kinds.pools_of(fence, spec) == {"bronze"}
    parts = [fences.fences(kinds.only(spec, kind)).of([("vm", "web")]) for kind in kinds.kinds(fence)]
    assert {key for part in parts if part for key in part.settings} == set(fence.settings)
