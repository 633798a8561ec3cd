"""PURE: whether a tenant is worse off for a change: what is read of it, and what of that is distress.

The guest is asked through its agent, a container through its group. What cannot be read is unknown, and no
distress. Pressure right after a change of memory is the change itself (seen at 40 to 85 % while a balloon that did
no harm was filled, and at 0 once it was), so that it counts only when it lasts.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from ringfence.core.answers import fields, number, text
from ringfence.core.requests import Agent, Placement, Qmp, ReadFile, Steps
from ringfence.errors import AgentAbsentError, GuestError, RingfenceError

_ENDED = ("guest-panicked", "internal-error", "io-error", "shutdown")
_SILENT_TWICE = 2
SETTLED_S = 12.0
"""avg10 forgets what was before it in about ten seconds."""
PRESSURE_PERCENT = 40.0
_READ_BYTES = 65536


class Sample(NamedTuple):
    """What is so at one time; None is unknown.

    :param status: QEMU's run state. :param agent: whether the guest's agent answers.
    :param oom_kills: processes that the guest's, or the group's, kernel has killed for want of memory.
    :param stalled_percent: of the last ten seconds in which nothing could run for want of memory (PSI full avg10).
    """

    status: str | None = None
    agent: bool | None = None
    oom_kills: int | None = None
    stalled_percent: float | None = None


def of_vm() -> Steps[Sample]:
    """Read a VM, inside and out."""
    status = text(fields((yield Qmp("query-status")))["status"])
    try:
        yield Agent("guest-ping", timeout_s=3.0)
    except AgentAbsentError:
        return Sample(status, False)
    except GuestError:
        pass  # it answers, and that is what counts
    kills = _vmstat((yield from _guest_file("/proc/vmstat")))
    stalled = _full((yield from _guest_file("/proc/pressure/memory")))
    return Sample(status, True, kills, stalled)


def of_container() -> Steps[Sample]:
    """Read a container's group."""
    try:
        placement = yield Placement()
        group = placement.unified
        if group is None:
            return Sample()
        events = yield ReadFile(f"{group.folder}/memory.events", optional=True)
        pressure = yield ReadFile(f"{group.folder}/memory.pressure", optional=True)
    except RingfenceError:
        return Sample()
    return Sample(oom_kills=_vmstat(events), stalled_percent=_full(pressure))


def _guest_file(path: str) -> Steps[str | None]:
    """The beginning of a file in the guest; None where the agent may not, or there is none."""
    try:
        handle = number((yield Agent("guest-file-open", {"path": path, "mode": "r"})))
    except GuestError:
        return None
    try:
        answer: Mapping[str, Any] = fields(
            (yield Agent("guest-file-read", {"handle": handle, "count": _READ_BYTES}))
        )
        found = base64.b64decode(text(answer["buf-b64"])).decode(errors="replace")
    except GuestError:
        found = None
    with suppress(GuestError):  # it goes with the agent
        yield Agent("guest-file-close", {"handle": handle})
    return found


def _vmstat(text_: str | None) -> int | None:
    """The count of OOM kills in a /proc/vmstat or a memory.events."""
    for line in (text_ or "").splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill" and value.strip().isdecimal():
            return int(value)
    return None


def _full(text_: str | None) -> float | None:
    """avg10 of the `full` line of a pressure file."""
    for line in (text_ or "").splitlines():
        words = line.split()
        if words and words[0] == "full":
            for word in words[1:]:
                if word.startswith("avg10="):
                    try:
                        return float(word.removeprefix("avg10="))
                    except ValueError:
                        return None
    return None


class Guard:
    """Judges one tenant by its samples. :param before: what was so before the change."""

    def __init__(self, before: Sample) -> None:
        self._before = before
        self._silent = 0
        self._pressed = 0

    def judge(self, now: Sample, since_s: float) -> str:
        """Why it is in distress; empty when it is not.

        :param since_s: how long ago the change ended.
        """
        before = self._before
        if now.status in _ENDED and before.status not in _ENDED:
            return f"the guest is {now.status}"
        if now.oom_kills is not None and before.oom_kills is not None and now.oom_kills > before.oom_kills:
            return "its kernel has killed a process for want of memory"
        self._silent = self._silent + 1 if before.agent and now.agent is False else 0
        if self._silent >= _SILENT_TWICE:
            return "its agent does not answer any more"
        pressed = (now.stalled_percent or 0.0) >= PRESSURE_PERCENT > (before.stalled_percent or 0.0)
        self._pressed = self._pressed + 1 if pressed and since_s >= SETTLED_S else 0
        if self._pressed >= _SILENT_TWICE:
            return f"nothing in it could run for {now.stalled_percent:.0f} % of the time, for want of memory"
        return ""
