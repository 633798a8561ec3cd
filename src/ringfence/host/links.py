"""Reads the queues of a link by netlink: whose they are, and what ours hold.

Sources: rtnetlink(7), Linux include/uapi/linux/pkt_sched.h, pkt_cls.h.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ringfence.core.net import ALIAS, IFB_PREFIX, LEAF, MAJOR, PREFERENCES, Link, Redirect, Shaper

_ROOT, _INGRESS, _CLSACT_INGRESS = 0xFFFFFFFF, 0xFFFF0000, 0xFFFFFFF2
_U32_MAX = 2**32 - 1
_HOOKS = ("ingress", "clsact")


def hook_parent(hook: str) -> int:
    """The parent of filters of received packets."""
    return _CLSACT_INGRESS if hook == "clsact" else _INGRESS


class Device(NamedTuple):
    """A link as the kernel lists it.

    :param peer: `ifindex` of what it is the other end of, 0 without one; `peer_netnsid` the kernel's number of the
        namespace that one is in, -1 for its own.
    """

    ifindex: int
    name: str
    kind: str
    mtu_bytes: int
    alias: str
    peer: int
    peer_netnsid: int


def device(message: Any) -> Device:
    """A link from its message."""
    info = message.get_attr("IFLA_LINKINFO")
    netnsid = message.get_attr("IFLA_LINK_NETNSID")
    return Device(
        ifindex=message["index"],
        name=message.get_attr("IFLA_IFNAME"),
        kind=(info.get_attr("IFLA_INFO_KIND") or "") if info else "",
        mtu_bytes=message.get_attr("IFLA_MTU") or 1500,
        alias=message.get_attr("IFLA_IFALIAS") or "",
        peer=message.get_attr("IFLA_LINK") or 0,
        peer_netnsid=-1 if netnsid is None else netnsid,
    )


class Reader:
    """The links of one namespace; the list of all queues is asked for once.

    :param route: pyroute2's AsyncIPRoute, open in that namespace.
    """

    def __init__(self, route: Any, netns: int) -> None:
        self._route = route
        self._netns = netns
        self._queues: dict[int, list[Any]] | None = None

    async def link(self, found: Device, kind: str, *, inside: str = "", fds: tuple[int, ...] = ()) -> Link:
        """A tenant's link with its queues."""
        queues = (await self._all_queues()).get(found.ifindex, [])
        root = next((q for q in queues if q["parent"] == _ROOT), None)
        hook = next((q.get_attr("TCA_KIND") for q in queues if q.get_attr("TCA_KIND") in _HOOKS), "")
        link = Link(
            self._netns, found.ifindex, found.name, kind, found.mtu_bytes, inside=inside, fds=fds, ingress=hook
        )
        if root is not None and root["handle"] >> 16:  # the kernel's own default has no number
            if _is_ours(root):
                link = link._replace(shaper=await self._shaper(found.ifindex))
            else:
                link = link._replace(root=f"{root.get_attr('TCA_KIND')} {root['handle'] >> 16:x}:")
        return await self._with_ingress(link) if hook else link

    async def by_name(self, name: str) -> Device | None:
        """A link by its name; None when there is none."""
        return await self._one(ifname=name)

    async def by_index(self, index: int) -> Device | None:
        """A link by its number; None when there is none."""
        return await self._one(index=index)

    async def devices(self) -> list[Device]:
        """Every link of the namespace."""
        return [device(message) async for message in await self._route.get_links()]

    async def _one(self, **what: Any) -> Device | None:
        from pyroute2.netlink.exceptions import NetlinkError

        try:
            messages = await self._route.link("get", **what)
        except NetlinkError:
            return None
        return device(messages[0]) if messages else None

    async def _all_queues(self) -> dict[int, list[Any]]:
        if self._queues is None:
            self._queues = {}
            async for queue in await self._route.get_qdiscs():
                self._queues.setdefault(queue["index"], []).append(queue)
        return self._queues

    async def _shaper(self, index: int) -> Shaper:
        """What our HTB on a device holds; a rate of 0 when it has no class yet."""
        from pyroute2.netlink.rtnl.tcmsg.common import tick_in_usec

        queues = (await self._all_queues()).get(index, [])
        leaf = next((q.get_attr("TCA_KIND") for q in queues if q["handle"] >> 16 == int(LEAF[:-1], 16)), "")
        async for htb in await self._route.get_classes(index=index):
            options = htb.get_attr("TCA_OPTIONS")
            if htb["handle"] != MAJOR << 16 | 1 or options is None:
                continue
            held = options.get_attr("TCA_HTB_PARMS")
            rate, ceiling = held["rate"], held["ceil"]
            if rate == _U32_MAX:
                rate = options.get_attr("TCA_HTB_RATE64") or rate
            if ceiling == _U32_MAX:
                ceiling = options.get_attr("TCA_HTB_CEIL64") or ceiling
            burst = round(held["buffer"] / tick_in_usec * rate / 1e6)
            stats = htb.get_attr("TCA_STATS2")
            queue = stats.get_attr("TCA_STATS_QUEUE") if stats is not None else None
            backlog, drops = (queue["backlog"], queue["drops"]) if queue is not None else (0, 0)
            return Shaper(rate * 8, burst, ceiling * 8, leaf, backlog, drops)
        return Shaper(0, 0, 0, leaf)

    async def _with_ingress(self, link: Link) -> Link:
        """The link with whose filters hang on what it receives."""
        others: list[str] = []
        redirect: Redirect | None = None
        async for rule in await self._route.get_filters(index=link.ifindex, parent=hook_parent(link.ingress)):
            options = rule.get_attr("TCA_OPTIONS")
            actions = _actions(options) if options is not None else []
            preference = rule["info"] >> 16
            if preference in PREFERENCES:
                if actions:
                    redirect = await self._redirect(preference, actions)
            elif rule["handle"]:
                others.append(rule.get_attr("TCA_KIND"))
        mark = await self.by_name(link.ifb)
        ours = mark is not None and mark.alias.startswith(f"{ALIAS}:made:")
        return link._replace(ingress_filters=tuple(others), redirect=redirect, ingress_ours=ours)

    async def _redirect(self, preference: int, actions: list[Any]) -> Redirect:
        redirect = Redirect(preference)
        for action in actions:
            options = action.get_attr("TCA_ACT_OPTIONS")
            match action.get_attr("TCA_ACT_KIND"):
                case "skbedit":
                    redirect = redirect._replace(priority=options.get_attr("TCA_SKBEDIT_PRIORITY"))
                case "mirred":
                    target = await self.by_index(options.get_attr("TCA_MIRRED_PARMS")["ifindex"])
                    if target is not None and target.name.startswith(IFB_PREFIX):
                        queues = (await self._all_queues()).get(target.ifindex, [])
                        shaped = any(_is_ours(queue) for queue in queues)
                        shaper = await self._shaper(target.ifindex) if shaped else None
                        redirect = redirect._replace(ifb=target.name, shaper=shaper)
        return redirect


def _is_ours(queue: Any) -> bool:
    return bool(queue["handle"] >> 16 == MAJOR and queue.get_attr("TCA_KIND") == "htb")


def _actions(options: Any) -> list[Any]:
    """The actions of a filter, in order; each kind of filter keeps them under a name of its own."""
    for name in ("TCA_U32_ACT", "TCA_MATCHALL_ACT"):
        listed = options.get_attr(name)
        if listed is not None:
            return [action for _, action in listed["attrs"]]
    return []
