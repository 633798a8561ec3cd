"""The journal, and what `set` notes for it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ringfence.engine import authors, journal, notes
from ringfence.engine.journal import Author, Change, Journal
from ringfence.errors import HostError

ME = Author(*authors.me("a test"))
DEAD = Author("root", 1, "another boot", "ringfence apply f.yaml")
CHANGE = Change("web1", "7-x", {"vcpus": 2, "disk.vda.iops": None}, {"vcpus": 3}, {"vcpus": "f.yaml:1:2 (web1)"})


def test_what_is_begun_is_there_for_whoever_opens_it_next(tmp_path: Path) -> None:
    number = Journal.open(tmp_path).begin("apply", DEAD, [CHANGE], at_s=5.0, confirm_by_s=9.0, whole=True)
    (found,) = Journal.open(tmp_path).unfinished()
    assert (found.id, found.author, found.changes, found.confirm_by_s) == (number, DEAD, (CHANGE,), 9.0)
    assert (found.whole, found.state, found.at_s) == (True, journal.OPEN, 5.0)


def test_what_became_of_it_is_kept(tmp_path: Path) -> None:
    record = Journal.open(tmp_path)
    number = record.begin("apply", ME, [CHANGE], at_s=5.0)
    ended = CHANGE._replace(after={"vcpus": 3}, verdicts={"vcpus": "applied"}, state=journal.NEW, said="so")
    record.ended(number, ended)
    record.finish(number, journal.DONE, confirm_by_s=7.0)
    found = record.get(number)
    assert found is not None
    assert (found.changes, found.state) == ((ended,), journal.DONE)
    assert record.unfinished() == []
    assert [one.id for one in record.to_confirm()] == [number]
    assert record.confirm(number)
    assert not record.confirm(number)
    assert record.to_confirm() == []
    assert record.get(99) is None


def test_history_is_of_one_tenant_or_all_newest_first(tmp_path: Path) -> None:
    record = Journal.open(tmp_path)
    for name in ("web1", "web2", "web1"):
        record.begin("apply", ME, [CHANGE._replace(tenant=name)], at_s=1.0)
    assert [one.id for one in record.history()] == [3, 2, 1]
    assert [one.id for one in record.history("web1")] == [3, 1]
    assert [one.id for one in record.history(limit=1)] == [3]


def test_a_journal_that_cannot_be_used_is_an_error_of_the_host(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").write_bytes(b"this is no database, however long it may be" * 100)
    with pytest.raises(HostError, match="cannot be used"):
        Journal.open(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match="no place for the journal"):
        Journal.open(tmp_path / "file" / "below")


def _note(folder: Path, author: Author, at_s: float) -> notes.Note:
    return notes.begin(folder, tuple(author), ("web1", "7-x"), {"vcpus": 2}, {"vcpus": 3}, at_s=at_s)  # type: ignore[arg-type]


def test_notes_are_taken_in_once_and_those_under_way_are_left(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    notes.end(_note(folder, ME, 1.0), {"vcpus": 3}, {"vcpus": "applied"})
    under_way = _note(folder, ME, 2.0)
    record = Journal.open(folder)
    assert [(one.kind, one.state, one.at_s) for one in record.history()] == [("set", journal.DONE, 1.0)]
    notes.end(under_way, {"vcpus": 2}, {"vcpus": "refused"})
    record = Journal.open(folder)
    assert [(one.state, one.changes[0].state) for one in record.history()] == [
        (journal.PARTLY, journal.MIXED),
        (journal.DONE, journal.NEW),
    ]
    assert (folder / notes.FILE).read_bytes() == b""


def test_what_a_dead_set_has_begun_is_for_recover(tmp_path: Path) -> None:
    _note(tmp_path, DEAD, 1.0)
    (found,) = Journal.open(tmp_path).unfinished()
    assert (found.kind, found.changes[0].before, found.changes[0].state) == ("set", {"vcpus": 2}, journal.PENDING)


def test_a_line_cut_short_is_no_change(tmp_path: Path) -> None:
    _note(tmp_path, DEAD, 1.0)
    with (tmp_path / notes.FILE).open("a") as file:
        file.write('{"begin": "1-2", "at')
        file.write("\n[]\n" + json.dumps({"begin": "x"}) + "\n")
    assert len(Journal.open(tmp_path).history()) == 1


def test_where_no_note_can_be_written_is_an_error_of_the_host(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match="cannot be written down"):
        _note(tmp_path / "file", ME, 1.0)


def test_a_process_is_told_from_a_later_one_of_its_pid() -> None:
    assert authors.alive(ME)
    assert not authors.alive(ME._replace(started="another boot-1"))
    assert not authors.alive(ME._replace(pid=2**22 + 1, started=""))
    assert authors.started(os.getpid()) == ME.started
    assert (authors.started_at_s(os.getpid()) or 0) > 1e9
    assert authors.started_at_s(2**22 + 1) is None
