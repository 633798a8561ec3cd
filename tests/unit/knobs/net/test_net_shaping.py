"""net: the requests for each direction, what is refused, and that nothing of ours stays behind."""

from __future__ import annotations

import errno

import pytest

from ringfence.core.knob import Outcome, Part, Verdict
from ringfence.core.net import MACVTAP, TAP, VETH, Link, Unshapable
from ringfence.errors import HostError, TenantError, UsageError
from ringfence.knobs.net.knob import NetShaping
from ringfence.testing.fake_net import FakeNet
from ringfence.testing.steps import PaperVm

KNOB = NetShaping()
MBIT = 10**6


def link(**more: object) -> Link:
    """A container's eth0, whose end on the host is vh0."""
    return Link(4026, 7, "vh0", VETH, 1500, inside="eth0")._replace(**more)  # type: ignore[arg-type]


def observe(net: FakeNet) -> tuple[Part, ...]:
    return PaperVm({}, host=net).play(KNOB.observe())


def values(part: Part) -> dict[str, object]:
    """Every key that is set."""
    seen = [KNOB.observation(part, row) for row in KNOB.rows]
    return {o.key: o.actual for o in seen if o.actual is not None}


def change(net: FakeNet, **wants: object) -> Outcome:
    """Check and apply, as the engine does; `egress_burst` stands for `egress.burst`."""
    (part,) = observe(net)
    asked = {key.replace("_", "."): value for key, value in wants.items()}
    KNOB.check(part, asked, force=False)
    return PaperVm({}, host=net).play(KNOB.apply(part, asked, timeout_s=5, force=False))


def test_what_the_tenant_receives_is_limited_where_the_host_sends_it() -> None:
    net = FakeNet([link()])
    assert change(net, ingress=100 * MBIT).verdict is Verdict.APPLIED
    assert [(r.operation, r.arguments["dev"]) for r in net.sent] == [
        ("qdisc.add", "vh0"),
        ("class.replace", "vh0"),
        ("qdisc.replace", "vh0"),
    ]
    assert values(observe(net)[0]) == {"net.eth0.ingress": 100 * MBIT}


def test_what_the_tenant_sends_goes_through_a_device_of_ours() -> None:
    net = FakeNet([link()])
    assert change(net, egress=20 * MBIT).verdict is Verdict.APPLIED
    assert [r.operation for r in net.sent] == [
        "link.add",
        "qdisc.add",
        "class.replace",
        "qdisc.replace",
        "qdisc.add",
        "filter.add",
    ]
    assert net.links["vh0"].shaper is None
    assert values(observe(net)[0]) == {"net.eth0.egress": 20 * MBIT}


def test_a_macvtap_guest_sends_into_the_devices_own_queue() -> None:
    net = FakeNet([link(kind=MACVTAP)])
    change(net, egress=20 * MBIT)
    assert net.links["vh0"].shaper is not None
    assert not net.ifbs


def test_a_limit_is_changed_in_place() -> None:
    net = FakeNet([link()])
    change(net, egress=20 * MBIT, ingress=30 * MBIT)
    net.sent.clear()
    change(net, egress=50 * MBIT, ingress=60 * MBIT)
    assert {r.operation for r in net.sent} == {"class.replace"}


def test_the_dry_run_prints_what_is_sent() -> None:
    net = FakeNet([link()])
    for wants in (
        {"egress": 20 * MBIT},
        {"egress": 30 * MBIT, "ingress": MBIT},
        {"egress": None, "ingress": None},
    ):
        (part,) = observe(net)
        planned = KNOB.changes(part, wants)
        net.sent.clear()
        PaperVm({}, host=net).play(KNOB.apply(part, wants, timeout_s=5, force=False))
        assert net.sent == planned


def test_a_lifted_limit_leaves_no_trace() -> None:
    net = FakeNet([link()])
    before = dict(net.links)
    change(net, egress=20 * MBIT, egress_burst=MBIT, ingress=30 * MBIT)
    assert change(net, egress=None, ingress=None).verdict is Verdict.APPLIED
    assert (net.links, net.ifbs, net.filters) == (before, {}, {"vh0": []})


def test_what_others_hang_their_filters_on_stays() -> None:
    net = FakeNet([link(ingress="clsact")])
    change(net, egress=20 * MBIT)
    # The alias of the device is what tells; this fake takes every ingress with a device as made by us.
    assert next(r for r in net.sent if r.operation == "link.add").arguments["alias"].startswith("ringfence:found:")
    assert net.links["vh0"].ingress == "clsact"


def test_without_fq_codel_the_queue_holds_two_super_packets_at_least() -> None:
    net = FakeNet([link()], lacks=["fq_codel"])
    assert change(net, ingress=MBIT).verdict is Verdict.APPLIED
    assert net.sent[-1].arguments["limit_bytes"] == 131072
    change(net, ingress=1000 * MBIT)
    assert net.sent[-1].arguments["limit_bytes"] == 1000 * MBIT // 8 // 20
    row = next(row for row in KNOB.rows if row.key.endswith(".ingress"))
    assert "fq_codel" in KNOB.observation(observe(net)[0], row).notes[0]


def test_burst_and_ceiling_are_kept_when_the_rate_changes() -> None:
    net = FakeNet([link()])
    change(net, egress=20 * MBIT, egress_burst=10 * MBIT, egress_ceiling=90 * MBIT)
    change(net, egress=30 * MBIT)
    held = values(observe(net)[0])
    assert held["net.eth0.egress"] == 30 * MBIT
    assert held["net.eth0.egress.ceiling"] == 90 * MBIT
    assert held["net.eth0.egress.burst"] == pytest.approx(10 * MBIT, rel=0.01)
    change(net, egress_burst=None)
    assert values(observe(net)[0]) == {"net.eth0.egress": 30 * MBIT}


def test_a_priority_changes_without_a_moment_without_filter() -> None:
    net = FakeNet([link()])
    change(net, egress=20 * MBIT)
    net.sent.clear()
    change(net, egress_priority="high")
    assert [r.operation for r in net.sent] == ["filter.add", "filter.delete"]
    assert values(observe(net)[0]) == {"net.eth0.egress": 20 * MBIT, "net.eth0.egress.priority": "high"}
    change(net, egress=None)
    assert values(observe(net)[0]) == {"net.eth0.egress.priority": "high"}
    change(net, egress_priority=None)
    assert (net.ifbs, net.links["vh0"].ingress) == ({}, "")


def test_a_kernel_without_the_action_changes_nothing() -> None:
    net = FakeNet([link()], lacks=["act_skbedit"])
    with pytest.raises(HostError):
        change(net, egress_priority="low")
    assert (net.ifbs, net.links["vh0"].ingress, net.filters["vh0"]) == ({}, "", [])


@pytest.mark.parametrize("operation", ["link.add", "qdisc.add", "class.replace", "qdisc.replace", "filter.add"])
@pytest.mark.parametrize("direction", ["egress", "ingress"])
def test_a_first_limit_that_fails_is_taken_back(operation: str, direction: str) -> None:
    net = FakeNet([link()])
    net.refuse[operation] = errno.EPERM
    if direction == "ingress" and operation in ("link.add", "filter.add"):
        assert change(net, ingress=MBIT).verdict is Verdict.APPLIED
        return
    with pytest.raises(HostError):
        change(net, **{direction: MBIT})
    assert (net.ifbs, net.links["vh0"].shaper, net.links["vh0"].ingress) == ({}, None, "")


def test_a_half_made_queue_of_ours_is_completed() -> None:
    net = FakeNet([link()])
    net.refuse["class.replace"] = net.refuse["qdisc.delete"] = errno.EPERM
    with pytest.raises(HostError) as failed:
        change(net, ingress=MBIT)
    assert "could not be put back" in failed.value.state
    net.refuse.clear()
    assert change(net, ingress=MBIT).verdict is Verdict.APPLIED


@pytest.mark.parametrize(
    ("wants", "complaint"),
    [
        ({"egress": 100}, "is not from 8 kbit/s"),
        ({"egress": 2**50}, "is not from 8 kbit/s"),
        ({"egress_burst": MBIT}, "no limit to go above"),
        ({"egress": MBIT, "egress_ceiling": 2 * MBIT}, "there is none"),
        ({"egress": MBIT, "egress_burst": 1000}, "cannot be at 1 Mbit/s"),
        ({"egress": MBIT, "egress_burst": 10**9}, "cannot be at 1 Mbit/s"),
        ({"egress": MBIT, "egress_burst": MBIT, "egress_ceiling": 1000}, "below the rate"),
        ({"egress_priority": "urgent"}, "is none of low, normal, high"),
    ],
)
def test_figures_that_cannot_be(wants: dict[str, object], complaint: str) -> None:
    net = FakeNet([link()])
    with pytest.raises(UsageError, match=complaint):
        change(net, **wants)
    assert not net.sent


def test_other_peoples_queues_are_named_and_kept() -> None:
    net = FakeNet([link(root="htb 1:")])
    with pytest.raises(TenantError, match="'htb 1:' that ringfence did not make") as refused:
        change(net, ingress=MBIT)
    assert "virsh domiftune" in refused.value.hint
    assert change(net, egress=MBIT).verdict is Verdict.APPLIED
    assert net.links["vh0"].root == "htb 1:"


def test_other_peoples_filters_are_named_and_kept() -> None:
    net = FakeNet([link(ingress="ingress", ingress_filters=("u32", "u32"))])
    with pytest.raises(TenantError, match=r"ingress filters \(u32\)"):
        change(net, egress=MBIT)
    assert change(net, ingress=MBIT).verdict is Verdict.APPLIED


def test_an_interface_without_an_end_on_the_host_says_what_would_help() -> None:
    net = FakeNet([], unshapable=[Unshapable("eth0", "a macvlan device goes elsewhere", "give it a veth pair")])
    with pytest.raises(TenantError, match="macvlan") as refused:
        change(net, egress=MBIT)
    assert refused.value.hint == "give it a veth pair"


def test_an_interface_that_goes_meanwhile() -> None:
    net = FakeNet([link(kind=TAP)])
    (part,) = observe(net)
    net.links.clear()
    steps = KNOB.apply(part, {"ingress": None}, timeout_s=5, force=False)
    assert PaperVm({}, host=net).play(steps).notes == ("already so",)
    net.refuse["qdisc.add"] = errno.ENODEV
    with pytest.raises(HostError):
        PaperVm({}, host=net).play(KNOB.apply(part, {"ingress": MBIT}, timeout_s=5, force=False))
