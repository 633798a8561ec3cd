"""The journal's entries as plain data, and as lines for people."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ringfence.cli.fence_data import shown
from ringfence.cli.output import line, note

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ringfence.core.knob import Value
    from ringfence.engine.journal import Change, Journal, Transaction
    from ringfence.engine.recovery import Recovered, Undo

STATES = {
    "new": "as changed",
    "old": "as it was before",
    "mixed": "in between",
    "gone": "not there any more",
    "pending": "not known",
}


def when(at_s: float) -> str:
    """A time for people, in this host's zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_s))


def value(key: str, of: Value | None) -> str:
    """A value of a key for people; of a key that is no knob any more as it is."""
    from ringfence.errors import UsageError
    from ringfence.knobs import registry

    try:
        row = registry.parse_key(key).row
    except UsageError:
        return str(of)
    return shown(row, of)


def differences(change: Change) -> dict[str, tuple[Value | None, Value | None]]:
    """Every key that a change moved, or was to move: before, and after."""
    after: Mapping[str, Value | None] = change.asked if change.after is None else change.after
    keys = dict.fromkeys((*change.asked, *after)) if change.after is not None else dict.fromkeys(change.asked)
    pairs = {key: (change.before.get(key), after.get(key)) for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def as_data(transaction: Transaction) -> dict[str, Any]:
    """One transaction."""
    return {
        "id": transaction.id,
        "at_s": transaction.at_s,
        "kind": transaction.kind,
        "state": transaction.state,
        "user": transaction.author.user,
        "command": transaction.author.command,
        "takes_back": transaction.reverts,
        "confirm_by_s": transaction.confirm_by_s,
        "tenants": [
            {
                "tenant": change.tenant,
                "state": change.state,
                "said": change.said,
                "verdicts": dict(change.verdicts),
                "changes": [
                    {"key": key, "from": before, "to": after, "wanted_by": change.rules.get(key)}
                    for key, (before, after) in differences(change).items()
                ],
            }
            for change in transaction.changes
        ],
    }


def print_transaction(transaction: Transaction) -> None:
    """One transaction for people."""
    confirm = "; to be confirmed" if transaction.confirm_by_s and transaction.state in ("done", "partly") else ""
    state = "" if transaction.state == "done" else f"  {transaction.state}"
    line(f"{transaction.id:>4}  {when(transaction.at_s)}  {transaction.author.user}{state}{confirm}")
    line(f"      {transaction.author.command}")
    for change in transaction.changes:
        for key, (before, after) in differences(change).items():
            line(f"      {change.tenant}  {key}  {value(key, before)} -> {value(key, after)}")
        if change.state != "new":
            line(f"      {change.tenant}  {STATES[change.state]}{f': {change.said}' if change.said else ''}")


def print_undo(undo: Undo) -> None:
    """What became of a change that was taken back."""
    for tenant in undo.tenants:
        for result in tenant.back.results:
            before, now = shown(result.row, result.before), shown(result.row, result.actual)
            line(f"{tenant.tenant}  {result.key}  {before} -> {now}  {result.verdict}")
        said = f": {tenant.back.said}" if tenant.back.said else ""
        if tenant.back.state != "old" or not tenant.back.results:
            line(f"{tenant.tenant}  {STATES[tenant.back.state]}{said}")
    note(f"transaction {undo.number} takes {undo.of.id} back")


def undo_data(undo: Undo) -> dict[str, Any]:
    """The same as data."""
    return {
        "transaction": undo.number,
        "takes_back": undo.of.id,
        "tenants": [
            {
                "tenant": one.tenant,
                "state": one.back.state,
                "said": one.back.said,
                "set_by_others_since": dict(one.back.elsewhere),
                "keys": [result.key for result in one.back.results],
            }
            for one in undo.tenants
        ],
    }


def undo_code(undo: Undo) -> int:
    """What a command line ends with: 0 when all is as it was, and where that is not to be had."""
    return 0 if all(one.back.state in ("old", "gone") for one in undo.tenants) else 6


def print_recovered(recovered: list[Recovered]) -> None:
    """What was brought in order."""
    for one in recovered:
        said = f": {one.said}" if one.said else ""
        line(f"{one.tenant}  transaction {one.transaction.id}  {STATES[one.state]}{said}")


def warn_of_interrupted(record: Journal) -> None:
    """Say that something was left in the middle, without touching it."""
    from ringfence.engine import recovery

    for one in recovery.interrupted(record):
        note(f"transaction {one.id} of {when(one.at_s)} was interrupted: `ringfence recover` brings it in order")
