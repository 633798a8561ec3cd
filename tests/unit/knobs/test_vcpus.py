"""vcpus: slots in order, one at a time, by what QEMU's list and the guest say."""

from __future__ import annotations

from typing import Any

import pytest

from ringfence.core.knob import Outcome, Part, Verdict
from ringfence.core.requests import Qmp
from ringfence.errors import AgentAbsentError, InterruptError, MonitorRefusedError, TenantError, UsageError
from ringfence.knobs.vcpus import Vcpus
from ringfence.testing.steps import PaperVm

KNOB = Vcpus()
WANT = ""


def actual(outcome: Outcome) -> object:
    """What the knob's first key is after the change."""
    assert outcome.after is not None
    return KNOB.observation(outcome.after, KNOB.rows[0]).actual


class FakeMachine:
    """-smp `fixed`,maxcpus=4 with a guest that takes and gives CPUs, as recorded on QEMU 7.2."""

    def __init__(
        self, *, fixed: int = 1, agent: bool = True, onlines_itself: bool = False, lets_go: bool = True
    ) -> None:
        self.paths = [f"/machine/unattached/device[{n}]" if n < fixed else "" for n in range(4)]
        self.online = [bool(path) for path in self.paths]
        self.onlines_itself, self.lets_go = onlines_itself, lets_go
        self.ejected: set[int] = set()
        self.kvm = True
        self.taken_over = True
        self.status = "running"
        answers: dict[str, Any] = {
            "query-hotpluggable-cpus": self.query,
            "query-cpus-fast": lambda _: [{"thread-id": n} for n, path in enumerate(self.paths) if path],
            "query-status": lambda _: {"status": self.status, "running": self.status == "running"},
            "query-kvm": lambda _: {"enabled": self.kvm, "present": True},
            "query-acpi-ospm-status": self.ospm,
            "device_add": self.add,
            "device_del": self.delete,
        }
        if agent:
            answers |= {"guest-get-vcpus": self.get_vcpus, "guest-set-vcpus": self.set_vcpus}
        self.script = PaperVm(answers)

    def query(self, _: object) -> list[dict[str, Any]]:
        entries = []
        for core, path in enumerate(self.paths):
            props = {"core-id": core, "thread-id": 0, "socket-id": 0}
            entries.append(
                {"props": props, "vcpus-count": 1, "type": "max-x86_64-cpu"} | ({"qom-path": path} if path else {})
            )
        return entries[::-1]

    def ospm(self, _: object) -> list[dict[str, Any]]:
        return [
            {
                "slot": str(n),
                "slot-type": kind,
                "source": 3 if kind == "CPU" and n in self.ejected else 0,
                "status": 0,
            }
            for kind in ("DIMM", *(["CPU"] if self.taken_over else []))
            for n in range(4)
        ]

    def add(self, arguments: Any) -> dict[str, Any]:
        core = arguments["core-id"]
        self.ejected.discard(core)
        self.paths[core] = f"/machine/peripheral/{arguments['id']}"
        self.online[core] = self.onlines_itself
        info = {"device": arguments["id"], "source": 1, "status": 0, "slot": str(core), "slot-type": "CPU"}
        self.script.events.append({"event": "ACPI_DEVICE_OST", "data": {"info": info}})
        return {}

    def delete(self, arguments: Any) -> dict[str, Any]:
        name = arguments["id"]
        core = self.paths.index(name if name.startswith("/") else f"/machine/peripheral/{name}")
        status = 132
        if self.lets_go:
            self.paths[core], self.online[core] = "", False
            self.ejected.add(core)
        else:
            status = 130
        info = {"device": arguments["id"], "source": 3, "status": status, "slot": str(core), "slot-type": "CPU"}
        self.script.events.append({"event": "ACPI_DEVICE_OST", "data": {"info": info}})
        return {}

    def get_vcpus(self, _: object) -> list[dict[str, Any]]:
        return [{"logical-id": n, "online": self.online[n]} for n, path in enumerate(self.paths) if path]

    def set_vcpus(self, arguments: Any) -> int:
        for cpu in arguments["vcpus"]:
            self.online[cpu["logical-id"]] = cpu["online"]
        return len(arguments["vcpus"])

    def part(self) -> Part:
        return self.script.play(KNOB.observe())[0]

    def set(self, want: int, *, force: bool = False) -> Any:
        part = self.part()
        KNOB.check(part, {WANT: want}, force=force)
        return self.script.play(KNOB.apply(part, {WANT: want}, timeout_s=30, force=force))


def test_growing_fills_the_first_free_slots_and_the_agent_brings_them_online() -> None:
    machine = FakeMachine()
    outcome = machine.set(3)
    assert (outcome.verdict, actual(outcome)) == (Verdict.APPLIED, 3)
    assert machine.online == [True, True, True, False]
    added = [r.arguments["core-id"] for r in machine.script.changes() if isinstance(r, Qmp)]
    assert added == [1, 2]


def test_the_dry_run_is_what_is_sent() -> None:
    machine = FakeMachine(onlines_itself=True)
    planned = KNOB.changes(machine.part(), {WANT: 3})
    machine.set(3)
    assert machine.script.changes() == planned


def test_props_are_copied_verbatim() -> None:
    machine = FakeMachine()
    (request,) = KNOB.changes(machine.part(), {WANT: 2})
    assert request.arguments == {
        "driver": "max-x86_64-cpu", "id": "ringfence-cpu-1-0-0", "core-id": 1, "thread-id": 0, "socket-id": 0,
    }  # fmt: skip


def test_without_an_agent_the_plug_is_applied_and_what_is_unknown_is_said() -> None:
    outcome = FakeMachine(agent=False).set(2)
    assert outcome.verdict is Verdict.APPLIED
    assert "not known" in " ".join(outcome.notes)


def test_a_guest_that_leaves_cpus_offline_is_partial() -> None:
    machine = FakeMachine()
    machine.script.answers["guest-set-vcpus"] = 0
    outcome = machine.set(3)
    assert (outcome.verdict, outcome.by, actual(outcome)) == (Verdict.PARTIAL, "guest", 1)


def test_shrinking_takes_the_last_ones_first() -> None:
    machine = FakeMachine(onlines_itself=True)
    machine.set(4)
    outcome = machine.set(2)
    assert (outcome.verdict, actual(outcome)) == (Verdict.APPLIED, 2)
    deleted = [
        r.arguments["id"] for r in machine.script.changes() if isinstance(r, Qmp) and r.command == "device_del"
    ]
    assert deleted == ["ringfence-cpu-3-0-0", "ringfence-cpu-2-0-0"]


def test_a_guest_that_refuses_ends_the_shrink_at_once() -> None:
    machine = FakeMachine(onlines_itself=True)
    machine.set(3)
    machine.lets_go = False
    outcome = machine.set(1)
    assert (outcome.verdict, outcome.by) == (Verdict.REFUSED, "guest")
    assert sum(1 for name in machine.script.commands() if name == "device_del") == 1


def test_silence_is_a_refusal_within_the_deadline_that_names_what_may_still_happen() -> None:
    machine = FakeMachine(onlines_itself=True)
    machine.set(2)
    machine.script.answers["device_del"] = {}
    outcome = machine.set(1)
    assert outcome.verdict is Verdict.REFUSED
    assert "may still go later" in outcome.detail


def test_a_refused_second_plug_is_partial() -> None:
    machine = FakeMachine(onlines_itself=True)

    def add(arguments: Any) -> dict[str, Any]:
        if arguments["core-id"] == 2:
            raise MonitorRefusedError("no room")
        return machine.add(arguments)

    machine.script.answers["device_add"] = add
    outcome = machine.set(3)
    assert (outcome.verdict, outcome.by, actual(outcome)) == (Verdict.PARTIAL, "QEMU", 2)


@pytest.mark.parametrize(
    ("fixed", "want", "words"),
    [(1, 5, "maxcpus=N"), (1, 0, "at least one")],
)
def test_out_of_range(fixed: int, want: int, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        FakeMachine(fixed=fixed).set(want)
    assert words in f"{caught.value.message} {caught.value.hint}"


def test_cpus_of_smp_can_go_but_for_the_first() -> None:
    machine = FakeMachine(fixed=3)
    outcome = machine.set(1)
    assert (outcome.verdict, actual(outcome)) == (Verdict.APPLIED, 1)
    deleted = [r.arguments["id"] for r in machine.script.changes() if isinstance(r, Qmp)]
    assert deleted == ["/machine/unattached/device[2]", "/machine/unattached/device[1]"]


def test_a_refusal_is_told_by_the_slot_where_the_cpu_has_no_name() -> None:
    machine = FakeMachine(fixed=2, lets_go=False)
    outcome = machine.set(1)
    assert (outcome.verdict, outcome.by) == (Verdict.REFUSED, "guest")
    assert "refused to give up" in outcome.detail


def test_one_cpu_and_no_room_says_how_to_start_the_vm() -> None:
    machine = FakeMachine()
    machine.script.answers["query-hotpluggable-cpus"] = lambda _: machine.query(_)[-1:]
    with pytest.raises(TenantError) as caught:
        machine.set(1)
    assert "-smp 1,maxcpus=N" in caught.value.hint


def test_a_machine_that_cannot_plug_is_not_available() -> None:
    machine = FakeMachine()
    machine.script.answers["query-hotpluggable-cpus"] = MonitorRefusedError("not supported")
    assert "machine type" in KNOB.observation(machine.part(), KNOB.rows[0]).unavailable


def test_a_plug_after_an_unplug_without_kvm_needs_force() -> None:
    machine = FakeMachine(onlines_itself=True)
    machine.kvm = False
    machine.set(2)
    machine.set(1)
    with pytest.raises(TenantError, match="was unplugged before"):
        machine.set(2)
    assert "was unplugged before" in " ".join(KNOB.observation(machine.part(), KNOB.rows[0]).notes)
    assert machine.set(2, force=True).verdict is Verdict.APPLIED
    with pytest.raises(TenantError, match="was unplugged before"):
        machine.set(3)  # the CPU that was plugged by force is still known, by its id


def test_with_kvm_a_plug_after_an_unplug_is_as_any_other() -> None:
    machine = FakeMachine(onlines_itself=True)
    machine.set(2)
    machine.set(1)
    assert machine.set(2).verdict is Verdict.APPLIED


@pytest.mark.parametrize(("want", "agent"), [(1, False), (3, False), (3, True)])
def test_a_guest_that_has_not_taken_over_needs_force(want: int, agent: bool) -> None:
    machine = FakeMachine(fixed=2, agent=agent)
    machine.taken_over = False
    with pytest.raises(TenantError, match="has not taken over CPU hot-plug"):
        machine.set(want)
    assert machine.script.changes() == []
    machine.status = "prelaunch"  # it will find the CPU when it boots
    assert machine.set(3).verdict is Verdict.APPLIED


def test_a_plug_that_the_guest_never_sees_is_partial_when_forced() -> None:
    machine = FakeMachine()
    machine.taken_over = False

    def add(arguments: Any) -> dict[str, Any]:
        machine.paths[arguments["core-id"]] = f"/machine/peripheral/{arguments['id']}"
        return {}

    machine.script.answers |= {"device_add": add, "guest-get-vcpus": [{"logical-id": 0, "online": True}]}
    outcome = machine.set(3, force=True)
    assert (outcome.verdict, outcome.by, actual(outcome)) == (Verdict.PARTIAL, "guest", 1)
    assert machine.script.commands().count("device_add") == 1


def test_an_unplug_with_a_shared_thread_needs_force() -> None:
    machine = FakeMachine(agent=False, onlines_itself=True)
    machine.set(2)
    machine.kvm = False
    machine.script.answers["query-cpus-fast"] = [{"thread-id": 7}, {"thread-id": 7}]
    with pytest.raises(TenantError, match="share one thread"):
        machine.set(1)


def test_the_agent_is_asked_for_what_the_guest_has() -> None:
    machine = FakeMachine()
    machine.script.answers["guest-get-vcpus"] = AgentAbsentError("gone")
    assert machine.part().state.online is None


def test_a_cpu_that_nobody_answered_for_is_not_applied() -> None:
    machine = FakeMachine(agent=False)
    add = machine.script.answers["device_add"]

    def add_in_silence(arguments: Any) -> Any:
        answer = add(arguments)
        machine.script.events.clear()
        return answer

    machine.script.answers["device_add"] = add_in_silence
    outcome = machine.set(2)
    assert (outcome.verdict, outcome.by) == (Verdict.PARTIAL, "guest")
    assert "has not answered" in outcome.detail


def being_given_up(machine: FakeMachine, core: int) -> None:
    report = {"slot": str(core), "slot-type": "CPU", "source": 3, "status": 132}
    machine.script.answers["query-acpi-ospm-status"] = [report]


def test_a_cpu_that_is_being_given_up_is_not_already_so() -> None:
    machine = FakeMachine(onlines_itself=True)
    machine.set(2)
    being_given_up(machine, 1)
    outcome = machine.set(2)
    assert (outcome.verdict, outcome.by) == (Verdict.PARTIAL, "guest")
    assert "still giving a CPU up" in outcome.detail


def test_no_second_unplug_is_sent_while_one_is_under_way() -> None:
    machine = FakeMachine(onlines_itself=True)
    machine.set(3)
    being_given_up(machine, 1)
    part = machine.part()
    assert [r.arguments["id"] for r in KNOB.changes(part, {WANT: 1})] == ["ringfence-cpu-2-0-0"]
    assert KNOB.changes(part, {WANT: 2}) == []


def test_an_unplug_that_is_not_waited_for_may_still_happen_and_that_is_said() -> None:
    machine = FakeMachine(fixed=2, lets_go=False)
    part = machine.part()

    def delete(arguments: Any) -> dict[str, Any]:
        machine.script.answers["query-hotpluggable-cpus"] = InterruptError("enough")
        return {}

    machine.script.answers["device_del"] = delete
    with pytest.raises(InterruptError) as caught:
        machine.script.play(KNOB.apply(part, {WANT: 1}, timeout_s=30, force=False))
    assert caught.value.state == (
        "the guest was asked to give up /machine/unattached/device[1], and may still do so"
    )


@pytest.mark.parametrize("answer", ["cpus", [{"online": True}], [7], {"logical-id": 0}, None])
def test_a_guest_that_answers_nonsense_counts_as_one_without_an_agent(answer: object) -> None:
    machine = FakeMachine()
    machine.script.answers["guest-get-vcpus"] = answer
    outcome = machine.set(2)
    assert (outcome.verdict, actual(outcome)) == (Verdict.APPLIED, 2)
    assert "does not answer" in " ".join(outcome.notes)


def test_what_cannot_be_unplugged_is_taken_offline_by_the_agent_and_brought_back() -> None:
    machine = FakeMachine(fixed=3)
    machine.taken_over = False
    assert KNOB.changes(machine.part(), {WANT: 1})[0].arguments == {
        "vcpus": [{"logical-id": 2, "online": False}, {"logical-id": 1, "online": False}]
    }
    outcome = machine.set(1)
    assert (outcome.verdict, outcome.by, actual(outcome)) == (Verdict.APPLIED, "guest", 1)
    assert outcome.after is not None
    assert KNOB.observation(outcome.after, KNOB.rows[0]).target == 3
    assert "QEMU keeps 3" in " ".join(outcome.notes)
    assert machine.set(1).notes[0] == "already so"
    outcome = machine.set(2)
    assert (outcome.verdict, outcome.by, machine.online[:3]) == (Verdict.APPLIED, "guest", [True, True, False])
    assert machine.set(3).verdict is Verdict.APPLIED
    assert machine.online[:3] == [True] * 3
    assert machine.paths[2]


def test_the_agent_takes_cpus_offline_where_the_machine_has_no_slots() -> None:
    machine = FakeMachine(fixed=2)
    machine.script.answers["query-hotpluggable-cpus"] = MonitorRefusedError("not supported")
    assert machine.set(1).by == "guest"
    assert machine.online[:2] == [True, False]


def test_a_cpu_that_the_guest_cannot_take_offline_stays() -> None:
    machine = FakeMachine(fixed=2)
    machine.taken_over = False
    stuck = [{"logical-id": n, "online": True, "can-offline": False} for n in range(2)]
    machine.script.answers["guest-get-vcpus"] = stuck
    with pytest.raises(UsageError, match="this guest keeps 2 CPUs online"):
        machine.set(1)
    machine.script.answers["guest-get-vcpus"] = [cpu | {"can-offline": True} for cpu in stuck]
    outcome = machine.set(1)
    assert (outcome.verdict, outcome.by, actual(outcome)) == (Verdict.REFUSED, "guest", 2)


def test_new_threads_are_told_to_whoever_pins_them() -> None:
    machine = FakeMachine(onlines_itself=True)
    outcome = machine.set(3)
    assert "new vCPU threads: 1=1, 2=2" in outcome.notes
    threads = KNOB.observation(machine.part(), KNOB.rows[1])
    assert threads.actual == "0=0, 1=1, 2=2"
    with pytest.raises(UsageError, match="only be read"):
        KNOB.check(machine.part(), {"threads": "0=7"}, force=False)
