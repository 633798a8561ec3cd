"""The knob `net`: how fast a tenant may send and receive on each of its interfaces.

Directions are the tenant's: `egress` is what it sends. It is limited by queueing, not by dropping, on the host's
end of the interface, where the tenant cannot take the limit off. Queues that somebody else put there are never
touched: then the limit is refused, and the refusal names them.
"""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

from ringfence import units
from ringfence.core.answers import text
from ringfence.core.host_requests import HostRequest, Netlink
from ringfence.core.knob import Observation, Outcome, Part, Row, Value, Verdict, Wants
from ringfence.core.net import MACVTAP, Link, Redirect, Shaper, Wiring
from ringfence.core.requests import Agent, Qmp, Steps, Wait
from ringfence.errors import HostError, MonitorError, RingfenceError, TenantError, UsageError
from ringfence.knobs.net import names, shape
from ringfence.knobs.net.names import Interface
from ringfence.knobs.net.shape import LEAST_BITS_PER_S, LINE_BITS_PER_S, LONGEST_BURST_S, Limit, least_burst_bytes

EGRESS, INGRESS = "egress", "ingress"
_ENOENT = 2
_DRAIN_S = 0.02
"""What waits in a queue that was opened up leaves within a millisecond or two; twenty bear a busy host."""
_PRIORITIES = {"low": 1, "normal": 0, "high": 6}
"""Names of socket priorities (socket(7), SO_PRIORITY): TC_PRIO_FILLER, BESTEFFORT and INTERACTIVE, which the
kernel's default queues with bands send last, in the middle, and first (tc-prio(8))."""
_LIBVIRT = "libvirt's own limits are taken off by `virsh domiftune VM INTERFACE --inbound 0 --outbound 0`"


def _rows(direction: str, verb: str) -> tuple[Row, ...]:
    key = f"net.<if>.{direction}"
    where = "HTB behind an IFB" if direction == EGRESS else "HTB on the host's end"
    return (
        Row(key, units.BITS_PER_S, where, f"how fast the tenant may {verb}", lifts=True),
        Row(
            f"{key}.burst",
            units.BYTES,
            "HTB burst",
            f"how much it may {verb} faster than that after a pause",
            lifts=True,
            main=False,
            lifted="by rate",
        ),
        Row(
            f"{key}.ceiling",
            units.BITS_PER_S,
            "HTB ceil",
            "how fast such a burst goes",
            lifts=True,
            main=False,
        ),
    )


_PRIORITY = Row(
    "net.<if>.egress.priority",
    units.NAME,
    "act_skbedit priority",
    "low, normal or high: whose packets leave first where the host's own queues have bands (pfifo_fast, prio)",
    lifts=True,
    main=False,
    lifted="normal",
)


class _Wanted(NamedTuple):
    """What one direction is to be.

    :param limit: None is unlimited; `priority` None is as the guest's packets come.
    """

    limit: Limit | None
    priority: int | None = None


class NetShaping:
    """See the module."""

    prefix = "net"
    rows: tuple[Row, ...] = (*_rows(EGRESS, "send"), _PRIORITY, *_rows(INGRESS, "receive"))
    events: tuple[str, ...] = ()
    tenants: frozenset[str] = frozenset({"vm", "container"})

    def observe(self) -> Steps[tuple[Part, ...]]:
        """Find the tenant's interfaces, and read the queues on them."""
        wiring: Wiring = yield Netlink("wiring")
        told = ""
        if wiring.nics is not None:
            with suppress(MonitorError, TenantError):  # then what the command line says must do
                told = text((yield Qmp("human-monitor-command", {"command-line": "info network"})))
        return names.parts(wiring, told)

    def observation(self, part: Part, row: Row) -> Observation:
        """What one direction of one interface is limited to now."""
        interface: Interface = part.state
        key = row.key.replace("<if>", part.name)
        link = interface.link
        if link is None:
            return Observation(row, key, None, None, unavailable=interface.why, advice=interface.advice)
        direction, _, leaf = row.key.partition(">.")[2].partition(".")
        now = _value(_now(link, direction), leaf)
        shaper = _shaper(link, direction)
        notes: tuple[str, ...] = ()
        if shaper and shaper.leaf not in ("", shape.FAIR):
            notes = (f"its queue is a plain one ({shaper.leaf}): this kernel has no fq_codel",)
        return Observation(row, key, now, now, unavailable=_foreign(link, direction), notes=notes)

    def check(self, part: Part, wants: Wants, *, force: bool) -> None:
        """Raise TenantError where there is nothing to limit, or somebody else does; UsageError for figures."""
        interface: Interface = part.state
        for leaf in wants:
            row = next(row for row in self.rows if row.key.endswith(f">.{leaf}"))
            seen = self.observation(part, row)
            if interface.link is not None and seen.unavailable:
                raise TenantError(f"{seen.key}: {seen.unavailable}", hint=_foreign_hint(interface.link))
            if interface.help_ and not seen.advice:
                raise TenantError(f"{seen.key} is not available: {seen.unavailable}", hint=interface.help_)
            seen.refuse_unavailable()
        if interface.link is None:
            return
        for direction in _directions(wants):
            _check(f"net.{part.name}.{direction}", interface.link, _wanted(interface.link, direction, wants))
            _check_alone(f"net.{part.name}.{direction}", interface.link, direction, wants)

    def changes(self, part: Part, wants: Wants) -> list[Qmp | Agent | HostRequest]:
        """The netlink requests, in order; where the kernel lacks fq_codel a bounded queue follows its refusal."""
        interface: Interface = part.state
        if interface.link is None:
            return []
        link = interface.link
        return [
            request
            for direction in _directions(wants)
            if (wanted := _wanted(link, direction, wants)) != _now(link, direction)
            for request in _requests(link, direction, wanted, interface.tenant)
        ]

    def apply(self, part: Part, wants: Wants, *, timeout_s: float, force: bool) -> Steps[Outcome]:
        """Put the queues in place, or change them there; read back what the kernel made of it."""
        link: Link = part.state.link
        changed = False
        for direction in _directions(wants):
            wanted = _wanted(link, direction, wants)
            if wanted != _now(link, direction):
                yield from _make(link, direction, wanted, part.state.tenant)
                changed = True
                link = yield from _again(link)  # the other direction may hang on the same
        after = part._replace(state=part.state._replace(link=link))
        if not changed:
            return Outcome(Verdict.APPLIED, after, notes=("already so",))
        for direction in _directions(wants):
            wanted, now = _wanted(link, direction, wants), _now(link, direction)
            if not _alike(wanted, now):
                detail = f"the kernel took {direction} and holds something else"
                return Outcome(Verdict.PARTIAL, after, by="kernel", detail=detail)
        return Outcome(Verdict.APPLIED, after)


def _side_is_root(link: Link, direction: str) -> bool:
    """Whether the direction passes the link's own queue. What the tenant sends the host's end receives, and the
    other way round; a guest behind a macvtap device sends into that device's own queue."""
    return (direction == INGRESS) != (link.kind == MACVTAP)


def _shaper(link: Link, direction: str) -> Shaper | None:
    if _side_is_root(link, direction):
        return link.shaper
    return link.redirect.shaper if link.redirect else None


def _now(link: Link, direction: str) -> _Wanted:
    shaper = _shaper(link, direction)
    limited = shaper is not None and 0 < shaper.rate_bits_per_s < LINE_BITS_PER_S
    limit = shape.limit_of(shaper, link.mtu_bytes) if limited and shaper else None
    redirect = link.redirect
    priority = redirect.priority if redirect and not _side_is_root(link, direction) else None
    return _Wanted(limit, priority)


def _value(now: _Wanted, leaf: str) -> Value | None:
    if leaf == "priority":
        return next((name for name, number in _PRIORITIES.items() if number == now.priority), None)
    limit = now.limit
    if limit is None:
        return None
    return {"": limit.rate_bits_per_s, "burst": limit.burst_bytes, "ceiling": limit.ceiling_bits_per_s}[leaf]


def _directions(wants: Wants) -> list[str]:
    return list(dict.fromkeys(leaf.partition(".")[0] for leaf in wants))


def _wanted(link: Link, direction: str, wants: Wants) -> _Wanted:
    """What is so now, with what is wanted laid over it."""
    now = _now(link, direction)
    rate: Value | None = now.limit.rate_bits_per_s if now.limit else None
    burst: Value | None = now.limit.burst_bytes if now.limit else None
    ceiling: Value | None = now.limit.ceiling_bits_per_s if now.limit else None
    rate = wants.get(direction, rate)
    if rate is None:
        burst = ceiling = None  # they are the rate's
    burst = wants.get(f"{direction}.burst", burst)
    if burst is None and f"{direction}.burst" in wants:
        ceiling = None
    ceiling = wants.get(f"{direction}.ceiling", ceiling)
    priority = now.priority
    if f"{direction}.priority" in wants:
        word = wants[f"{direction}.priority"]
        priority = _PRIORITIES.get(str(word), -1) if word is not None else None
    if rate is None:
        return _Wanted(None, priority or None)
    limit = Limit(
        int(rate), int(burst) if burst is not None else None, int(ceiling) if ceiling is not None else None
    )
    return _Wanted(limit, priority or None)


def _check(key: str, link: Link, wanted: _Wanted) -> None:
    """The figures of one direction, as they would be."""
    if wanted.priority == -1:
        raise UsageError(f"{key}.priority is none of {', '.join(_PRIORITIES)}", hint=f"write {key}.priority=low")
    limit = wanted.limit
    if limit is None:
        return
    shown = units.format_bits_per_s(limit.rate_bits_per_s)
    if not LEAST_BITS_PER_S <= limit.rate_bits_per_s < LINE_BITS_PER_S:
        low, high = (units.format_bits_per_s(bound) for bound in (LEAST_BITS_PER_S, LINE_BITS_PER_S))
        raise UsageError(f"{key}={shown} is not from {low} to {high}", hint="write 100Mbit/s")
    if limit.burst_bytes is None:
        if limit.ceiling_bits_per_s is not None:
            raise UsageError(
                f"{key}.ceiling is the speed of a burst, and there is none", hint=f"give {key}.burst as well"
            )
        return
    least = least_burst_bytes(limit.rate_bits_per_s, link.mtu_bytes)
    most = limit.rate_bits_per_s // 8 * LONGEST_BURST_S
    if not least < limit.burst_bytes <= most:
        raise UsageError(
            f"{key}.burst={units.format_bytes(limit.burst_bytes)} cannot be at {shown}",
            hint=f"it is more than {units.format_bytes(least)}, and at most {units.format_bytes(most)}",
        )
    if limit.ceiling_bits_per_s is not None and limit.ceiling_bits_per_s < limit.rate_bits_per_s:
        raise UsageError(f"{key}.ceiling is below the rate itself, {shown}", hint="it is how fast a burst goes")


def _check_alone(key: str, link: Link, direction: str, wants: Wants) -> None:
    """A burst or a ceiling that is asked for where there is no limit."""
    wanted = _wanted(link, direction, wants)
    asked = [leaf for leaf in ("burst", "ceiling") if wants.get(f"{direction}.{leaf}") is not None]
    if asked and wanted.limit is None:
        raise UsageError(f"{key}.{asked[0]}: there is no limit to go above", hint=f"give {key} as well")


def _foreign(link: Link, direction: str) -> str:
    """Who else has queues or filters where the limit would have to be; empty when nobody does."""
    if _side_is_root(link, direction):
        return f"{link.name} has the queue {link.root!r} that ringfence did not make" if link.root else ""
    if not link.ingress_filters:
        return ""
    kinds = " and ".join(dict.fromkeys(link.ingress_filters))
    return f"{link.name} has {link.ingress} filters ({kinds}) that ringfence did not make"


def _foreign_hint(link: Link) -> str:
    return f"`tc -s qdisc show dev {link.name}` and `tc filter show dev {link.name} ingress` tell; {_LIBVIRT}"


def _requests(link: Link, direction: str, wanted: _Wanted, tenant: str) -> list[Netlink]:
    """What is sent for one direction, when the kernel refuses nothing."""
    if _side_is_root(link, direction):
        if wanted.limit is not None:
            return shape.shape(link, link.name, wanted.limit, link.shaper)
        return [shape.open_up(link, link.name), shape.remove_root(link, link.name)]
    redirect = link.redirect
    limit = wanted.limit or Limit(LINE_BITS_PER_S)
    if wanted == _Wanted(None):
        return _take_away(link, redirect) if redirect else []
    preference = shape.other_preference(redirect)
    caught = shape.add_filter(link, ifb=link.ifb, priority=wanted.priority, preference=preference)
    if redirect is None:
        made = [shape.make_ifb(link, tenant), *shape.shape(link, link.ifb, limit, None)]
        return [*made, *shape.add_ingress(link), caught]
    requests: list[Netlink] = []
    if wanted.priority != redirect.priority:
        requests += [caught, shape.remove_filter(link, redirect.preference)]
    if wanted.limit != _now(link, direction).limit:
        requests += shape.shape(link, redirect.ifb, limit, redirect.shaper)
    return requests


def _take_away(link: Link, redirect: Redirect) -> list[Netlink]:
    ingress = [shape.remove_ingress(link)] if link.ingress_ours and not link.ingress_filters else []
    return [
        shape.open_up(link, redirect.ifb),
        shape.remove_filter(link, redirect.preference),
        *ingress,
        shape.remove_ifb(link, redirect.ifb),
    ]


def _make(link: Link, direction: str, wanted: _Wanted, tenant: str) -> Steps[None]:
    """Send the requests of one direction. What was begun anew and failed is taken back.

    :raise HostError: the kernel refused; then nothing of ours is left that was not there before.
    """
    fresh = _shaper(link, direction) is None
    done: list[Netlink] = []
    for request in _requests(link, direction, wanted, tenant):
        if done and done[-1].operation == "class.replace" and request.operation.endswith(".delete"):
            yield Wait((), _DRAIN_S)
        try:
            yield from _send(request, wanted)
        except RingfenceError as error:
            if fresh:
                yield from _take_back(link, done, error)
            elif done:
                error.add_state(f"{direction} of {link.name} is half changed; set it again")
            raise
        done.append(request)


def _send(request: Netlink, wanted: _Wanted) -> Steps[None]:
    try:
        yield request
    except HostError as error:
        if request.arguments.get("kind") != shape.FAIR or error.errno != _ENOENT:
            raise
        rate = wanted.limit.rate_bits_per_s if wanted.limit else LINE_BITS_PER_S
        netns, dev = request.arguments["netns"], request.arguments["dev"]
        yield shape.bounded_leaf(int(str(netns)), str(dev), rate)


def _take_back(link: Link, done: list[Netlink], error: RingfenceError) -> Steps[None]:
    """Undo what a first limit had put in place before it failed, last things first."""
    for request in reversed(done):
        undo: Netlink | None = None
        if request.operation == "link.add":
            undo = shape.remove_ifb(link, link.ifb)
        elif request.operation == "qdisc.add" and request.arguments["kind"] == "ingress":
            undo = shape.remove_ingress(link)
        elif request.operation == "qdisc.add" and request.arguments["dev"] == link.name:
            undo = shape.remove_root(link, link.name)
        if undo is not None:
            try:
                yield undo
            except HostError as second:
                error.add_state(f"{request.arguments['dev']} could not be put back ({second.message})")


def _again(link: Link) -> Steps[Link]:
    wiring: Wiring = yield Netlink("wiring")
    for found in wiring.links:
        if (found.netns, found.ifindex) == (link.netns, link.ifindex):
            return found
    raise HostError(f"{link.name} is gone", path=link.name, hint="`ringfence show` tells what there is")


def _alike(wanted: _Wanted, now: _Wanted) -> bool:
    """Whether the kernel holds what was wanted: it counts in whole bytes a second, and bursts in ticks."""
    if wanted.limit is None or now.limit is None:
        return wanted == now
    pairs = zip(wanted.limit, now.limit, strict=True)
    near = all((a is None) == (b is None) and abs((a or 0) - (b or 0)) <= max(8, (a or 0) // 50) for a, b in pairs)
    return near and wanted.priority == now.priority
