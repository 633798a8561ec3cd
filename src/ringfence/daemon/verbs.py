"""What the control socket can be asked for.

Each method is one verb, its docstring's first paragraph what it does, its parameters the request's arguments;
docs/control.md is made from them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ringfence import __version__
from ringfence.control import data
from ringfence.core.answers import fields, text
from ringfence.core.knob import Verdict
from ringfence.core.model import Container
from ringfence.daemon.peers import Peer, refuse
from ringfence.engine import api, authors, fences, journal, snapshot
from ringfence.engine.journal import Author, Change, Transaction
from ringfence.errors import RingfenceError, UsageError
from ringfence.knobs import registry

if TYPE_CHECKING:
    from ringfence.core.model import Tenant
    from ringfence.core.requests import Progress
    from ringfence.daemon.server import Call, Verb
    from ringfence.daemon.warden import Warden
    from ringfence.engine.changes import Result, Step


NAMES = ("status", "tenants", "show", "set", "history", "reload", "metrics")


class Verbs:
    """:param reload: reads the files anew. :param metrics: what Prometheus would be told."""

    def __init__(self, warden: Warden, *, reload: Callable[[], str], metrics: Callable[[], Any]) -> None:
        self._warden = warden
        self._office = warden.office
        self._reload = reload
        self._metrics = metrics

    def table(self) -> dict[str, Verb]:
        """Every verb by its name."""
        return {name: getattr(self, name) for name in NAMES}

    async def status(self, call: Call) -> Any:
        """How the daemon is, and how it stands with every tenant that has a fence and that the asker may see.

        :return: an object: `version`, `pid`, `files` of fences, `told_of_new_vms_by`, `look_every_s`, `repairs`,
            and `tenants`, each with `tenant`, `pid`, `rules`, `drift`, and its `kinds` by name: `state`
            (`in step`, `waiting`, `drifted`, `refused`, `unknown`), `reason`, `differs`, `at_s`, `repairs`.
        """
        keepers = self._warden.keepers
        return {
            "version": __version__,
            "pid": os.getpid(),
            "files": list(self._office.spec.files),
            "told_of_new_vms_by": "the kernel" if self._warden.watch.events else "looking every two seconds",
            "look_every_s": round(self._office.interval_s(), 1),
            "repairs": self._office.repairs,
            "tenants": [
                {
                    "tenant": keeper.tenant.name,
                    "pid": keeper.tenant.pid,
                    "rules": list(keeper.fence.rules),
                    "drift": keeper.fence.drift,
                    "kinds": {kind: kept._asdict() for kind, kept in keeper.kept.items()},
                }
                for keeper in keepers.values()
                if call.peer.may_read(_owner(keeper.tenant))
            ],
        }

    async def tenants(self, call: Call) -> Any:
        """Every tenant that runs and that the asker may see.

        :return: a list of objects: `tenant`, `kind` (`vm` or `container`), `pid`, `fenced`.
        """
        return [
            {
                "tenant": tenant.name,
                "kind": "container" if isinstance(tenant, Container) else "vm",
                "pid": tenant.pid,
                "fenced": identity in self._warden.keepers,
            }
            for identity, tenant in self._office.running.items()
            if call.peer.may_read(_owner(tenant))
        ]

    async def show(self, call: Call) -> Any:
        """Every knob of one tenant.

        :param vm: the tenant: its name, its UUID, `pid:N`, or `container:NAME`.
        :return: an object: `vm`, `pid`, `knobs` as `ringfence show -o json` prints them, each with the `aliases`
            of what it belongs to, and `trouble` (`message`, `hint`): why some could not be read, or null.
        """
        tenant = self._tenant(call, change=False)
        async with api.open_tenant(tenant) as opened:
            found = await opened.parts()
            trouble = opened.trouble
        return {
            "vm": tenant.name,
            "pid": tenant.pid,
            "knobs": [
                data.observation_data(knob.observation(part, row)) | {"aliases": list(part.aliases)}
                for knob, parts in found
                for part in parts
                for row in knob.rows
            ],
            "trouble": {"message": trouble.message, "hint": trouble.hint} if trouble else None,
        }

    async def set(self, call: Call) -> Any:
        """Change knobs of one tenant, all checked before the first is changed; the results, one a key.

        :param vm: the tenant, as for `show`.
        :param values: an object: by key, what is wanted, as a person writes it.
        :param timeout_s: how long a guest may take for one key; 60 unless given.
        :param force: true: also what would hurt the guest; false unless given.
        :return: a list of results as `ringfence set -o json` prints them, each with its `exit_code`. Words of
            progress come before it.
        """
        tenant = self._tenant(call, change=True)
        values = {text(key): value for key, value in fields(call.arguments["values"]).items()}
        force = bool(call.arguments.get("force", False))
        timeout_s = float(call.arguments.get("timeout_s", api.DEFAULT_TIMEOUT_S))
        async with api.open_tenant(tenant) as opened, opened.turn(values):
            steps = await opened.plan(values, force=force)
            knobs = list(dict.fromkeys(step.knob for step in steps))
            before = snapshot.values(await snapshot.look(opened.edges, knobs))
            asked = {
                step.knob.observation(step.part, step.keys[leaf].row).key: want
                for step in steps
                for leaf, want in step.wants.items()
            }
            change = Change(tenant.name, authors.identity(tenant), before, asked)
            record = self._office.record
            number = record.begin("set", _author(call.peer, values), [change], at_s=self._office.now_s())
            results = await self._carried_out(call, opened, steps, timeout_s, force)
            ended = await _ended(opened, change, results)
            record.ended(number, ended)
            record.finish(number, journal.DONE if ended.state == journal.NEW else journal.PARTLY)
        notes = self._fenced_otherwise(tenant, steps)
        return [
            data.result_data(r) | {"exit_code": r.exit_code, "notes": [*r.notes, *notes.get(r.key, ())]}
            for r in results
        ]

    async def _carried_out(
        self, call: Call, opened: api.OpenVm, steps: list[Step], timeout_s: float, force: bool
    ) -> list[Result]:
        def progress(word: Progress) -> None:
            call.tell(word._asdict())

        going = asyncio.ensure_future(
            opened.apply(steps, timeout_s=timeout_s, force=force, progress=progress, watch=True)
        )
        try:
            return await asyncio.shield(going)
        except asyncio.CancelledError:  # whoever asked has gone
            opened.interrupt()
            return await going

    def _fenced_otherwise(self, tenant: Tenant, steps: Sequence[Step]) -> dict[str, list[str]]:
        """For keys that a fence wants otherwise: that they will not stay."""
        fence = self._office.fence_of(tenant)
        notes: dict[str, list[str]] = {}
        for setting in fence.settings.values() if fence is not None and fence.drift == "repair" else ():
            key = registry.parse_key(setting.key)
            for step in steps:
                names = ("", step.part.name, *step.part.aliases)
                if step.knob is not key.knob or key.instance not in names or key.leaf not in step.wants:
                    continue
                if step.wants[key.leaf] != setting.value:
                    seen = step.knob.observation(step.part, key.row)
                    notes[seen.key] = [f"{setting.place} fences it otherwise: the daemon will put it back"]
        return notes

    async def history(self, call: Call) -> Any:
        """The last changes, newest first.

        :param vm: of one tenant only; of all unless given.
        :param limit: how many; 50 unless given.
        :return: a list of transactions: `id`, `at_s`, `kind`, `author` (`user`, `pid`, `started`, `command`),
            `state`, `confirm_by_s`, `reverts`, `whole`, and `changes`, each with `tenant`, `identity`, `state`,
            `said`, and by key the values `before`, `asked` and `after`, the `rules` and the `verdicts`.
        """
        name = call.arguments.get("vm")
        if name is not None:
            tenant_name = self._tenant(call, change=False).name
        elif call.peer.may_read():
            tenant_name = None
        else:
            raise refuse(call.peer, "see the history of all tenants")
        limit = int(call.arguments.get("limit", 50))
        return [_transaction(one) for one in self._office.record.history(tenant_name, limit=limit)]

    async def reload(self, call: Call) -> Any:
        """Read the files of fences anew; when they are wrong, those of before stay in force.

        :return: what they come to, in a sentence.
        """
        if not call.peer.may_change():
            raise refuse(call.peer, "have the files read anew")
        return self._reload()

    async def metrics(self, call: Call) -> Any:
        """What `/metrics` tells.

        :return: Prometheus' text format, as one string.
        """
        if not call.peer.may_read():
            raise refuse(call.peer, "see the metrics")
        return await self._metrics()

    def _tenant(self, call: Call, *, change: bool) -> Tenant:
        """The tenant that `vm` names, if this peer may see or change it. Others are not told that it exists."""
        wanted = text(call.arguments["vm"])
        found = [one for one in self._office.running.values() if _is_called(one, wanted)]
        allowed = call.peer.may_change if change else call.peer.may_read
        seen = [one for one in found if call.peer.may_read(_owner(one))]
        if not seen:
            raise UsageError(f"there is no tenant {wanted!r}", hint="`ringfence ps` lists those of this host")
        if len(seen) > 1:
            pids = ", ".join(f"pid:{one.pid}" for one in seen)
            raise UsageError(f"{len(seen)} tenants are called {wanted!r}", hint=f"name one by its process: {pids}")
        if not allowed(_owner(seen[0])):
            raise refuse(call.peer, f"change {seen[0].name}")
        return seen[0]


async def _ended(opened: api.OpenVm, change: Change, results: Sequence[Result]) -> Change:
    """What a `set` has come to, for the journal; a tenant that cannot be read any more is told as such."""
    change = change._replace(verdicts={result.key: str(result.verdict) for result in results})
    try:
        now = snapshot.values(await snapshot.look(opened.edges, snapshot.knobs_of(change.asked)))
    except RingfenceError as error:
        return change._replace(state=journal.GONE, said=error.message)
    whole = all(result.verdict is Verdict.APPLIED for result in results)
    return change._replace(after=now, state=journal.NEW if whole else journal.MIXED)


def _is_called(tenant: Tenant, wanted: str) -> bool:
    if isinstance(tenant, Container):
        return wanted == tenant.selector
    return wanted in (tenant.name, f"pid:{tenant.pid}", str(tenant.pid)) or any(
        wanted == name for _, name in fences.names(tenant)
    )


def _owner(tenant: Tenant) -> int | None:
    """The user whose process it is; a container is its host's."""
    if isinstance(tenant, Container) or not tenant.pid:
        return None
    with suppress(OSError):
        return os.stat(f"/proc/{tenant.pid}").st_uid
    return None


def _author(peer: Peer, values: Mapping[str, object]) -> Author:
    import pwd

    try:
        user = pwd.getpwuid(peer.uid).pw_name
    except KeyError:
        user = str(peer.uid)
    command = "set " + " ".join(f"{key}={value}" for key, value in values.items())
    return Author(user, os.getpid(), authors.started(os.getpid()), command[:400])


def _transaction(one: Transaction) -> dict[str, Any]:
    return one._asdict() | {
        "author": one.author._asdict(),
        "changes": [change._asdict() for change in one.changes],
    }
