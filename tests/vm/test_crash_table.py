"""The crash table: whoever dies at whatever boundary of a change, each VM ends as before or as changed, and which
of the two is told.

On real QEMUs without a guest, whose disks' limits, groups, pools and histograms are real.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ringfence.core.spec_read import document, merged
from ringfence.engine import fences, journal, recovery, snapshot, tenants, transaction
from ringfence.engine.authors import me
from ringfence.engine.journal import Author, Journal
from ringfence.engine.transaction import Options
from ringfence.knobs import registry
from ringfence.qemu.launch import find_qemu
from ringfence.testing.bare_qemu import BareQemu
from ringfence.testing.faults import die, walk

SPEC = """
pools: {{bronze: {{iops: 2000}}}}
fences:
  {a}:
    disks:
      vda: {{iops: 500, iops_burst: 2000 for 10s, pool: bronze, latency_histogram: on}}
      vdb: {{bps: 10MiB/s, group: g1}}
      vdc: {{bps: 10MiB/s, group: g1, pool: bronze}}
  {b}:
    disks: {{"vd[ab]": {{iops: 100, pool: bronze}}}}
"""


def author() -> Author:
    return Author(*me("a test"))


class Pair:
    """Two QEMUs, a spec for both, and what they are."""

    def __init__(self, folder: Path, tag: str) -> None:
        self.qemus = [BareQemu(folder, f"{tag}-{name}", disks=count) for name, count in (("a", 3), ("b", 2))]
        text = SPEC.format(a=self.qemus[0].name, b=self.qemus[1].name)
        self.spec = merged([("f", document(text, "f.yaml", fences.words(), fences.read_value))])
        self.state = folder / "state"

    def tenants(self) -> list[Any]:
        names = {qemu.name for qemu in self.qemus}
        return [tenant for tenant in tenants.find() if tenant.name in names]

    def apply(self, *, whole: bool = False) -> transaction.Report:
        return asyncio.run(self._apply(whole))

    async def _apply(self, whole: bool) -> transaction.Report:
        record = Journal.open(self.state)
        return await transaction.apply(
            self.spec, self.tenants(), tenants.doors(), record, author(), Options(all_or_nothing=whole)
        )

    def recover(self) -> dict[str, str]:
        record = Journal.open(self.state)
        told = asyncio.run(recovery.recover(record, self.tenants(), tenants.doors(), author()))
        assert recovery.interrupted(record) == []
        return {one.tenant: one.state for one in told}

    def undo(self) -> dict[str, str]:
        return asyncio.run(self._undo())

    async def _undo(self) -> dict[str, str]:
        record = Journal.open(self.state)
        done = await recovery.undo(record, recovery.latest(record), self.tenants(), tenants.doors(), author())
        return {one.tenant: one.back.state for one in done.tenants}

    def values(self) -> dict[str, dict[str, Any]]:
        return asyncio.run(self._values())

    async def _values(self) -> dict[str, dict[str, Any]]:
        found = {}
        for tenant in self.tenants():
            opened = await tenants.doors().open(tenant)
            disks = [knob for knob in registry.knobs() if knob.prefix in ("disk", "pool")]
            found[tenant.name] = snapshot.values(await snapshot.look(opened.edges, disks))
            await opened.close()
        return found


def _difference(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return {key: (one.get(key), other.get(key)) for key in one | other if one.get(key) != other.get(key)}


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    if find_qemu() is None:
        pytest.skip("no QEMU here")
    pair = Pair(tmp_path, f"fence-{tmp_path.name[-12:]}")
    with pair.qemus[0], pair.qemus[1]:
        yield pair


def test_undo_after_apply_restores_and_a_plan_after_apply_is_empty(pair: Pair) -> None:
    old = pair.values()
    report = pair.apply()
    assert [one.state for one in report.tenants] == [journal.NEW] * 2
    assert sum(len(one.results) for one in report.tenants) >= 10
    new = pair.values()
    assert all(new[name] != old[name] for name in old)
    assert pair.apply().plan.empty
    assert set(pair.undo().values()) == {journal.OLD}
    assert pair.values() == old


@pytest.mark.parametrize(
    ("whole", "stride"), [(False, 1), (True, 3)], ids=["each VM", "all or nothing, every third"]
)
def test_the_program_is_killed_at_every_boundary(pair: Pair, whole: bool, stride: int) -> None:
    old = pair.values()
    pair.apply()
    new = pair.values()
    pair.undo()
    boundaries = 0
    seen: set[str] = set()
    for boundary in walk(lambda: pair.apply(whole=whole), die, stride=stride):
        boundaries += 1
        assert boundary.code == -9
        told = pair.recover()
        values = pair.values()
        for name, ended in values.items():
            assert ended in (old[name], new[name]), (boundary, name, told, _difference(ended, old[name]))
            if name in told:
                assert told[name] == (journal.NEW if ended == new[name] else journal.OLD), boundary
        seen |= set(told.values())
        if whole:
            assert values in (old, new), boundary
        if values != old:
            pair.undo()
        assert pair.values() == old, boundary
    assert boundaries * stride > 30
    assert seen == {journal.OLD, journal.NEW}
    assert pair.values() == new


def test_a_qemu_dies_at_every_boundary(pair: Pair) -> None:
    first, second = pair.qemus
    old = pair.values()
    pair.apply()
    new = pair.values()
    pair.undo()
    for boundary in walk(pair.apply, first.crash):
        assert boundary.code == 0, boundary
        first.kill()
        first.start()
        told = pair.recover()
        assert first.name not in told
        record = Journal.open(pair.state)
        last = record.history(limit=1)
        if last and last[0].kind == "apply":
            states = {change.tenant: change.state for change in last[0].changes}
            assert states.get(first.name, journal.GONE) in (journal.GONE, journal.NEW), boundary
        values = pair.values()
        assert values[first.name] == old[first.name], boundary
        assert values[second.name] in (old[second.name], new[second.name])
        if values[second.name] != old[second.name]:
            pair.undo()
        assert pair.values() == old
    assert pair.values() == new
