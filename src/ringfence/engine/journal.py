"""The journal: every change with the values before it, on disk before the change is made.

SQLite in WAL mode with full synchronisation: what `begin` returned from is there after a crash of the machine too.
One file for root, one for each user. It knows no tenant and no clock; both are told.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from ringfence.core.knob import Value
from ringfence.engine.notes import state_dir, take_in
from ringfence.errors import HostError

OPEN, DONE, PUT_BACK, PARTLY, UNDONE = "open", "done", "put back", "partly", "undone"
"""States of a transaction."""
PENDING, NEW, OLD, MIXED, GONE = "pending", "new", "old", "mixed", "gone"
"""What is known of a tenant of a transaction: whether it has all of the change, nothing of it, or neither."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS transactions (
    id INTEGER PRIMARY KEY AUTOINCREMENT, at_s REAL NOT NULL, kind TEXT NOT NULL, command TEXT NOT NULL,
    user TEXT NOT NULL, pid INTEGER NOT NULL, started TEXT NOT NULL, state TEXT NOT NULL,
    confirm_by_s REAL, reverts INTEGER, whole INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS changes (
    transaction_id INTEGER NOT NULL REFERENCES transactions(id), tenant TEXT NOT NULL, identity TEXT NOT NULL,
    before TEXT NOT NULL, asked TEXT NOT NULL, rules TEXT NOT NULL, after TEXT, verdicts TEXT NOT NULL,
    state TEXT NOT NULL, said TEXT NOT NULL, PRIMARY KEY (transaction_id, identity)
);
CREATE INDEX IF NOT EXISTS by_tenant ON changes (tenant, transaction_id);
CREATE INDEX IF NOT EXISTS by_state ON transactions (state);
"""


class Author(NamedTuple):
    """Who makes a change. :param started: tells a process from a later one with the same pid."""

    user: str
    pid: int
    started: str
    command: str


class Change(NamedTuple):
    """One tenant's part of a transaction.

    :param identity: tells the process of a VM from a later one of the same name.
    :param before: every value that the change may touch. :param after: the same after it; None while not known.
    :param asked: what was wanted. :param rules: by key, which rule of which file wanted it.
    :param verdicts: by key, what became of it. :param said: what is to be known of how it ended.
    """

    tenant: str
    identity: str
    before: Mapping[str, Value | None]
    asked: Mapping[str, Value | None]
    rules: Mapping[str, str] = {}
    after: Mapping[str, Value | None] | None = None
    verdicts: Mapping[str, str] = {}
    state: str = PENDING
    said: str = ""


class Transaction(NamedTuple):
    """:param kind: `set`, `apply`, `undo`, `revert` or `recover`. :param at_s: seconds since 1970.

    :param confirm_by_s: when it is reverted unless it is confirmed; None where it need not be.
    :param reverts: the transaction that this one takes back.
    :param whole: one failure puts all tenants back.
    """

    id: int
    at_s: float
    kind: str
    author: Author
    state: str
    confirm_by_s: float | None
    reverts: int | None
    whole: bool
    changes: tuple[Change, ...]


class Journal:
    """One journal; `Journal.open` for that of this user.

    :raise HostError: by every method, when the file cannot be read or written. Nothing was recorded then.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        with self._errors():
            self._db = sqlite3.connect(path, timeout=10.0, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA foreign_keys=ON")
            self._db.executescript(_SCHEMA)

    @classmethod
    def open(cls, folder: Path | None = None) -> Journal:
        """The journal of this user, made when missing, with what `set` has noted since.

        :raise HostError: there is no place for it.
        """
        folder = folder or state_dir()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise HostError(
                f"there is no place for the journal: {folder}: {error.strerror}",
                path=str(folder),
                errno=error.errno or 0,
                hint="set RINGFENCE_STATE_DIR to a directory of yours",
            ) from error
        journal = cls(folder / "journal.sqlite")
        take_in(folder, journal)
        return journal

    def close(self) -> None:
        """Release the file."""
        self._db.close()

    def begin(
        self,
        kind: str,
        author: Author,
        changes: Sequence[Change],
        *,
        at_s: float,
        confirm_by_s: float | None = None,
        reverts: int | None = None,
        whole: bool = False,
    ) -> int:
        """Record what is about to be changed; it is on disk when this returns. The transaction's number."""
        with self._write():
            cursor = self._db.execute(
                "INSERT INTO transactions"
                " (at_s, kind, user, pid, started, command, state, confirm_by_s, reverts, whole)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (at_s, kind, *author[:3], author.command, OPEN, confirm_by_s, reverts, whole),
            )
            number = int(cursor.lastrowid or 0)
            self._db.executemany(
                "INSERT INTO changes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [(number, *_columns(change)) for change in changes],
            )
        return number

    def ended(self, number: int, change: Change) -> None:
        """Record what became of one tenant's part."""
        with self._write():
            self._db.execute(
                "UPDATE changes SET after=?, verdicts=?, state=?, said=? WHERE transaction_id=? AND identity=?",
                (*_columns(change)[5:], number, change.identity),
            )

    def finish(self, number: int, state: str, *, confirm_by_s: float | None = None) -> None:
        """Record how a transaction ended, and until when it must be confirmed."""
        with self._write():
            self._db.execute(
                "UPDATE transactions SET state=?, confirm_by_s=? WHERE id=?", (state, confirm_by_s, number)
            )

    def confirm(self, number: int) -> bool:
        """Have a transaction stay; False when it need not be confirmed any more."""
        with self._write():
            cursor = self._db.execute(
                "UPDATE transactions SET confirm_by_s=NULL"
                " WHERE id=? AND confirm_by_s IS NOT NULL AND state IN (?, ?)",
                (number, DONE, PARTLY),
            )
        return cursor.rowcount > 0

    def get(self, number: int) -> Transaction | None:
        """One transaction; None when there is none of this number."""
        return next(iter(self._select("WHERE id=?", (number,))), None)

    def unfinished(self) -> list[Transaction]:
        """Those that nobody has recorded the end of, oldest first: they are under way, or their author died."""
        return self._select("WHERE state=? ORDER BY id", (OPEN,))

    def to_confirm(self) -> list[Transaction]:
        """Those that are reverted unless they are confirmed, oldest first."""
        return self._select("WHERE confirm_by_s IS NOT NULL AND state IN (?, ?) ORDER BY id", (DONE, PARTLY))

    def history(self, tenant: str | None = None, *, limit: int = 50) -> list[Transaction]:
        """The last transactions, of one tenant or of all, newest first."""
        if tenant is None:
            return self._select("ORDER BY id DESC LIMIT ?", (limit,))
        where = "WHERE id IN (SELECT transaction_id FROM changes WHERE tenant=?) ORDER BY id DESC LIMIT ?"
        return self._select(where, (tenant, limit))

    def _select(self, where: str, values: tuple[Any, ...]) -> list[Transaction]:
        with self._errors():
            rows = self._db.execute(
                "SELECT id, at_s, kind, user, pid, started, command, state, confirm_by_s, reverts, whole"
                f" FROM transactions {where}",
                values,
            ).fetchall()
            return [self._transaction(row) for row in rows]

    def _transaction(self, row: tuple[Any, ...]) -> Transaction:
        author, changes = Author(*row[3:7]), self._changes(row[0])
        return Transaction(row[0], row[1], row[2], author, row[7], row[8], row[9], bool(row[10]), changes)

    def _changes(self, number: int) -> tuple[Change, ...]:
        rows = self._db.execute(
            "SELECT tenant, identity, before, asked, rules, after, verdicts, state, said"
            " FROM changes WHERE transaction_id=? ORDER BY rowid",
            (number,),
        )
        return tuple(
            Change(*row[:2], *(None if text is None else json.loads(text) for text in row[2:7]), *row[7:])
            for row in rows
        )

    @contextmanager
    def _write(self) -> Iterator[None]:
        with self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                with suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, ValueError) as error:
            raise HostError(
                f"the journal {self.path} cannot be used: {error}",
                path=self.path,
                hint="see that its disk is not full and that it is yours; moved away, it is begun anew",
            ) from error


def _columns(change: Change) -> tuple[object, ...]:
    texts = [change.before, change.asked, change.rules, change.after, change.verdicts]
    written = [None if text is None else json.dumps(text) for text in texts]
    return (change.tenant, change.identity, *written, change.state, change.said)
