"""Queues and devices that ringfence made on interfaces, in this network namespace and in the named ones.

A queue of ours goes with its interface. A device of ours for what an interface receives does not: it is left over
once that interface has gone.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from ringfence.core.host_requests import Netlink
from ringfence.core.net import ALIAS, IFB_PREFIX, PREFERENCES, ROOT, Link
from ringfence.errors import HostError
from ringfence.host import netlink
from ringfence.host.links import Device, Reader
from ringfence.host.made import Made
from ringfence.host.namespaces import Namespaces


def find(root: str) -> Iterator[Made]:
    """Devices of ours, then queues on others; nothing where this user may ask nobody."""
    if root.strip("/"):
        return
    # The caller may be in an event loop, so this has a thread of its own.
    with ThreadPoolExecutor(1) as thread:
        yield from thread.submit(lambda: asyncio.run(_find())).result()


async def remove(made: Made, root: str) -> None:  # noqa: ARG001 - the shape of a kind
    """Take it away: packets that were led through a device go straight on.

    :raise HostError: the kernel refuses.
    """
    from pyroute2.netlink.exceptions import NetlinkError

    where, _, dev = made.name.rpartition(":")
    spaces = Namespaces()
    try:
        route, _ = await _enter(spaces, where)
        if made.kind == "queue":
            await netlink.perform(route, Netlink("qdisc.delete", {"dev": dev, "parent": "root", "handle": ROOT}))
        else:
            await _remove_device(route, dev)
    except NetlinkError as error:
        raise HostError(f"cannot remove {made.name}", path=dev, errno=error.code) from None
    except OSError as error:
        raise HostError(f"cannot remove {made.name}", path=dev, errno=error.errno or 0) from None
    finally:
        spaces.close()


async def _find() -> list[Made]:
    found: list[Made] = []
    spaces = Namespaces()
    try:
        for where in ("", *_named()):
            with suppress(OSError):  # another user's, or gone meanwhile
                route, number = await _enter(spaces, where)
                reader = Reader(route, number)
                devices = await reader.devices()
                prefix = f"{where}:" if where else ""
                by_index = {device.ifindex: device.name for device in devices}
                for device in devices:
                    if _is_ours(device):
                        name = by_index.get(int(device.name.removeprefix(f"{IFB_PREFIX}i")), "")
                        holds = f"interface {name}" if name else ""
                        found.append(Made("device", f"{prefix}{device.name}", holds, "made_queues"))
                for device in devices:
                    if not _is_ours(device) and (await reader.link(device, device.kind)).shaper is not None:
                        held = f"interface {device.name}"
                        found.append(Made("queue", f"{prefix}{device.name}", held, "made_queues"))
    finally:
        spaces.close()
    return found


def _is_ours(device: Device) -> bool:
    number = device.name.removeprefix(f"{IFB_PREFIX}i")
    return device.kind == "ifb" and number.isdigit() and device.alias.startswith(f"{ALIAS}:")


def _named() -> list[str]:
    try:
        return sorted(os.listdir("/run/netns"))
    except OSError:
        return []


async def _enter(spaces: Namespaces, where: str) -> tuple[Any, int]:
    """A way into a named namespace, or into this one where no name is given."""
    number = spaces.own
    if where:
        number = spaces.keep(os.open(f"/run/netns/{where}", os.O_RDONLY | os.O_CLOEXEC))
    return await spaces.route(number), number


async def _remove_device(route: Any, name: str) -> None:
    """With the filter that leads to it, and with what that hangs on where it was made for it."""
    reader = Reader(route, 0)
    device = await reader.by_index(int(name.removeprefix(f"{IFB_PREFIX}i")))
    if device is not None:
        link: Link = await reader.link(device, device.kind)
        if link.redirect is not None and link.redirect.preference in PREFERENCES:
            arguments = {"dev": link.name, "hook": link.ingress, "preference": link.redirect.preference}
            await netlink.perform(route, Netlink("filter.delete", arguments))
        if link.ingress_ours and not link.ingress_filters:
            await netlink.perform(route, Netlink("qdisc.delete", {"dev": link.name, "kind": link.ingress}))
    ours = await reader.by_name(name)
    if ours is None:
        raise OSError(errno.ENODEV, name)
    await netlink.perform(route, Netlink("link.delete", {"dev": name}))
