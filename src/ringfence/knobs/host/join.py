"""PURE: threads that came later join the groups of those before them.

A thread begins in the group of the one that made it: a plugged vCPU's is made by the emulator's, so it is in the
VM's own group from the start, and outside of the group of the vCPUs.
"""

from __future__ import annotations

from ringfence.core.host import Placement
from ringfence.core.requests import Placement as AskPlacement
from ringfence.core.requests import Steps
from ringfence.knobs.host import threads, vcpu_groups
from ringfence.knobs.host.home import home_of


def join() -> Steps[int]:
    """Bring stray vCPUs into their group; gives how many there were.

    :raise HostError: the kernel refuses; those before it have joined.
    """
    placement: Placement = yield AskPlacement()
    home = home_of(placement, "cpu")
    if home is None or not home.exists:
        return 0
    requests = vcpu_groups.strays(home, threads.vcpus((yield from threads.tasks("cpu"))))
    yield from requests
    return len(requests)
