"""What `set` writes down: a line in a file before the change and one after it, which the journal takes in later.

`set` is short, and most of its time is imports: this needs none but json, which every monitor session has. The
line before the change is on disk before the change is made.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ringfence.engine import snapshot
from ringfence.errors import HostError

if TYPE_CHECKING:
    from ringfence.core.knob import Outcome, Value
    from ringfence.engine.changes import Result, Step
    from ringfence.engine.journal import Journal

FILE = "set.notes"
_LARGEST_BYTES = 64 * 1024**2


def state_dir() -> Path:
    """`/var/lib/ringfence` for root, else `$XDG_STATE_HOME/ringfence` or `~/.local/state/ringfence`."""
    given = os.environ.get("RINGFENCE_STATE_DIR", "")
    if os.path.isabs(given):
        return Path(given)
    if os.getuid() == 0:
        return Path("/var/lib/ringfence")
    base = os.environ.get("XDG_STATE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".local/state") / "ringfence"


class Note(NamedTuple):
    """A change that `set` has begun."""

    path: Path
    mark: str


def begin(
    folder: Path,
    author: tuple[str, int, str, str],
    change: tuple[str, str],
    before: Mapping[str, Value | None],
    asked: Mapping[str, Value | None],
    *,
    at_s: float,
) -> Note:
    """Write down what is about to be changed; it is on disk when this returns.

    :param author: as `journal.Author`. :param change: tenant and identity, as in `journal.Change`.
    :raise HostError: it cannot be written. Nothing was changed.
    """
    mark = f"{author[1]}-{at_s!r}"
    line = {
        "begin": mark,
        "at_s": at_s,
        "author": author,
        "change": change,
        "before": dict(before),
        "asked": dict(asked),
    }
    path = folder / FILE
    try:
        try:
            _append(path, line, durable=True)
        except FileNotFoundError:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _append(path, line, durable=True)
    except OSError as error:
        raise HostError(
            f"the change cannot be written down in {path}: {error.strerror}",
            path=str(path),
            errno=error.errno or 0,
            hint="set RINGFENCE_STATE_DIR to a directory of yours",
        ) from error
    return Note(path, mark)


class Noted:
    """One `set` as it is written down: what its steps touch before them, and after.

    :param tenant: its name; `identity` what tells its process from another.
    """

    def __init__(self, tenant: str, identity: str, command: str) -> None:
        self._change = (tenant, identity)
        self._command = command
        self._note: Note | None = None
        self._after: dict[str, Value | None] = {}

    def begin(self, steps: Iterable[Step]) -> None:
        """Write down what is about to be changed.

        :raise HostError: it cannot be written. Nothing was changed.
        """
        from ringfence.engine import authors

        steps = [step for step in steps if not step.in_step()]
        if not steps:
            return
        before: dict[str, Value | None] = {}
        asked: dict[str, Value | None] = {}
        for step in steps:
            before.update(snapshot.values({step.knob: (step.part,)}))
            for leaf, key in step.keys.items():
                asked[step.knob.observation(step.part, key.row).key] = step.wants[leaf]
        self._after = dict(before)
        author = authors.me(self._command)
        self._note = begin(state_dir(), author, self._change, before, asked, at_s=time.time())

    def step(self, step: Step, outcome: Outcome) -> None:
        """Take what one step has come to; for `changes.apply`."""
        if outcome.after is not None:
            self._after.update(snapshot.values({step.knob: (outcome.after,)}))

    def end(self, results: Iterable[Result]) -> None:
        """Write down what became of it."""
        if self._note is not None:
            end(self._note, self._after, {result.key: str(result.verdict) for result in results})


def end(note: Note, after: Mapping[str, Value | None] | None, verdicts: Mapping[str, str]) -> None:
    """Write down what became of it; what was not is looked at when the journal is recovered. Never raises."""
    try:
        _append(
            note.path,
            {"end": note.mark, "after": after and dict(after), "verdicts": dict(verdicts)},
            durable=False,
        )
    except OSError:
        return


def _append(path: Path, line: Mapping[str, Any], *, durable: bool) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)  # so that it is not taken in, and emptied, while this is added
        os.write(fd, json.dumps(line).encode() + b"\n")
        if durable:
            os.fdatasync(fd)
    finally:
        os.close(fd)


def take_in(folder: Path, journal: Journal) -> None:
    """Move what was written down into the journal. A change that has not ended yet stays until it has, or its
    author is gone.
    """
    path = folder / FILE
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        lines = _lines(fd)
        kept = _record(lines, journal)
        os.ftruncate(fd, 0)
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, b"".join(json.dumps(line).encode() + b"\n" for line in kept))
        os.fdatasync(fd)
    finally:
        os.close(fd)


def _lines(fd: int) -> list[dict[str, Any]]:
    data = b""
    while len(data) < _LARGEST_BYTES and (more := os.read(fd, 1 << 20)):
        data += more
    found = []
    for text in data.splitlines():
        try:
            line = json.loads(text)
        except ValueError:  # the machine went down while it was written: that change had not begun
            continue
        if isinstance(line, dict):
            found.append(line)
    return found


def _record(lines: list[dict[str, Any]], journal: Journal) -> list[dict[str, Any]]:
    """Those that are not to be taken in yet."""
    from ringfence.engine import authors
    from ringfence.engine.journal import DONE, MIXED, NEW, PARTLY, Author, Change

    ends = {line["end"]: line for line in lines if "end" in line}
    kept: list[dict[str, Any]] = []
    for line in lines:
        if "begin" not in line:
            continue
        try:
            author = Author(*line["author"])
            tenant, identity = line["change"]
            change = Change(tenant, identity, line["before"], line["asked"])
            at_s = float(line["at_s"])
        except (TypeError, KeyError, ValueError):
            continue
        last = ends.get(line["begin"])
        if last is None and authors.alive(author):
            kept.append(line)
            continue
        number = journal.begin("set", author, [change], at_s=at_s)
        if last is not None:
            whole = all(verdict == "applied" for verdict in last["verdicts"].values())
            state = NEW if whole else MIXED
            journal.ended(number, change._replace(after=last["after"], verdicts=last["verdicts"], state=state))
            journal.finish(number, DONE if whole else PARTLY)
    return kept
