"""Which NIC is which interface, from what QEMU, the command line and the kernel tell."""

from __future__ import annotations

import pytest

from ringfence.core.model import Nic
from ringfence.core.net import TAP, Link, Wiring
from ringfence.knobs.net.names import parts

# Recorded from QEMU 7.2; the last two as its source prints them (net/tap.c, net/hub.c).
BY_NAME = (
    "net0: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:AA:00:01\r\n"
    " \\ n0: index=0,type=tap,ifname=tapx0,script=no,downscript=no\r\n"
    "virtio-net-pci.0: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:aa:00:02\r\n"
    " \\ n1: index=0,type=user,net=10.0.2.0,restrict=off\r\n"
)
BY_FD = (
    "net0: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:aa:00:01\n"
    " \\ hostnet0: index=0,type=tap,fd=33\n"
    "net0: index=1,type=nic,model=virtio-net-pci,macaddr=52:54:00:aa:00:01\n"
    " \\ hostnet0: index=1,type=tap,fd=34\n"
)
BY_HELPER = (
    "e1000.0: index=0,type=nic,model=e1000,macaddr=52:54:00:aa:00:01\n \\ b0: index=0,type=tap,helper=/h,br=br0\n"
)


def tap(name: str, index: int, *fds: int) -> Link:
    return Link(1, index, name, TAP, 1500, fds=fds)


def wiring(*links: Link, nics: tuple[Nic, ...] = ()) -> Wiring:
    return Wiring(links, nics=nics, tenant="web1")


def test_by_the_name_that_qemu_gave_the_tap() -> None:
    first, second = parts(wiring(tap("tapx0", 3, 9)), BY_NAME)
    assert (first.name, first.aliases) == ("net0", ("n0", "52:54:00:aa:00:01", "tapx0"))
    assert first.state.link.ifindex == 3
    assert (first.identity, first.state.tenant) == ("1:3", "web1")
    assert second.name == "virtio-net-pci.0"
    assert "slirp" in second.state.why
    assert second.state.advice[0].option == "-netdev tap,id=NETDEV"


def test_by_the_descriptor_that_qemu_was_handed() -> None:
    other = tap("vnet4", 4, 40)
    first, left = parts(wiring(other, tap("vnet3", 3, 33, 34)), BY_FD)
    assert (first.name, first.aliases) == ("net0", ("hostnet0", "52:54:00:aa:00:01", "vnet3"))
    assert (left.name, left.state.link) == ("vnet4", other)


def test_the_last_one_left_is_the_one_that_a_helper_made() -> None:
    (part,) = parts(wiring(tap("tap7", 7, 12)), BY_HELPER)
    assert (part.name, part.aliases) == ("e1000.0", ("b0", "52:54:00:aa:00:01", "tap7"))


def test_two_that_cannot_be_told_apart_are_called_by_the_hosts_names() -> None:
    card, one, two = parts(wiring(tap("tap7", 7, 12), tap("tap8", 8, 13)), BY_HELPER)
    assert "tap7, tap8" in card.state.why
    assert (one.name, two.name) == ("tap7", "tap8")


def test_by_the_command_line_where_the_monitor_is_silent() -> None:
    nics = (
        Nic("net0", "virtio-net-pci", "tap", "tap0", "52:54:00:AA:00:01", "n0"),
        Nic("", "e1000", "user", "", ""),
    )
    first, second = parts(wiring(tap("tap0", 5), nics=nics), "")
    assert (first.name, first.aliases) == ("net0", ("n0", "52:54:00:aa:00:01", "tap0"))
    assert (second.name, "slirp" in second.state.why) == ("e1000", True)


def test_a_tap_that_is_gone() -> None:
    (part,) = parts(wiring(), BY_HELPER)
    assert part.state.why == "its tap device is not found"


@pytest.mark.parametrize(
    ("kind", "word"), [("vhost-user", "ovs-vsctl"), ("stream", "socket"), ("newkind", "newkind")]
)
def test_netdevs_that_the_host_does_not_carry(kind: str, word: str) -> None:
    text = f"net0: index=0,type=nic,model=x,macaddr=52:54:00:aa:00:01\n \\ n0: index=0,type={kind},more\n"
    (part,) = parts(wiring(), text)
    assert word in part.state.why


def test_a_process_that_may_not_be_looked_into() -> None:
    (part,) = parts(wiring()._replace(absent="root sees them"), BY_HELPER)
    assert part.state.why == "root sees them"


def test_a_nic_connected_to_nothing() -> None:
    (part,) = parts(wiring(), "net0: index=0,type=nic,model=x,macaddr=52:54:00:aa:00:01\n")
    assert part.state.why == "it is connected to nothing"
