"""Many keys at once: all checked before the first is changed, and each with its own word at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from ringfence.core.knob import Outcome, Verdict
from ringfence.core.requests import Qmp
from ringfence.engine import changes
from ringfence.engine.driver import Edges
from ringfence.errors import MonitorGoneError, MonitorRefusedError, RingfenceError, UsageError
from ringfence.testing.steps import PaperVm

ZEROS = dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)
SMP_1_OF_2 = [
    {"props": {"core-id": 1}, "vcpus-count": 1, "type": "max-x86_64-cpu"},
    {
        "props": {"core-id": 0},
        "vcpus-count": 1,
        "type": "max-x86_64-cpu",
        "qom-path": "/machine/unattached/device[0]",
    },
]


class ScriptedSession:
    """A PaperVm in the place of a QMP session."""

    def __init__(self, script: PaperVm) -> None:
        self.script = script
        self.gone = False

    async def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, *, timeout_s: float = 5
    ) -> Any:
        if self.gone:
            raise MonitorGoneError("QEMU went away")

        def ask() -> Any:
            return (yield Qmp(command, arguments or {}))

        return self.script.play(ask())

    async def reopen(self, *, timeout_s: float) -> None:
        if self.gone:
            raise MonitorGoneError("nobody listens")

    async def execute_all(
        self, commands: Sequence[tuple[str, Mapping[str, object] | None]], *, timeout_s: float = 5
    ) -> list[Any]:
        return [await self.execute(command, arguments) for command, arguments in commands]

    def listen(self, events: Sequence[str]) -> Any:
        raise AssertionError("no knob of these tests waits")


class Vm:
    """Two virtio disks behind a scripted monitor."""

    def __init__(self) -> None:
        self.limits = {
            "/machine/peripheral/a/virtio-backend": dict(ZEROS),
            "/machine/peripheral/b/virtio-backend": dict(ZEROS),
        }
        self.refuse_after = 100
        script = PaperVm(
            {
                "query-block": lambda _: [
                    {"device": "", "qdev": q, "inserted": dict(v)} for q, v in self.limits.items()
                ],
                "qom-get": self.qom_get,
                "block_set_io_throttle": self.throttle,
            }
        )
        self.session = ScriptedSession(script)
        self.edges = Edges(self.session, None, 0)  # type: ignore[arg-type]

    def qom_get(self, arguments: Any) -> Any:
        slot = 8 if arguments["path"].endswith("/a") else 16
        return {"type": "virtio-blk-pci", "addr": slot, "parent_bus": "/machine/q35/pcie.0", "hotplugged": False}[
            arguments["property"]
        ]

    def throttle(self, arguments: Any) -> dict[str, Any]:
        if self.refuse_after == 0:
            raise MonitorRefusedError("not now")
        self.refuse_after -= 1
        self.limits[f"/machine/peripheral/{arguments['id']}"] = {
            k: v for k, v in arguments.items() if k not in ("id", "group")
        }
        return {}

    async def set(self, values: Mapping[str, Any]) -> list[changes.Result]:
        steps = await changes.plan(self.edges, values)
        return await changes.apply(self.edges, steps, timeout_s=5)

    def sent(self) -> list[Any]:
        return [r.arguments for r in self.session.script.changes()]


async def test_keys_of_one_disk_are_one_command() -> None:
    vm = Vm()
    results = await vm.set({"disk.vda.iops": "100", "disk.vda.iops.burst": "500", "disk.vda.bps": "5MiB/s"})
    assert [r.verdict for r in results] == [Verdict.APPLIED] * 3
    (sent,) = vm.sent()
    assert (sent["iops"], sent["iops_max"], sent["bps"]) == (100, 500, 5 * 2**20)


async def test_two_names_of_one_disk_are_one_disk() -> None:
    vm = Vm()
    await vm.set({"disk.vda.iops": "100", "disk.a.bps": "5MiB/s"})
    assert len(vm.sent()) == 1


async def test_the_same_limit_by_two_names_is_refused() -> None:
    with pytest.raises(UsageError, match="are the same"):
        await Vm().set({"disk.vda.iops": "100", "disk.a.iops": "200"})


@pytest.mark.parametrize(
    "bad",
    [
        {"disk.vdz.iops": "100"},
        {"disk.vdb.iops": "-1"},
        {"disk.vdb.iops": "1e99x"},
        {"disk.vdb.bps": "5parsec"},
        {"disk.vdb.io_size": "4096"},
        {"nonsense": "1"},
        {"disk.vdb.iops": "10", "disk.vdb.iops.read": "5"},
    ],
    ids=str,
)
async def test_one_bad_key_and_nothing_is_changed(bad: dict[str, str]) -> None:
    vm = Vm()
    with pytest.raises(UsageError) as caught:
        await vm.set({"disk.vda.iops": "100", **bad})
    assert caught.value.hint
    assert vm.sent() == []


async def test_a_refusal_stops_what_comes_after_and_says_so() -> None:
    vm = Vm()
    vm.refuse_after = 0
    results = await vm.set({"disk.vda.iops": "100", "disk.vdb.iops": "100"})
    assert [r.verdict for r in results] == [Verdict.REFUSED, Verdict.NOT_ATTEMPTED]
    assert [r.exit_code for r in results] == [4, 4]
    assert "disk.vda.iops was not applied" in results[1].detail


async def test_what_was_applied_before_a_failure_is_told_as_applied() -> None:
    vm = Vm()
    vm.refuse_after = 1
    results = await vm.set({"disk.vda.iops": "100", "disk.vdb.iops": "100"})
    assert [r.verdict for r in results] == [Verdict.APPLIED, Verdict.REFUSED]
    assert results[0].actual == 100


async def test_qemu_going_away_in_the_middle_is_a_verdict_that_says_what_is_not_known() -> None:
    vm = Vm()
    steps = await changes.plan(vm.edges, {"disk.vda.iops": "100", "disk.vdb.iops": 5})
    vm.session.gone = True
    results = await changes.apply(vm.edges, steps, timeout_s=5)
    assert [r.verdict for r in results] == [Verdict.FAILED, Verdict.NOT_ATTEMPTED]
    assert "not known" in results[0].state
    assert (results[0].known, results[0].actual) == (False, None)


async def test_a_late_answer_is_read_back_after_the_error() -> None:
    vm = Vm()
    steps = await changes.plan(vm.edges, {"disk.vda.iops": "100"})

    def late(arguments: Any) -> Any:
        vm.throttle(arguments)
        raise RingfenceError("no answer in time")

    vm.session.script.answers["block_set_io_throttle"] = late
    (result,) = await changes.apply(vm.edges, steps, timeout_s=5)
    assert (result.verdict, result.actual) == (Verdict.FAILED, 100)
    assert "read back" in result.state


async def test_numbers_and_none_are_values_too() -> None:
    vm = Vm()
    await vm.set({"disk.vda.iops": 100})
    (result,) = await vm.set({"disk.vda.iops": None})
    assert (result.verdict, result.before, result.actual) == (Verdict.APPLIED, 100, None)
    assert vm.sent()[-1]["iops"] == 0


async def test_a_drive_called_as_another_disks_place_is_no_part_of_that_disk() -> None:
    vm = Vm()
    whole = [
        {"device": name, "qdev": qdev, "inserted": dict(ZEROS)}
        for name, qdev in zip(("drive-a", "vda"), vm.limits, strict=True)
    ]
    vm.session.script.answers["query-block"] = lambda _: whole
    right = vm.qom_get
    vm.session.script.answers["qom-get"] = lambda asked: (
        "scsi-cd" if asked == {"path": "/machine/peripheral/b", "property": "type"} else right(asked)
    )
    steps = await changes.plan(vm.edges, {"disk.a.iops": "100", "disk.b.bps": "1MiB/s"})
    assert [step.part.identity for step in steps] == list(vm.limits)


@pytest.mark.parametrize(("first", "code"), [({}, 2), ({"disk.vda.iops": "100"}, 6)])
async def test_the_code_for_nothing_changed_is_only_given_when_so(
    monkeypatch: pytest.MonkeyPatch, first: dict[str, str], code: int
) -> None:
    vm = Vm()
    steps = await changes.plan(vm.edges, {**first, "disk.vdb.iops": "100"})
    right = type(steps[-1].knob).apply

    def refuses(knob: Any, part: Any, wants: Any, **more: Any) -> Any:
        if part == steps[-1].part:
            return Outcome(Verdict.REFUSED, part, by="ringfence", detail="it would hurt")
        return (yield from right(knob, part, wants, **more))

    monkeypatch.setattr(type(steps[-1].knob), "apply", refuses)
    results = await changes.apply(vm.edges, steps, timeout_s=5)
    assert results[-1].exit_code == code
