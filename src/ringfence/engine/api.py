"""The Python API: hosts, VMs, knobs.

async with ringfence.connect() as host:
    vm = await host.vm("web1")
    for observation in await vm.show():
        print(observation.key, observation.actual)
    results = await vm.set({"memory.target": "2GiB", "disk.vda.iops": 100})
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType

from ringfence.core.knob import Knob, Observation, Part
from ringfence.core.model import Vm
from ringfence.engine import changes, turns
from ringfence.engine.changes import Result, Step
from ringfence.engine.doors import GREETING_TIMEOUT_S, open_session
from ringfence.engine.driver import ANSWER_TIMEOUT_S, Edges, ProgressCallback, no_progress, observe
from ringfence.knobs import registry

DEFAULT_TIMEOUT_S = 60.0
"""A guest of some GiB gives back half its memory in a few seconds; a minute without an end is a stuck guest."""


class OpenVm:
    """A VM with an open monitor. Nothing is changed by opening or closing it."""

    def __init__(self, info: Vm, edges: Edges) -> None:
        self.info = info
        self.edges = edges

    async def parts(self) -> list[tuple[Knob, tuple[Part, ...]]]:
        """Every knob with its parts on this VM.

        :raise MonitorError: QEMU went away, does not answer, or answers what cannot be read.
        """
        return [(knob, await observe(knob.observe(), self.edges)) for knob in registry.knobs()]

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
        return await changes.plan(self.edges, values, force=force)

    async def apply(
        self,
        steps: list[Step],
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        force: bool = False,
        progress: ProgressCallback = no_progress,
    ) -> list[Result]:
        """Carry out what `plan` gave; one Result a key. Raises nothing for what fails on the way.

        When the task is cancelled, what is under way is left as it is; `interrupt` leaves order.
        """
        return await changes.apply(self.edges, steps, timeout_s=timeout_s, force=force, progress=progress)

    def interrupt(self) -> None:
        """Have a change that is under way end soon, and later ones not begin; their results say so.

        What the guest had reached becomes its target, and what was switched on for the change is switched off. To
        be called in the loop's thread, such as by a signal handler of the loop. It lasts: open the VM anew.
        """
        self.edges.interrupt()

    async def set(
        self,
        values: Mapping[str, str | int | float | None],
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        force: bool = False,
        progress: ProgressCallback = no_progress,
    ) -> list[Result]:
        """`plan` and `apply`: all keys are checked before the first is changed. One Result a key, in that order.

        :raise UsageError: something is wrong with a key or value; nothing was changed.
        :raise TenantError: this VM cannot do it as it was started; nothing was changed.
        """
        async with self.turn(values):
            steps = await self.plan(values, force=force)
            return await self.apply(steps, timeout_s=timeout_s, force=force, progress=progress)

    def turn(self, keys: Iterable[str]) -> AbstractAsyncContextManager[None]:
        """The turn to plan and apply changes of these keys, see `turns.turn`; `set` takes it by itself."""
        return turn(self.info, keys)

    async def close(self) -> None:
        """Release the monitor and the agent; limits stay."""
        await self.edges.close()

    async def __aenter__(self) -> OpenVm:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def turn(vm: Vm, keys: Iterable[str]) -> AbstractAsyncContextManager[None]:
    """The turn to change these keys of a VM, see `turns.turn`."""
    where = vm.pid or f"at-{vm.name.replace('/', '-')[-100:]}"
    # A pool's numbers are those of its disks.
    kinds = {key.partition(".")[0].replace("pool", "disk") for key in keys}
    return turns.turn(str(where), kinds)


async def open_vm(
    info: Vm, *, greeting_timeout_s: float = GREETING_TIMEOUT_S, answer_timeout_s: float = ANSWER_TIMEOUT_S
) -> OpenVm:
    """Open the first of the VM's QMP sockets that greets; see `doors.open_session` for errors.

    :param greeting_timeout_s: how long a socket may take to greet.
    :param answer_timeout_s: how long QEMU may take to answer: each change, and all questions about one knob.
    """
    session = await open_session(info, timeout_s=greeting_timeout_s)
    return OpenVm(info, Edges(session, info.agent, info.pid, answer_timeout_s=answer_timeout_s))


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
    """This host, as an async context manager."""
    return Host()
