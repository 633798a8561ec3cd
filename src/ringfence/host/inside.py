"""A VM that is started inside its own group: what it uses is charged there from its first page on."""

from __future__ import annotations

import os

from ringfence.core.host_requests import Systemd
from ringfence.errors import HostError
from ringfence.host import made_groups, systemd
from ringfence.host.edge import HostEdge
from ringfence.knobs.host.home import Do, home_of, why_not

CONTROLLERS = ("cpu", "memory", "pids", "blkio", "io")


def enter(name: str) -> str:
    """Put this process, which is about to become a VM, into a group of its own.

    What could not be made is left out: a limit of that kind makes a group when it is set.

    :return: why it has no group for its memory; empty when it has one.
    """
    edge = HostEdge(pid=os.getpid(), name=name)
    trouble = ""
    for controller in CONTROLLERS:
        placement = edge.placement()
        home = home_of(placement, controller)
        if home is None or home.exists or why_not(placement, controller):
            continue
        if not home.unit:
            made_groups.sweep(os.path.dirname(home.folder))
        try:
            for step in home.making:
                _carry_out(edge, step)
        except HostError as error:
            if controller == "memory":
                trouble = error.message
    return trouble


def _carry_out(edge: HostEdge, step: Do) -> None:
    if isinstance(step.request, Systemd):
        systemd.call_now(step.request)
        edge.wait_for_unit(step.request.unit)
    else:
        edge.answer_now(step.request)
