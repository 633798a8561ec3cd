"""A kernel's network on paper: links with queues on them, changed by `Netlink` requests as the real ones are."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from typing import Any

from ringfence.core.host_requests import Netlink
from ringfence.core.model import Nic
from ringfence.core.net import Link, Redirect, Shaper, Unshapable, Wiring
from ringfence.errors import HostError


class FakeNet:
    """One tenant's interfaces.

    :param links: as they are at first.
    :param nics: of a VM; None makes it a container's.
    :param lacks: kinds of queues and filters that this kernel was built without, such as `fq_codel`.
    :ivar links: by name, as they are now; `ifbs` our devices, with the queues on them.
    :ivar refuse: operations to refuse, with the kernel's number.
    """

    def __init__(
        self,
        links: Sequence[Link],
        *,
        nics: Sequence[Nic] | None = None,
        unshapable: Sequence[Unshapable] = (),
        lacks: Sequence[str] = (),
    ) -> None:
        self.links = {link.name: link for link in links}
        self.ifbs: dict[str, Shaper | None] = {}
        self.filters: dict[str, list[Redirect]] = {link.name: [] for link in links}
        self.refuse: dict[str, int] = {}
        self.sent: list[Netlink] = []
        self._nics = None if nics is None else tuple(nics)
        self._unshapable = tuple(unshapable)
        self._lacks = lacks

    def answer_now(self, request: Any) -> Any:
        """Do what the request says.

        :raise HostError: as the kernel would; nothing is changed then.
        """
        if request.operation == "wiring":
            links = tuple(self._seen(link) for link in self.links.values())
            return Wiring(links, self._unshapable, self._nics, "container:web")
        self.sent.append(request)
        if request.operation in self.refuse:
            raise _refused(request, self.refuse[request.operation])
        kind = request.arguments.get("kind")
        skbedit = request.arguments.get("priority") is not None and "act_skbedit" in self._lacks
        if kind in self._lacks or skbedit:
            raise _refused(request, errno.ENOENT)
        handler = getattr(self, f"_{request.operation.replace('.', '_')}")
        return handler(request, request.arguments)

    def _seen(self, link: Link) -> Link:
        rules = sorted(self.filters[link.name])
        redirect = rules[0]._replace(shaper=self.ifbs.get(rules[0].ifb)) if rules else None
        return link._replace(redirect=redirect, ingress_ours=bool(link.ingress and link.ifb in self.ifbs))

    def _shaper(self, dev: str) -> Shaper | None:
        return self.links[dev].shaper if dev in self.links else self.ifbs[dev]

    def _hold(self, dev: str, shaper: Shaper | None) -> None:
        if dev in self.links:
            self.links[dev] = self.links[dev]._replace(shaper=shaper)
        else:
            self.ifbs[dev] = shaper

    def _qdisc_add(self, request: Netlink, given: Mapping[str, Any]) -> None:
        dev = given["dev"]
        if given["kind"] == "ingress":
            self.links[dev] = self.links[dev]._replace(ingress="ingress")
        elif self._shaper(dev) or (dev in self.links and self.links[dev].root):
            raise _refused(request, errno.EEXIST)
        else:
            self._hold(dev, Shaper(0, 0, 0, ""))

    def _qdisc_replace(self, request: Netlink, given: Mapping[str, Any]) -> None:
        shaper = self._shaper(given["dev"])
        if shaper is None:
            raise _refused(request, errno.ENOENT)
        self._hold(given["dev"], shaper._replace(leaf=given["kind"]))

    def _qdisc_delete(self, request: Netlink, given: Mapping[str, Any]) -> None:
        dev = given["dev"]
        if given.get("kind") == "ingress":
            self.links[dev] = self.links[dev]._replace(ingress="")
            self.filters[dev].clear()
        elif self._shaper(dev) is None:
            raise _refused(request, errno.ENOENT)
        else:
            self._hold(dev, None)

    def _class_replace(self, request: Netlink, given: Mapping[str, Any]) -> None:
        shaper = self._shaper(given["dev"])
        if shaper is None:
            raise _refused(request, errno.ENOENT)
        rate, ceiling = given["rate_bits_per_s"] // 8 * 8, given["ceiling_bits_per_s"] // 8 * 8
        held = shaper._replace(rate_bits_per_s=rate, ceiling_bits_per_s=ceiling)
        self._hold(given["dev"], held._replace(burst_bytes=given["burst_bytes"] - 1))  # the kernel counts in ticks

    def _filter_add(self, request: Netlink, given: Mapping[str, Any]) -> None:
        if not self.links[given["dev"]].ingress:
            raise _refused(request, errno.EINVAL)
        rule = Redirect(given["preference"], given["redirect"], None, given["priority"])
        self.filters[given["dev"]].append(rule)

    def _filter_delete(self, request: Netlink, given: Mapping[str, Any]) -> None:
        rules = self.filters[given["dev"]]
        gone = [rule for rule in rules if rule.preference == given["preference"]]
        if not gone:
            raise _refused(request, errno.ENOENT)
        rules.remove(gone[0])

    def _link_add(self, _: Netlink, given: Mapping[str, Any]) -> None:
        self.ifbs[given["dev"]] = None

    def _link_delete(self, request: Netlink, given: Mapping[str, Any]) -> None:
        if given["dev"] not in self.ifbs:
            raise _refused(request, errno.ENODEV)
        del self.ifbs[given["dev"]]


def _refused(request: Netlink, number: int) -> HostError:
    return HostError(f"{request.operation} refused", path=str(request.arguments.get("dev", "")), errno=number)
