"""PURE: which NIC of the guest is which interface of the host, and by what names it may be called.

A guest's NIC has an id (`-device ...,id=net0`), is connected to a netdev with another (`-netdev tap,id=hostnet0`),
whose tap device has a name of the host's (`vnet3`). `info network` pairs NICs with netdevs and names tap devices
that QEMU opened itself; of one that it was handed it tells the file descriptor. Where the monitor cannot be asked
the command line tells of the NICs that the VM was started with.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ringfence.core.knob import Advice, Part
from ringfence.core.model import Nic
from ringfence.core.net import Link, Wiring

_LINE = re.compile(r"( \\ )?(?:hub\d+port\d+: )?([^:]+): index=(\d+),type=([\w-]+),?(.*)")
_TAP = Advice("-netdev tap,id=NETDEV", "the host carries its packets, and can limit them")
_ELSEWHERE = {
    "user": ("user mode networking (slirp) is carried by QEMU itself, and by no interface of the host", _TAP),
    "passt": ("passt carries it, and no interface of the host", _TAP),
    "stream": ("it is carried over a socket, and by no interface of the host", _TAP),
    "dgram": ("it is carried over a socket, and by no interface of the host", _TAP),
    "socket": ("it is carried over a socket, and by no interface of the host", _TAP),
    "vde": ("a VDE switch carries it, and no interface of the host", _TAP),
    "l2tpv3": ("it is carried over a socket, and by no interface of the host", _TAP),
    "vhost-user": (
        "a switch outside the kernel carries it (vhost-user), and limits it, such as by `ovs-vsctl set Interface "
        "NAME ingress_policing_rate=...`",
        _TAP,
    ),
    "vhost-vdpa": ("the network card itself carries it (vDPA), past the host's queues", _TAP),
    "": ("it is connected to nothing", Advice("-device ...,netdev=NETDEV", "the NIC gets a network")),
}


class Interface(NamedTuple):
    """One interface of the tenant: the state of a part.

    :param link: its end on the host; None where there is none, and `why` says what there is instead.
    :param tenant: whose it is, for the mark on devices made for it.
    """

    link: Link | None
    why: str = ""
    advice: tuple[Advice, ...] = ()
    help_: str = ""
    tenant: str = ""


class _Card(NamedTuple):
    """A NIC as somebody tells of it."""

    names: tuple[str, ...]
    backend: str
    ifname: str
    fd: int | None


def parts(wiring: Wiring, info_network: str) -> tuple[Part, ...]:
    """One part for each interface.

    :param info_network: what the monitor says to `info network`, empty where it cannot be asked.
    """
    if wiring.nics is None:
        found = [_part((link.inside or link.name,), link) for link in wiring.links]
    else:
        cards = _told(info_network) or [_from_option(nic) for nic in wiring.nics]
        found = _cards(cards, wiring.links, wiring.absent)
    found += [Part(u.name, (), Interface(None, u.why, help_=u.help_)) for u in wiring.unshapable]
    return tuple(part._replace(state=part.state._replace(tenant=wiring.tenant)) for part in found)


def _cards(cards: Sequence[_Card], links: Sequence[Link], absent: str) -> list[Part]:
    left = list(links)
    found: dict[_Card, Link] = {}
    for card in cards:
        link = next((link for link in left if _belongs(card, link)), None)
        if link:
            found[card] = link
            left.remove(link)
    lonely = [card for card in cards if card not in found and card.backend in ("tap", "bridge")]
    if len(lonely) == len(left) == 1:  # QEMU, or its bridge helper, chose the name
        found[lonely[0]] = left.pop()
    made = [_part(card.names, found[card]) if card in found else _without(card, left, absent) for card in cards]
    return made + [_part((), link) for link in left]


def _belongs(card: _Card, link: Link) -> bool:
    return (bool(card.ifname) and card.ifname == link.name) or (card.fd is not None and card.fd in link.fds)


def _without(card: _Card, left: Iterable[Link], absent: str) -> Part:
    name, *aliases = card.names
    if card.backend in ("tap", "bridge"):
        names = ", ".join(link.name for link in left)
        why = f"which interface of the host it is cannot be told: {names}" if names else absent
        hint = "call it by the name of the host's interface" if names else "`ringfence ps` tells what runs now"
        return Part(name, tuple(aliases), Interface(None, why or "its tap device is not found", help_=hint))
    why, advice = _ELSEWHERE.get(card.backend, (f"a {card.backend} netdev has no interface on the host", _TAP))
    return Part(name, tuple(aliases), Interface(None, why, (advice,)))


def _part(names: Sequence[str], link: Link) -> Part:
    name, *aliases = dict.fromkeys((*filter(None, names), link.name))
    return Part(name, tuple(aliases), Interface(link), identity=f"{link.netns}:{link.ifindex}")


def _from_option(nic: Nic) -> _Card:
    names = tuple(dict.fromkeys(filter(None, (nic.id, nic.netdev, nic.mac.lower())))) or (nic.model,)
    return _Card(names, nic.backend, nic.ifname, None)


def _told(info_network: str) -> list[_Card]:
    """The NICs of `info network`: a line for each, and below it one for what it is connected to."""
    cards: list[_Card] = []
    seen: set[str] = set()
    for line in info_network.splitlines():
        match = _LINE.match(line.rstrip())
        if match is None:
            continue
        below, name, kind, rest = match[1], match[2], match[4], dict(_pairs(match[5]))
        if kind == "nic" and name not in seen:
            seen.add(name)
            cards.append(_Card(tuple(filter(None, (name, rest.get("macaddr", "").lower()))), "", "", None))
        elif kind != "nic" and below and cards and not cards[-1].backend:
            fd = rest.get("fd", "")
            names = (cards[-1].names[0], name, *cards[-1].names[1:])
            cards[-1] = _Card(names, kind, rest.get("ifname", ""), int(fd) if fd.isdigit() else None)
    return cards


def _pairs(text: str) -> Iterable[tuple[str, str]]:
    for field in text.split(","):
        name, _, value = field.partition("=")
        yield name.strip(), value.strip()
