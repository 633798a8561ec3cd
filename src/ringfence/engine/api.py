"""The Python API: hosts, tenants (VMs and containers), knobs.

async with ringfence.connect() as host:
    vm = await host.vm("web1")
    for observation in await vm.show():
        print(observation.key, observation.actual)
    results = await vm.set({"memory.target": "2GiB", "disk.vda.iops": 100})
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

from ringfence.core.knob import CONTAINER, VM, Knob, Observation, Outcome, Part
from ringfence.core.model import Container, Tenant, Vm
from ringfence.engine import changes, doors, turns
from ringfence.engine.changes import Result, Step
from ringfence.engine.doors import GREETING_TIMEOUT_S, open_session
from ringfence.engine.driver import ANSWER_TIMEOUT_S, Edges, Pause, ProgressCallback, no_progress, observe, sleep
from ringfence.errors import HostError, MonitorBusyError, MonitorError, RingfenceError, TenantError
from ringfence.knobs import registry

if TYPE_CHECKING:
    from ringfence.qemu.door import QmpDoor

DEFAULT_TIMEOUT_S = 60.0
"""A guest of some GiB gives back half its memory in a few seconds; a minute without an end is a stuck guest."""


class OpenVm:
    """A VM, or a container, whose limits can be read and changed. Nothing is changed by opening or closing it.

    :ivar trouble: why some of its knobs could not be read by the last `parts`, such as the monitor's error.
    """

    def __init__(self, info: Tenant, edges: Edges) -> None:
        self.info = info
        self.edges = edges
        self.kind: str = CONTAINER if isinstance(info, Container) else VM
        self.trouble: RingfenceError | None = None

    async def parts(self) -> list[tuple[Knob, tuple[Part, ...]]]:
        """Every knob that concerns it, with its parts; those that cannot be read are left out (see `trouble`).

        :raise RingfenceError: none of them can be read, such as for QEMU that does not answer and a host unknown.
        """
        found: list[tuple[Knob, tuple[Part, ...]]] = []
        self.trouble = None
        for knob in registry.knobs():
            if self.kind not in knob.tenants:
                continue
            try:
                found.append((knob, await observe(knob.observe(), self.edges)))
            except (MonitorError, TenantError, HostError) as error:
                self.trouble = self.trouble or error
                if not isinstance(error, HostError):
                    self.trouble = error
        if self.trouble and not found:
            raise self.trouble
        return found

    async def show(self) -> list[Observation]:
        """Every key of this VM: now, range, mechanism, or why it is not available."""
        return [
            knob.observation(part, row)
            for knob, parts in await self.parts()
            for part in parts
            for row in knob.rows
        ]

    async def plan(self, values: Mapping[str, str | int | float | None], *, force: bool = False) -> list[Step]:
        """Check values and work out the exact requests. Changes nothing; see `changes.plan` for errors."""
        return await changes.plan(self.edges, values, force=force, kind=self.kind)

    async def apply(
        self,
        steps: list[Step],
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        force: bool = False,
        progress: ProgressCallback = no_progress,
        ended: Callable[[Step, Outcome], None] = lambda *_: None,
        watch: bool = False,
    ) -> list[Result]:
        """Carry out what `plan` gave; one Result a key. Raises nothing for what fails on the way.

        :param watch: look on for some seconds where a change may show only then that something went wrong, such as
            a busy disk that does not go on; the results' notes tell.

        With asyncio: when the task is cancelled, what is under way is left as it is; `interrupt` leaves order.
        """
        results = await changes.apply(
            self.edges, steps, timeout_s=timeout_s, force=force, progress=progress, ended=ended
        )
        return await changes.watched(self.edges, steps, results) if watch else results

    def interrupt(self) -> None:
        """Have a change that is under way end soon, and later ones not begin; their results say so.

        What the guest had reached becomes its target, and what was switched on for the change is switched off. It
        lasts: open the VM anew.

        With asyncio: to be called in the loop's thread, such as by a signal handler of the loop.
        """
        self.edges.interrupt()

    async def set(
        self,
        values: Mapping[str, str | int | float | None],
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        force: bool = False,
        progress: ProgressCallback = no_progress,
        watch: bool = False,
    ) -> list[Result]:
        """`plan` and `apply`: all keys are checked before the first is changed. One Result a key, in that order.

        :raise UsageError: something is wrong with a key or value; nothing was changed.
        :raise TenantError: this VM cannot do it as it was started; nothing was changed.
        """
        async with self.turn(values):
            steps = await self.plan(values, force=force)
            return await self.apply(steps, timeout_s=timeout_s, force=force, progress=progress, watch=watch)

    def turn(self, keys: Iterable[str]) -> AbstractAsyncContextManager[None]:
        """The turn to plan and apply changes of these keys, see `turns.turn`; `set` takes it by itself."""
        return turn(self.info, keys, pause=self.edges.pause)

    async def close(self) -> None:
        """Release the monitor and the agent; limits stay."""
        await self.edges.close()

    async def __aenter__(self) -> OpenVm:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def turn(tenant: Tenant, keys: Iterable[str], *, pause: Pause = sleep) -> AbstractAsyncContextManager[None]:
    """The turn to change these keys of a tenant, see `turns.turn`."""
    where: int | str = tenant.pid or f"at-{tenant.name.replace('/', '-')[-100:]}"
    # A pool's numbers are those of its disks.
    kinds = {key.partition(".")[0].replace("pool", "disk") for key in keys}
    return turns.turn(str(where), kinds, pause=pause)


async def open_vm(
    info: Vm, *, greeting_timeout_s: float = GREETING_TIMEOUT_S, answer_timeout_s: float = ANSWER_TIMEOUT_S
) -> OpenVm:
    """Open the first of the VM's QMP sockets that greets; see `doors.open_session` for errors.

    :param greeting_timeout_s: how long a socket may take to greet.
    :param answer_timeout_s: how long QEMU may take to answer: each change, and all questions about one knob.
    """
    session = await open_session(info, timeout_s=greeting_timeout_s)
    return OpenVm(info, Edges(session, info.agent, info.pid, answer_timeout_s=answer_timeout_s, tenant=info))


def open_tenant(
    info: Tenant, *, greeting_timeout_s: float = GREETING_TIMEOUT_S, answer_timeout_s: float = ANSWER_TIMEOUT_S
) -> OpenVm:
    """As `open_vm`, for a VM whose monitor is opened when it is first needed, or for a container without one."""
    if isinstance(info, Container):
        return OpenVm(info, Edges(pid=info.pid, tenant=info, answer_timeout_s=answer_timeout_s))
    opener = partial(open_session, info, timeout_s=greeting_timeout_s)
    edges = Edges(None, info.agent, info.pid, opener=opener, tenant=info, answer_timeout_s=answer_timeout_s)
    return OpenVm(info, edges)


def open_briefly(
    info: Tenant,
    keys: Iterable[str],
    *,
    greeting_timeout_s: float = GREETING_TIMEOUT_S,
    answer_timeout_s: float = ANSWER_TIMEOUT_S,
) -> OpenVm | None:
    """Open a tenant for who has no event loop and awaits with `brief.finish`; None where that is not to be had.

    :param keys: what is to be changed. None says nothing of the tenant: `open_tenant` tells what is wrong with it.
    """
    from ringfence.qemu.brief import pause

    keys = tuple(keys)
    if not registry.are_brief(keys):
        return None
    session: QmpDoor | None = None
    if isinstance(info, Vm) and not registry.are_the_hosts(keys):
        session = doors.open_briefly(info, timeout_s=greeting_timeout_s)
        if session is None:
            return None
    opener = None if isinstance(info, Container) else partial(_open_for_a_question, info)
    edges = Edges(
        session, None, info.pid, answer_timeout_s=answer_timeout_s, pause=pause, opener=opener, tenant=info
    )
    return OpenVm(info, edges)


async def _open_for_a_question(info: Vm) -> QmpDoor:
    """A monitor for knobs of the host, which can do without: only one that is free at once."""
    session = doors.open_briefly(info)
    if session is None:
        raise MonitorBusyError("its monitor does not greet at once")
    return session


class Host:
    """This host's VMs. Closing it releases every VM opened through it."""

    def __init__(self) -> None:
        self._open: list[OpenVm] = []

    def vms(self) -> list[Vm]:
        """Every QEMU process that this user may see."""
        from ringfence.qemu.discovery import find_vms

        return find_vms()

    async def vm(self, selector: str) -> OpenVm:
        """Open a VM by name, UUID or pid.

        :raise UsageError: nobody, or more than one, is called so.
        :raise MonitorError: it cannot be talked to.
        """
        from ringfence.qemu.discovery import find_vm

        opened = await open_vm(find_vm(selector))
        self._open.append(opened)
        return opened

    async def __aenter__(self) -> Host:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._open:
            await self._open.pop().close()


def connect() -> Host:
    """This host, as a context manager."""
    return Host()
