"""Where a container's interfaces end on this host.

A veth pair is two links, each of which tells the index of the other. The container's end is in its namespace; ours
may be in the one ringfence runs in, or in a named one. Sources: veth(4), rtnetlink(7).
"""

from __future__ import annotations

from ringfence.core.net import VETH, Link, Unshapable
from ringfence.host.links import Device, Reader
from ringfence.host.namespaces import Namespaces

_NO_END = {
    "macvlan": "a macvlan device goes straight to the network card",
    "ipvlan": "an ipvlan device goes straight to the network card",
    "ipvtap": "an ipvtap device goes straight to the network card",
}
_USE_VETH = "give the container a veth pair, such as by a bridge network"


async def find(spaces: Namespaces, pid: int) -> tuple[tuple[Link, ...], tuple[Unshapable, ...]]:
    """The host's ends of the interfaces in a process's namespace, and the interfaces that have none.

    :raise OSError: the process is gone, or this user may not enter its namespace.
    """
    netns = spaces.of_pid(pid)
    if netns == spaces.own:
        why = "the container shares the network of the host, so that its packets cannot be told from others'"
        return (), (Unshapable("host", why, "give the container a network of its own"),)
    inside = Reader(await spaces.route(netns), netns)
    links: list[Link] = []
    without: list[Unshapable] = []
    for end in await inside.devices():
        if end.kind == "veth":
            link = await _other_end(spaces, end, netns)
            where = "its other end is in a network namespace that has no name"
            if link is None:
                without.append(Unshapable(end.name, where, "give that one a name: `ip netns attach NAME PID`"))
            else:
                links.append(link)
        elif end.kind in _NO_END:
            without.append(Unshapable(end.name, f"{_NO_END[end.kind]}, past the host's queues", _USE_VETH))
        elif end.kind == "tun":
            why = "a program outside carries it (slirp4netns, pasta), and no interface of the host"
            without.append(Unshapable(end.name, why, _USE_VETH))
    return tuple(links), tuple(without)


async def _other_end(spaces: Namespaces, end: Device, netns: int) -> Link | None:
    for number in dict.fromkeys((spaces.own, *spaces.named())):
        if number == netns:
            continue
        reader = Reader(await spaces.route(number), number)
        found = await reader.by_index(end.peer)
        if found and found.kind == "veth" and found.peer == end.ifindex:
            return await reader.link(found, VETH, inside=end.name)
    return None
