"""The edge to the kernel's network: answers `Netlink` requests, by pyroute2, in whatever namespace a link is in.

Operations: `wiring` finds a tenant's interfaces and reads the queues on them; the others change one thing each, as
the tc(8) command of that name does: `qdisc.add`, `qdisc.replace`, `qdisc.delete`, `class.replace`, `filter.add`,
`filter.delete`, and for devices of ours `link.add`, `link.delete`. Rates are bits/s; pyroute2 is handed bytes/s.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from ringfence.core.host_requests import Netlink
from ringfence.core.model import Nic
from ringfence.core.net import ALIAS, MACVTAP, TAP, Link, Wiring
from ringfence.errors import HostError
from ringfence.host import namespaces, nics, veths
from ringfence.host.links import Device, Reader, hook_parent

_ETH_P_ALL = 3
_INGRESS_PARENT = 0xFFFFFFF1
_HINTS = {
    errno.EPERM: "this needs CAP_NET_ADMIN in the interface's network namespace: run it as root",
    errno.EACCES: "this needs CAP_NET_ADMIN in the interface's network namespace: run it as root",
    errno.ENODEV: "the interface is gone; `ringfence show` tells what there is",
    errno.ENOENT: "this kernel lacks that kind of queue or filter: load its module (sch_*, cls_*, act_*)",
    errno.EEXIST: "somebody else was there first; `tc qdisc show` tells",
    errno.EOPNOTSUPP: "this kernel cannot: load the module ifb, sch_htb or cls_u32",
}


class NetlinkEdge:
    """One tenant's network.

    :param pid: the tenant's process.
    :param tenant: what to call it in the marks.
    :param nics: of a VM, as its command line tells; None for a container.
    """

    def __init__(self, pid: int, tenant: str, nics: tuple[Nic, ...] | None = None, proc: str = "/proc") -> None:
        self._pid = pid
        self._nics = nics
        self._tenant = tenant
        self._proc = proc
        self._spaces = namespaces.Namespaces(proc)

    async def answer(self, request: Netlink) -> Any:
        """Do what the request says.

        :raise HostError: the kernel refused, with its number; that one thing was not changed then.
        """
        from pyroute2.netlink.exceptions import NetlinkError

        arguments = request.arguments
        try:
            if request.operation == "wiring":
                return await self.wiring()
            route = await self._spaces.route(int(arguments["netns"]))  # type: ignore[call-overload]
            return await perform(route, request)
        except NetlinkError as error:
            raise _host_error(request, error.code) from None
        except OSError as error:
            raise _host_error(request, error.errno or 0) from None

    async def wiring(self) -> Wiring:
        """The tenant's interfaces as they are now."""
        if not self._pid:
            absent = "its process is not on this host, or hidden"
            return Wiring((), nics=self._nics, tenant=self._tenant, absent=absent)
        if self._nics is not None:
            try:
                taps = nics.taps(self._pid, self._proc)
            except PermissionError:
                absent = "another user's process does not show its files; root sees them"
                return Wiring((), nics=self._nics, tenant=self._tenant, absent=absent)
            return Wiring(await self._links(taps), nics=self._nics, tenant=self._tenant)
        links, others = await veths.find(self._spaces, self._pid)
        return Wiring(links, others, tenant=self._tenant)

    def close(self) -> None:
        """Let go of every namespace; what was changed stays."""
        self._spaces.close()

    async def _links(self, taps: Sequence[nics.Tap]) -> tuple[Link, ...]:
        links: list[Link] = []
        readers: dict[int, Reader] = {}
        for tap in taps:
            told = [self._spaces.keep(tap.netns)] if tap.netns >= 0 else []
            for netns in told or [self._spaces.of_pid(self._pid), self._spaces.own]:
                if netns not in readers:
                    readers[netns] = Reader(await self._spaces.route(netns), netns)
                found = await readers[netns].by_name(tap.name)
                if found and _is_kind(found, tap.kind):
                    links.append(await readers[netns].link(found, tap.kind, fds=tap.fds))
                    break
        return tuple(links)


async def perform(route: Any, request: Netlink) -> Any:
    """One operation over an open route; errors are pyroute2's, and OSError for an interface that is not there."""
    return await _OPERATIONS[request.operation](route, request.arguments)


def _is_kind(found: Device, kind: str) -> bool:
    return found.kind == {TAP: "tun", MACVTAP: "macvtap"}[kind]


def _host_error(request: Netlink, number: int) -> HostError:
    dev = str(request.arguments.get("dev", ""))
    kind = str(request.arguments.get("kind", "") or request.operation.partition(".")[0])
    what = f"{request.operation} {kind} on {dev}" if dev else "reading the tenant's interfaces"
    message = f"{what}: {os.strerror(number) if number else 'failed'}"
    usual = _HINTS.get(number, "the reason is the kernel's own")
    hint = usual if dev or number in (errno.EPERM, errno.EACCES) else "`ringfence ps` tells what runs now"
    return HostError(message, path=dev, errno=number, hint=hint)


async def _index(route: Any, dev: object) -> int:
    found = await route.link_lookup(ifname=dev)
    if not found:
        raise OSError(errno.ENODEV, "no such interface")
    return int(found[0])


async def _add_qdisc(route: Any, arguments: Mapping[str, Any]) -> None:
    index, kind = await _index(route, arguments["dev"]), arguments["kind"]
    if kind == "htb":
        await route.tc("add", kind, index, handle=arguments["handle"], default=arguments["default"])
    else:
        await route.tc("add", kind, index)


async def _replace_qdisc(route: Any, arguments: Mapping[str, Any]) -> None:
    from pyroute2.netlink.rtnl.tcmsg import plugins

    # pyroute2 knows pfifo and not bfifo, whose one option is the same.
    plugins.setdefault("bfifo", plugins["pfifo"])
    options = {"limit": arguments["limit_bytes"]} if "limit_bytes" in arguments else {}
    index = await _index(route, arguments["dev"])
    where = {"parent": arguments["parent"], "handle": arguments["handle"]}
    await route.tc("replace", arguments["kind"], index, **where, **options)


async def _delete_qdisc(route: Any, arguments: Mapping[str, Any]) -> None:
    index = await _index(route, arguments["dev"])
    if arguments.get("parent") == "root":
        await route.tc("del", index=index, root=True, handle=arguments["handle"])  # of another number: EINVAL
    else:
        await route.tc("del", arguments["kind"], index, parent=_INGRESS_PARENT)


async def _replace_class(route: Any, arguments: Mapping[str, Any]) -> None:
    await route.tc(
        "replace-class",
        "htb",
        await _index(route, arguments["dev"]),
        parent=arguments["parent"],
        handle=arguments["handle"],
        rate=arguments["rate_bits_per_s"] // 8,
        burst=arguments["burst_bytes"],
        ceil=arguments["ceiling_bits_per_s"] // 8,
        cburst=arguments["ceiling_burst_bytes"],
        quantum=arguments["quantum_bytes"],
    )


async def _add_filter(route: Any, arguments: Mapping[str, Any]) -> None:
    """A filter that matches everything: u32, or matchall where the kernel was built without u32."""
    from pyroute2.netlink.exceptions import NetlinkError

    actions: list[dict[str, Any]] = []
    if arguments["priority"] is not None:
        actions.append({"kind": "skbedit", "priority": arguments["priority"]})
    target = await _index(route, arguments["redirect"])
    actions.append({"kind": "mirred", "direction": "egress", "action": "redirect", "ifindex": target})
    where = {
        "index": await _index(route, arguments["dev"]),
        "parent": hook_parent(arguments["hook"]),
        "prio": arguments["preference"],
        "protocol": _ETH_P_ALL,
        "action": actions,
    }
    try:
        await route.tc("add-filter", "u32", target=0x10000, keys=["0x0/0x0+0"], **where)
    except NetlinkError as error:
        if error.code != errno.ENOENT:
            raise
        await route.tc("add-filter", "matchall", **where)


async def _delete_filter(route: Any, arguments: Mapping[str, Any]) -> None:
    index, parent = await _index(route, arguments["dev"]), hook_parent(arguments["hook"])
    await route.tc("del-filter", index=index, parent=parent, prio=arguments["preference"], protocol=_ETH_P_ALL)


async def _add_link(route: Any, arguments: Mapping[str, Any]) -> None:
    """A device of ours, up and marked. One of that name and mark that a crash left behind is made anew."""
    name = arguments["dev"]
    left = await Reader(route, 0).by_name(name)
    if left is not None and left.alias.startswith(f"{ALIAS}:"):
        await route.link("del", index=left.ifindex)
    await _load_ifb()
    sizes = {"mtu": arguments["mtu_bytes"], "txqlen": arguments["queue_packets"]}
    await route.link("add", ifname=name, kind=arguments["kind"], **sizes)
    index = await _index(route, name)
    await route.link("set", index=index, ifalias=arguments["alias"], state="up")


async def _load_ifb() -> None:
    """The module makes two devices nobody asked for when the kernel loads it by itself."""
    if os.access("/sys/module/ifb", os.F_OK):
        return
    nothing = asyncio.subprocess.DEVNULL
    with suppress(OSError):
        process = await asyncio.create_subprocess_exec(
            "modprobe", "ifb", "numifbs=0", stdout=nothing, stderr=nothing
        )
        await process.wait()


async def _delete_link(route: Any, arguments: Mapping[str, Any]) -> None:
    await route.link("del", index=await _index(route, arguments["dev"]))


_OPERATIONS = {
    "qdisc.add": _add_qdisc,
    "qdisc.replace": _replace_qdisc,
    "qdisc.delete": _delete_qdisc,
    "class.replace": _replace_class,
    "filter.add": _add_filter,
    "filter.delete": _delete_filter,
    "link.add": _add_link,
    "link.delete": _delete_link,
}
