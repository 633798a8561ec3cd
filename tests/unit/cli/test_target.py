"""Which VM a command is about, and how long it may take."""

from __future__ import annotations

import pytest

from ringfence.cli import target
from ringfence.errors import UsageError
from ringfence.qemu import discovery


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What discovery was asked for, instead of looking at this host."""
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(discovery, "find_vm", lambda name: asked.append(("name", name)))
    monkeypatch.setattr(discovery, "vm_at", lambda address: asked.append(("socket", str(address))))
    return asked


@pytest.mark.parametrize(
    ("selector", "qmp", "found"),
    [
        ("web1", None, ("name", "web1")),
        ("pid:77", None, ("name", "pid:77")),
        ("77", None, ("name", "77")),
        ("a:b", None, ("name", "a:b")),
        (":5", None, ("name", ":5")),
        ("/run/web1.qmp", None, ("socket", "/run/web1.qmp")),
        ("./web1.qmp", None, ("socket", "./web1.qmp")),
        ("unix:/run/web1.qmp", None, ("socket", "/run/web1.qmp")),
        ("localhost:4444", None, ("socket", "localhost:4444")),
        ("[::1]:4444", None, ("socket", "[::1]:4444")),
        (None, "web1.qmp", ("socket", "web1.qmp")),
    ],
)
def test_names_and_sockets(
    asked: list[tuple[str, str]], selector: str | None, qmp: str | None, found: object
) -> None:
    target.find(selector, qmp)
    assert asked == [found]


@pytest.mark.parametrize(
    ("selector", "qmp"), [(None, None), ("web1", "/run/q"), (None, ""), (None, "host:port"), ("host:0", None)]
)
def test_what_names_no_vm(asked: list[tuple[str, str]], selector: str | None, qmp: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        target.find(selector, qmp)
    assert caught.value.hint
    assert asked == []


def test_a_timeout() -> None:
    assert target.timeout("250ms") == 0.25
    for text in ("0", "-1", "soon", "", "1parsec", "5 6"):
        with pytest.raises(UsageError, match="--timeout") as caught:
            target.timeout(text)
        assert "10s" in caught.value.hint


def test_what_qemu_is_allowed_of_it() -> None:
    assert target.deadlines(None) == {}
    assert target.deadlines("30s") == {"greeting_timeout_s": 30.0, "answer_timeout_s": 30.0}
    assert target.deadlines("60s", at_most=True) == {"greeting_timeout_s": 2.0, "answer_timeout_s": 5.0}
    assert target.deadlines("1s", at_most=True) == {"greeting_timeout_s": 1.0, "answer_timeout_s": 1.0}
