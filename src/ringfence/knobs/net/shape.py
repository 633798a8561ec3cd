"""PURE: from a rate to the parameters of the queues that hold it, and to the requests that put them there.

One HTB with one class on a link's root, a fair or a bounded queue in the class. What the host's link receives
cannot be queued where it comes in: a filter sends it through a device of ours (IFB), whose root is shaped alike.
A class is changed in place, so that no packet meets a moment without a queue.
Sources: tc-htb(8), tc-fq_codel(8), Linux net/sched/sch_htb.c, drivers/net/ifb.c; the figures were measured.
"""

from __future__ import annotations

from typing import NamedTuple

from ringfence.core.host_requests import Netlink
from ringfence.core.net import ALIAS, CLASS, LEAF, PREFERENCES, ROOT, Link, Redirect, Shaper

FAIR = "fq_codel"
LEAST_BITS_PER_S = 8_000
"""A full packet takes more than a second then: less is a cut cable, not a limit."""
LINE_BITS_PER_S = 2**40
"""The speed of a burst that has no ceiling of its own: above any interface there is."""
LONGEST_BURST_S = 60
"""The kernel keeps a burst as the time it takes, in 32 bits of 64 ns: 275 s. This is well inside."""

_BURST_S = 1 / 250
"""The timer of the slowest kernels; below that they could not keep up with the rate."""
_LEAST_BURST_BYTES = 20_000
_SUPER_PACKET_BYTES = 65_536
"""TCP hands packets of this size to a device (TSO). A queue that holds less than one of them stands still: 15 kB
let 4.5 of 50 Mbit/s through."""
_QUEUE_S = 0.05
_IFB_QUEUE_PACKETS = 1000  # the kernel's own default for an Ethernet device; an IFB has 32


class Limit(NamedTuple):
    """What is wanted of one direction.

    :param burst_bytes: None lets ringfence choose. `ceiling_bits_per_s` is how fast a burst goes, None as fast as
        the interface does.
    """

    rate_bits_per_s: int
    burst_bytes: int | None = None
    ceiling_bits_per_s: int | None = None


def least_burst_bytes(rate_bits_per_s: int, mtu_bytes: int) -> int:
    """What a burst must hold for the rate to be reached."""
    return max(int(rate_bits_per_s / 8 * _BURST_S), _LEAST_BURST_BYTES, 2 * mtu_bytes)


def limit_of(shaper: Shaper, mtu_bytes: int) -> Limit:
    """What was asked for, from what the kernel holds: nobody asked for a burst of the size ringfence chooses."""
    chosen = least_burst_bytes(shaper.rate_bits_per_s, mtu_bytes)
    if shaper.burst_bytes <= chosen + chosen // 50:  # the kernel keeps it in ticks
        return Limit(shaper.rate_bits_per_s)
    ceiling = shaper.ceiling_bits_per_s
    return Limit(shaper.rate_bits_per_s, shaper.burst_bytes, ceiling if ceiling < LINE_BITS_PER_S else None)


def _class(netns: int, dev: str, limit: Limit, mtu_bytes: int) -> Netlink:
    """The class that holds the limit: added or changed in place, whichever it takes."""
    least = least_burst_bytes(limit.rate_bits_per_s, mtu_bytes)
    burst, ceiling = limit.burst_bytes, limit.ceiling_bits_per_s
    if burst is None:
        burst, ceiling = least, limit.rate_bits_per_s
    ceiling = ceiling or LINE_BITS_PER_S
    return Netlink(
        "class.replace",
        {
            "netns": netns,
            "dev": dev,
            "kind": "htb",
            "parent": ROOT,
            "handle": CLASS,
            "rate_bits_per_s": limit.rate_bits_per_s,
            "burst_bytes": burst,
            "ceiling_bits_per_s": ceiling,
            "ceiling_burst_bytes": least_burst_bytes(ceiling, mtu_bytes),
            "quantum_bytes": mtu_bytes + 100,  # one class: there is nobody to take turns with
        },
    )


def fair_leaf(netns: int, dev: str) -> Netlink:
    """A queue that keeps flows apart and delays short; not every kernel has it."""
    arguments = {"netns": netns, "dev": dev, "kind": FAIR, "parent": CLASS, "handle": LEAF}
    return Netlink("qdisc.replace", arguments)


def bounded_leaf(netns: int, dev: str, rate_bits_per_s: int) -> Netlink:
    """The queue where there is no fair one: as long as 50 ms, and never shorter than two super-packets."""
    limit = max(int(rate_bits_per_s / 8 * _QUEUE_S), 2 * _SUPER_PACKET_BYTES)
    arguments = {
        "netns": netns,
        "dev": dev,
        "kind": "bfifo",
        "parent": CLASS,
        "handle": LEAF,
        "limit_bytes": limit,
    }
    return Netlink("qdisc.replace", arguments)


def shape(link: Link, dev: str, limit: Limit, have: Shaper | None) -> list[Netlink]:
    """The requests that hold `limit` on `dev`, the link itself or its IFB, which has `have` now."""
    change = _class(link.netns, dev, limit, link.mtu_bytes)
    if have is None:
        root = Netlink("qdisc.add", {"netns": link.netns, "dev": dev, "kind": "htb", "handle": ROOT, "default": 1})
        return [root, change, fair_leaf(link.netns, dev)]
    if not have.leaf:
        return [change, fair_leaf(link.netns, dev)]
    return [change] if have.leaf == FAIR else [change, bounded_leaf(link.netns, dev, limit.rate_bits_per_s)]


def open_up(link: Link, dev: str) -> Netlink:
    """Let go at once what waits in the queue, before it is taken away."""
    return _class(link.netns, dev, Limit(LINE_BITS_PER_S), link.mtu_bytes)


def remove_root(link: Link, dev: str) -> Netlink:
    """Take our HTB off; the kernel puts its default queue back."""
    return Netlink("qdisc.delete", {"netns": link.netns, "dev": dev, "parent": "root", "handle": ROOT})


def make_ifb(link: Link, tenant: str) -> Netlink:
    """Our device for what the link receives; its alias tells whose it is, and whether the ingress is ours too."""
    made = "found" if link.ingress and not link.ingress_ours else "made"
    arguments = {
        "netns": link.netns,
        "dev": link.ifb,
        "kind": "ifb",
        "mtu_bytes": link.mtu_bytes,
        "queue_packets": _IFB_QUEUE_PACKETS,
        "alias": f"{ALIAS}:{made}:{link.name}:{tenant}"[:250],
    }
    return Netlink("link.add", arguments)


def remove_ifb(link: Link, ifb: str) -> Netlink:
    """Take our device away."""
    return Netlink("link.delete", {"netns": link.netns, "dev": ifb})


def add_ingress(link: Link) -> list[Netlink]:
    """What filters of received packets hang on, where there is nothing yet."""
    return [] if link.ingress else [Netlink("qdisc.add", {**_at(link), "kind": "ingress"})]


def remove_ingress(link: Link) -> Netlink:
    """Take away what filters hang on; they go with it."""
    return Netlink("qdisc.delete", {**_at(link), "kind": "ingress"})


def add_filter(link: Link, *, ifb: str, priority: int | None, preference: int) -> Netlink:
    """Catch everything that the link receives."""
    arguments = {**_at(link), "hook": link.ingress or "ingress", "preference": preference, "redirect": ifb}
    return Netlink("filter.add", {**arguments, "priority": priority})


def remove_filter(link: Link, preference: int) -> Netlink:
    """Take our filter away; what it caught goes straight on from then."""
    return Netlink("filter.delete", {**_at(link), "hook": link.ingress or "ingress", "preference": preference})


def other_preference(redirect: Redirect | None) -> int:
    """For a filter that is to take the place of the one there is."""
    return PREFERENCES[1] if redirect and redirect.preference == PREFERENCES[0] else PREFERENCES[0]


def _at(link: Link) -> dict[str, object]:
    return {"netns": link.netns, "dev": link.name}
