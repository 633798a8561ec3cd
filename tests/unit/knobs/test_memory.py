"""memory.target: what is sent, and what is made of guests that follow, stop short, or never move."""

from __future__ import annotations

from typing import Any

import pytest

from ringfence import units
from ringfence.core.knob import Outcome, Part, Verdict
from ringfence.core.requests import Qmp
from ringfence.errors import InterruptError, MonitorGoneError, MonitorRefusedError, TenantError, UsageError
from ringfence.knobs.memory import UNKNOWN_STAT, MemoryTarget
from ringfence.testing.steps import PaperVm

KNOB = MemoryTarget()
PATH = "/machine/peripheral/balloon0"
MIB, GIB = units.MIB, units.GIB


def actual(outcome: Outcome) -> object:
    """What the knob's first key is after the change."""
    assert outcome.after is not None
    return KNOB.observation(outcome.after, KNOB.rows[0]).actual


class FakeGuest:
    """A guest with a balloon that moves `step` a poll, down to `floor`, as recorded on QEMU 7.2."""

    def __init__(
        self, *, step: int = 64 * MIB, floor: int = 0, driver: bool = True, used: int = 100 * MIB
    ) -> None:
        self.actual = self.target = GIB
        self.step, self.floor, self.driver, self.used = step, floor, driver, used
        self.polling = 0
        self.options: dict[str, bool] = {"deflate-on-oom": True, "free-page-reporting": True}
        self.script = PaperVm(
            {
                "qom-list": self.qom_list,
                "query-memory-size-summary": {"base-memory": GIB, "plugged-memory": 0},
                "query-status": {"status": "running", "running": True},
                "query-balloon": self.query,
                "balloon": self.balloon,
                "qom-get": self.qom_get,
                "qom-set": self.qom_set,
            }
        )

    def qom_list(self, arguments: Any) -> list[dict[str, str]]:
        if arguments["path"] == "/machine/peripheral":
            return [{"name": "type", "type": "string"}, {"name": "balloon0", "type": "child<virtio-balloon-pci>"}]
        if arguments["path"] == PATH:
            return [{"name": name, "type": "bool"} for name in self.options]
        return []

    def query(self, _: object) -> dict[str, int]:
        if self.driver:
            down = max(self.target, self.floor, self.actual - self.step)
            self.actual = down if self.target < self.actual else min(self.target, self.actual + self.step)
        return {"actual": self.actual}

    def balloon(self, arguments: Any) -> dict[str, Any]:
        self.target = arguments["value"]
        return {}

    def qom_set(self, arguments: Any) -> dict[str, Any]:
        self.polling = arguments["value"]
        return {}

    def qom_get(self, arguments: Any) -> Any:
        name = arguments["property"]
        if name == "guest-stats-polling-interval":
            return self.polling
        if name in self.options:
            return self.options[name]
        names = ("stat-available-memory", "stat-total-memory", "stat-free-memory")
        if not (self.polling and self.driver):
            return {"stats": dict.fromkeys(names, UNKNOWN_STAT), "last-update": 0}
        available = self.actual - self.used
        return {"stats": dict.fromkeys(names, available), "last-update": int(self.script.now_s)}

    def part(self) -> Part:
        return self.script.play(KNOB.observe())[0]

    def set(self, want: int, *, timeout_s: float = 60, force: bool = False) -> Any:
        part = self.part()
        KNOB.check(part, {"target": want}, force=force)
        return self.script.play(KNOB.apply(part, {"target": want}, timeout_s=timeout_s, force=force))


def test_a_guest_that_follows_is_applied() -> None:
    guest = FakeGuest()
    outcome = guest.set(512 * MIB)
    assert (outcome.verdict, actual(outcome)) == (Verdict.APPLIED, 512 * MIB)
    assert guest.script.progress[-1].done == 512 * MIB


def test_statistics_are_switched_on_for_a_shrink_and_off_again() -> None:
    guest = FakeGuest()
    guest.set(512 * MIB)
    changes = [(r.command, r.arguments.get("value")) for r in guest.script.changes() if isinstance(r, Qmp)]
    assert changes == [("qom-set", 1), ("balloon", 512 * MIB), ("qom-set", 0)]


def test_the_dry_run_is_what_is_sent() -> None:
    guest = FakeGuest()
    planned = KNOB.changes(guest.part(), {"target": 512 * MIB})
    guest.set(512 * MIB)
    assert guest.script.changes() == planned


def test_growing_needs_no_statistics() -> None:
    guest = FakeGuest()
    guest.actual = guest.target = 512 * MIB
    assert guest.set(GIB).verdict is Verdict.APPLIED
    assert [r.command for r in guest.script.changes() if isinstance(r, Qmp)] == ["balloon"]


def test_statistics_that_were_on_stay_on() -> None:
    guest = FakeGuest()
    guest.polling = 5
    guest.set(512 * MIB)
    assert guest.polling == 5


def test_a_guest_that_stops_short_is_partial_and_not_pressed_on() -> None:
    guest = FakeGuest(floor=700 * MIB, used=50 * MIB)
    outcome = guest.set(512 * MIB)
    assert (outcome.verdict, outcome.by, actual(outcome)) == (Verdict.PARTIAL, "guest", 700 * MIB)
    assert guest.target == 700 * MIB


def test_a_guest_without_a_driver_is_refused_and_the_target_set_back() -> None:
    guest = FakeGuest(driver=False)
    outcome = guest.set(512 * MIB)
    assert (outcome.verdict, outcome.by) == (Verdict.REFUSED, "guest")
    assert "no balloon driver" in outcome.detail
    assert guest.target == GIB


def test_the_deadline_ends_a_slow_guest() -> None:
    guest = FakeGuest(step=2 * MIB)
    outcome = guest.set(512 * MIB, timeout_s=3)
    assert outcome.verdict is Verdict.PARTIAL
    assert "deadline" in outcome.detail


def test_less_than_the_guest_uses_is_refused_by_fresh_statistics() -> None:
    guest = FakeGuest(used=600 * MIB)
    outcome = guest.set(512 * MIB)
    assert (outcome.verdict, outcome.by) == (Verdict.REFUSED, "ringfence")
    assert guest.target == GIB
    assert guest.polling == 0


def test_less_than_the_guest_uses_is_a_usage_error_when_it_is_known_before() -> None:
    guest = FakeGuest(used=600 * MIB)
    guest.polling = 1
    with pytest.raises(UsageError, match="less than the guest now uses"):
        guest.set(512 * MIB)


def test_force_presses_the_guest() -> None:
    guest = FakeGuest(used=600 * MIB)
    assert guest.set(512 * MIB, force=True).verdict is Verdict.APPLIED


@pytest.mark.parametrize(("want", "words"), [(2 * GIB, "above the VM's memory, 1 GiB"), (512, "less than a page")])
def test_out_of_range(want: int, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        FakeGuest().set(want)


def test_no_balloon_device_says_which_option_is_missing() -> None:
    guest = FakeGuest()
    guest.script.answers["qom-list"] = []
    with pytest.raises(TenantError) as caught:
        guest.set(512 * MIB)
    assert "virtio-balloon-pci" in caught.value.hint


def test_a_paused_vm_is_refused_without_a_change() -> None:
    guest = FakeGuest()
    guest.script.answers["query-status"] = {"status": "paused", "running": False}
    outcome = guest.set(512 * MIB)
    assert outcome.verdict is Verdict.REFUSED
    assert guest.script.changes() == []


def test_missing_options_are_recommended() -> None:
    guest = FakeGuest()
    guest.options = {"deflate-on-oom": False}
    notes = " ".join(advice.option for advice in KNOB.observation(guest.part(), KNOB.rows[0]).advice)
    assert "deflate-on-oom=on" in notes
    assert "free-page-reporting=on" in notes


def test_stale_statistics_count_as_unknown() -> None:
    guest = FakeGuest(used=600 * MIB)
    guest.polling = 1
    stats = guest.qom_get({"property": "guest-stats"})
    guest.script.now_s += 60
    guest.qom_get = lambda arguments: (  # type: ignore[method-assign]
        stats if arguments["property"] == "guest-stats" else FakeGuest.qom_get(guest, arguments)
    )
    guest.script.answers["qom-get"] = guest.qom_get
    assert KNOB.observation(guest.part(), KNOB.rows[0]).minimum is None


def test_what_ends_the_watch_leaves_the_guest_where_it_is() -> None:
    guest = FakeGuest(step=100 * MIB)
    part = guest.part()
    guest.script.answers["query-balloon"] = lambda _: guest.query(_) if guest.actual > 800 * MIB else stop()

    def stop() -> None:
        guest.script.answers["query-balloon"] = {"actual": guest.actual}
        raise InterruptError("enough")

    with pytest.raises(InterruptError) as caught:
        guest.script.play(KNOB.apply(part, {"target": 512 * MIB}, timeout_s=60, force=False))
    assert guest.target == guest.actual == 724 * MIB
    assert guest.polling == 0
    assert caught.value.state == "the guest came to 724 MiB, which is its target now"


def test_when_nothing_can_be_put_in_order_it_is_said_what_is_left() -> None:
    guest = FakeGuest()
    part = guest.part()
    gone = MonitorGoneError("QEMU closed the connection")

    def balloon(_: object) -> None:
        guest.script.answers |= {"query-balloon": gone, "qom-set": gone}
        raise gone

    guest.script.answers["balloon"] = balloon
    with pytest.raises(MonitorGoneError) as caught:
        guest.script.play(KNOB.apply(part, {"target": 512 * MIB}, timeout_s=60, force=False))
    assert caught.value.state == (
        "the balloon's target may be 512 MiB, to which the guest may still move; "
        "its guest is still asked for statistics every 1 s"
    )


def test_a_target_that_qemu_refuses() -> None:
    guest = FakeGuest()
    guest.script.answers["balloon"] = MonitorRefusedError("no")
    outcome = guest.set(512 * MIB)
    assert (outcome.verdict, outcome.by, outcome.detail) == (Verdict.REFUSED, "QEMU", "no")
    assert outcome.hint
    assert guest.polling == 0


def test_statistics_are_not_waited_for_beyond_the_deadline() -> None:
    guest = FakeGuest(driver=False)
    start_s = guest.script.now_s
    assert guest.set(512 * MIB, timeout_s=0.5).verdict is Verdict.REFUSED
    assert guest.script.now_s - start_s < 2


def test_statistics_from_before_the_balloon_moved_are_not_trusted() -> None:
    guest = FakeGuest(used=200 * MIB)
    guest.polling = 1
    stats = guest.qom_get({"property": "guest-stats"})
    guest.actual = guest.target = 512 * MIB
    guest.script.answers["qom-get"] = lambda arguments: (
        stats if arguments["property"] == "guest-stats" else guest.qom_get(arguments)
    )
    assert KNOB.observation(guest.part(), KNOB.rows[0]).minimum is None
