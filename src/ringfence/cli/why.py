"""`ringfence why VM.KEY`: who set it, when, from what, by which rule, and what is so now."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ringfence.cli import completion, target
from ringfence.cli.output import Format, emit, line
from ringfence.errors import RingfenceError, UsageError

if TYPE_CHECKING:
    from ringfence.core.knob import Observation
    from ringfence.core.model import Tenant
    from ringfence.engine.drift import Hand, Setter

_EPILOG = "Example: ringfence why web1.disk.vda.iops"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(name="why", epilog=_EPILOG)(why)


def why(
    what: Annotated[
        str,
        typer.Argument(metavar="VM.KEY", help="such as web1.disk.vda.iops", autocompletion=completion.vm_names),
    ],
    key: Annotated[str | None, typer.Argument(metavar="", help="KEY, when VM stands alone")] = None,
    timeout: Annotated[str | None, typer.Option("--timeout", help=target.TIMEOUT_HELP)] = None,
    output: Annotated[Format, typer.Option("-o", "--output", help="how to print")] = Format.TABLE,
) -> None:
    """Who set a limit, when, from what to what, by which rule, and what QEMU or the kernel says now."""
    from ringfence.cli import journal_data
    from ringfence.engine import authors, drift
    from ringfence.engine.journal import Journal
    from ringfence.knobs import registry

    name, asked = (what, key) if key is not None else _apart(what)
    parsed = registry.parse_key(asked)
    tenant: Tenant | None = None
    seen: Observation | None = None
    problem = ""
    try:
        tenant = target.find_tenant(name)
        seen = asyncio.run(_observe(tenant, parsed, target.deadlines(timeout)))
    except RingfenceError as error:
        problem = error.message
    full = seen.key if seen else asked
    record = Journal.open()
    history = record.history(name, limit=1000)
    found = drift.setters(full, history, name)
    hand: Hand | None = None
    if seen and tenant:
        started = authors.started_at_s(tenant.pid) if tenant.pid else None
        host = drift.is_host(parsed.knob)
        hand = drift.hand(seen, history, name, authors.identity(tenant), started, is_host=host)
    data: dict[str, Any] = {
        "tenant": name,
        "key": full,
        "now": seen.actual if seen else None,
        "target": seen.target if seen else None,
        "mechanism": seen.row.mechanism if seen else None,
        "problem": problem or None,
        "hand": hand.hand if hand else None,
        "said": hand.said if hand else None,
        "set": [_setter_data(setter) for setter in found],
    }

    def render() -> None:
        if seen:
            line(f"{name}.{full} is {journal_data.value(full, seen.actual)} now, by {seen.row.mechanism}")
        else:
            line(f"{name}.{full} cannot be read: {problem}")
        if hand:
            line(f"  {hand.said}")
        for setter in found[:10]:
            line(f"  {_setter_text(full, setter)}")

    emit(data, output, render)
    journal_data.warn_of_interrupted(record)
    record.close()


def _apart(text: str) -> tuple[str, str]:
    """`web1.disk.vda.iops` taken apart; names of VMs may hold dots too."""
    from ringfence.knobs import registry

    parts = text.split(".")
    for end in range(1, len(parts)):
        key = ".".join(parts[end:])
        try:
            registry.parse_key(key)
        except UsageError:
            continue
        return ".".join(parts[:end]), key
    raise UsageError(f"{text!r} is not VM.KEY", hint="such as web1.disk.vda.iops; `ringfence show VM` lists keys")


async def _observe(tenant: Tenant, key: Any, limits: target.Deadlines) -> Observation:
    from ringfence.engine import changes
    from ringfence.engine.api import open_tenant
    from ringfence.knobs import registry

    async with open_tenant(tenant, **limits) as opened:
        seen = await changes.observe_all(opened.edges, [key.knob])
        part = registry.pick(seen[key.knob], key)
        observation: Observation = key.knob.observation(part, key.row)
        return observation


def _setter_data(setter: Setter) -> dict[str, Any]:
    transaction = setter.transaction
    return {
        "transaction": transaction.id,
        "at_s": transaction.at_s,
        "user": transaction.author.user,
        "command": transaction.author.command,
        "from": setter.before,
        "to": setter.after,
        "rule": setter.rule or None,
        "state": transaction.state,
    }


def _setter_text(key: str, setter: Setter) -> str:
    from ringfence.cli import journal_data

    transaction = setter.transaction
    moved = f"{journal_data.value(key, setter.before)} -> {journal_data.value(key, setter.after)}"
    rule = f", by {setter.rule}" if setter.rule else ""
    who = f"{transaction.author.user}: {transaction.author.command}"
    return f"{journal_data.when(transaction.at_s)}  {moved}{rule}  [{transaction.id}] {who}"
