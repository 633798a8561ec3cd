"""What the kernel tells of a tenant's network interfaces, and of the queues on them.

A tenant's interface ends on the host in a link: the tap device of a VM's NIC, the host's end of a container's veth
pair. Limits are set there, out of the tenant's reach. What the tenant sends, the host's link receives, except for
a macvtap device, whose queue takes the guest's own packets. Sources: tc(8), tc-htb(8), packet(7), Linux
drivers/net/tun.c, tap.c, macvlan.c and ifb.c.
"""

from __future__ import annotations

from typing import NamedTuple

from ringfence.core.model import Nic

MAJOR = 0x7266
"""Major number of every queue that ringfence makes, as its handle `7266:` tells: the letters `rf`."""
ROOT, CLASS, LEAF = f"{MAJOR:x}:", f"{MAJOR:x}:1", f"{MAJOR + 1:x}:"
"""Handles, as tc writes them, of our HTB, of the one class in it, and of the queue in that class."""
PREFERENCES = (MAJOR, MAJOR + 1)
"""Of our filters (tc's `pref`): one of the two, so that a new one can be there before the old one goes."""
IFB_PREFIX = "rf-"
"""Begins the name of every device that ringfence makes."""
ALIAS = "ringfence"
"""Begins the alias of such a device: `ringfence:made:vnet3:web1`, `made` where the ingress queue is ours too."""
TAP, MACVTAP, VETH = "tap", "macvtap", "veth"


class Shaper(NamedTuple):
    """An HTB of ours on a link, as the kernel holds it.

    :param ceiling_bits_per_s: the speed of a burst.
    :param leaf: the kind of queue in it, empty when there is none.
    :param backlog_bytes: what waits in it now.
    :param dropped_packets: since it was made.
    """

    rate_bits_per_s: int
    burst_bytes: int
    ceiling_bits_per_s: int
    leaf: str
    backlog_bytes: int = 0
    dropped_packets: int = 0


class Redirect(NamedTuple):
    """What is done to packets that a link receives, by a filter of ours.

    :param preference: which of `PREFERENCES` the filter has.
    :param ifb: the device that they go through, empty when they go straight on.
    :param shaper: on that device.
    :param priority: what the packets' priority is set to; None when it is left alone.
    """

    preference: int
    ifb: str = ""
    shaper: Shaper | None = None
    priority: int | None = None


class Link(NamedTuple):
    """The host's end of one interface of a tenant.

    :param netns: inode number of the network namespace it is in.
    :param kind: `tap`, `macvtap` or `veth`.
    :param inside: what the tenant calls it; empty when that is not known.
    :param root: the root queue that somebody else made, as tc names it (`htb 1:`); empty when there is none.
    :param shaper: ours on the root; `redirect` ours on what it receives.
    :param ingress: `ingress`, `clsact` or empty: what filters of received packets hang on.
    :param ingress_filters: kinds of the filters there that somebody else made.
    :param ingress_ours: whether ringfence made what they hang on.
    :param fds: the file descriptors by which QEMU holds it.
    """

    netns: int
    ifindex: int
    name: str
    kind: str
    mtu_bytes: int
    inside: str = ""
    root: str = ""
    shaper: Shaper | None = None
    ingress: str = ""
    ingress_filters: tuple[str, ...] = ()
    ingress_ours: bool = False
    redirect: Redirect | None = None
    fds: tuple[int, ...] = ()

    @property
    def ifb(self) -> str:
        """What our device for what this link receives is called: the number is the link's while it lives."""
        return f"{IFB_PREFIX}i{self.ifindex}"


class Unshapable(NamedTuple):
    """An interface of a tenant that has no end on this host where it could be limited.

    :param why: what it is instead; `help_` what to do.
    """

    name: str
    why: str
    help_: str


class Wiring(NamedTuple):
    """A tenant's interfaces.

    :param links: the ends found on the host; `unshapable` those that are none.
    :param nics: of a VM, as its command line tells; None for a container.
    :param tenant: what to call it in the mark on devices made for it.
    :param absent: why its links cannot be looked for; empty when they were.
    """

    links: tuple[Link, ...]
    unshapable: tuple[Unshapable, ...] = ()
    nics: tuple[Nic, ...] | None = None
    tenant: str = ""
    absent: str = ""
