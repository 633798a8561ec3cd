"""History between runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from prompt_toolkit.history import InMemoryHistory

from ringfence.cli.monitor_history import history_path, open_history


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def test_one_file_for_each_mode(state: Path) -> None:
    assert history_path("HMP") == state / "ringfence" / "monitor_history"
    assert history_path("QMP") == state / "ringfence" / "qmp_history"


@pytest.mark.parametrize("value", ["", "relative/path"])
def test_default_place(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", value)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert history_path("HMP") == tmp_path / ".local" / "state" / "ringfence" / "monitor_history"


def test_lines_are_there_in_the_next_run(state: Path) -> None:
    open_history("HMP").store_string("info block")
    open_history("HMP").store_string("balloon 512")
    assert list(open_history("HMP").load_history_strings()) == ["balloon 512", "info block"]
    assert list(open_history("QMP").load_history_strings()) == []


def test_nobody_else_can_read_it(state: Path) -> None:
    open_history("HMP").store_string("info block")
    path = history_path("HMP")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_file_that_others_could_read_is_closed_to_them(state: Path) -> None:
    path = history_path("HMP")
    path.parent.mkdir(parents=True)
    path.touch(mode=0o644)
    path.chmod(0o644)
    open_history("HMP")
    assert path.stat().st_mode & 0o777 == 0o600


def test_secrets_are_not_kept(state: Path) -> None:
    history = open_history("HMP")
    history.store_string("set_password vnc hunter2")
    history.store_string(" info block")
    assert history_path("HMP").read_text() == ""


def test_without_a_place_it_lasts_as_long_as_the_session(state: Path) -> None:
    state.write_text("a file where the folder should be")
    assert isinstance(open_history("HMP"), InMemoryHistory)
