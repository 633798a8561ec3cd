"""PURE: threads that came later join the groups of those before them, and run on their CPUs.

A thread begins in the group of the one that made it: a plugged vCPU's is made by the emulator's, so it is in the
VM's own group from the start, and outside of the group of the vCPUs.
"""

from __future__ import annotations

from ringfence.core.host import Placement
from ringfence.core.requests import GetAffinity, HostRequest, Steps
from ringfence.core.requests import Placement as AskPlacement
from ringfence.knobs.host import threads, vcpu_groups
from ringfence.knobs.host.home import home_of
from ringfence.knobs.host.pin import strays


def join() -> Steps[int]:
    """Bring stray vCPUs into their group; gives how many there were.

    :raise HostError: the kernel refuses; those before it have joined.
    """
    placement: Placement = yield AskPlacement()
    home = home_of(placement, "cpu")
    vcpus = threads.vcpus((yield from threads.tasks("cpu")))
    requests: list[HostRequest] = list(vcpu_groups.strays(home, vcpus)) if home is not None and home.exists else []
    tids = [task.tid for task in vcpus.values()]
    masks = yield [GetAffinity(tid) for tid in tids]
    requests += strays(vcpus, dict(zip(tids, masks, strict=True)))
    yield from requests
    return len(requests)
