"""Progress: only on a terminal, only of what takes long."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

import pytest

from ringfence.cli import progress
from ringfence.core.requests import Progress
from ringfence.engine.driver import no_progress

HALF = Progress("memory.target", 512 << 20, 1 << 30, "bytes")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Terminal]:
    """Make standard error a terminal; within the test, as each phase of one has a standard error of its own."""

    def terminal() -> Terminal:
        stream = Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("COLUMNS", "100")
        monkeypatch.setenv("TERM", "xterm")
        return stream

    return terminal


def test_nothing_where_it_would_disturb(terminal: Callable[[], Terminal], monkeypatch: pytest.MonkeyPatch) -> None:
    terminal()
    with progress.shown_progress(quiet=True) as callback:
        assert callback is no_progress
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress.shown_progress(quiet=False) as callback:
        assert callback is no_progress


def test_what_is_done_quickly_leaves_no_trace(terminal: Callable[[], Terminal]) -> None:
    stream = terminal()
    with progress.shown_progress(quiet=False) as callback:
        assert callback is not no_progress
        callback(HALF)
    assert stream.getvalue() == ""


def test_what_takes_long_is_drawn(terminal: Callable[[], Terminal], monkeypatch: pytest.MonkeyPatch) -> None:
    stream = terminal()
    monkeypatch.setattr(progress, "_SILENT_S", 0.0)
    with progress.shown_progress(quiet=False) as callback:
        callback(HALF)
        callback(HALF._replace(done=1 << 30))
    assert "memory.target" in stream.getvalue()
    assert "1 GiB of 1 GiB" in stream.getvalue()
