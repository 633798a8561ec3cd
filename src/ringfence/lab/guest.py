"""Lab guests: real Linux VMs that boot in seconds, run on after the command that made them, and leave nothing."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ringfence.errors import AgentAbsentError, GuestError, HostError, MonitorError, UsageError
from ringfence.lab.image import Image, ensure_image
from ringfence.qemu import accel, launch, running
from ringfence.qemu.disks import Disk, takes_direct_io
from ringfence.qemu.files import Files, files_of, home
from ringfence.qemu.paths import cache_dir
from ringfence.units import GIB, MIB

if TYPE_CHECKING:
    from ringfence.qemu.agent import AgentRun

TOOLS_SERIAL = "ringfence-tools"
"""By this `init.sh` knows the disk of tools among the others."""

BOOT_TIMEOUT_S = 120.0
"""A guest under TCG answers 3 s after its start on an idle core; this is for a machine that is very busy."""

_KIND = "lab"
_STATE = "guest.json"
_QUIT_WITHIN_S = 5.0
_AGENT_TRY_S = 1.0
_TAIL_LINES = 20
_TOOLS_SLOT = (
    "0x1e"  # behind every device that gets its slot from QEMU, so that the first disk of the guest is vda
)
_QEMU_START_S = 30.0
_AS_OTHERS = ("sh", "-c", 'echo 0 >/proc/self/oom_score_adj; exec "$@"', "sh")
"""The agent is spared when the guest runs out of memory, and its children would be too."""


class GuestSpec(NamedTuple):
    """What a lab guest shall be.

    :param vcpus: at the start; `vcpus_max` is how many there can be.
    :param virtio_mem_bytes: what a virtio-mem device can give on top; 0 for no such device.
    :param disks_bytes: sizes of empty disks, the first is the guest's /dev/vda.
    :param served_disks: NBD URIs; they come behind the empty ones.
    :param accel: `auto`, or a value for QEMU's `-accel`.
    :param machine: `q35` or `pc`.
    :param qemu: the QEMU program; empty for the one installed.
    :param kernel_options: added to the kernel's command line, see the head of `init.sh`.
    :param extra: QEMU arguments, which win over what this spec would give.
    """

    name: str
    vcpus: int = 1
    vcpus_max: int = 4
    memory_bytes: int = 512 * MIB
    memory_max_bytes: int = 4 * GIB
    virtio_mem_bytes: int = 0
    disks_bytes: Sequence[int] = ()
    served_disks: Sequence[str] = ()
    accel: str = accel.AUTO
    machine: str = "q35"
    qemu: str = ""
    deflate_on_oom: bool = True
    free_page_reporting: bool = True
    kernel_options: Sequence[str] = ()
    extra: Sequence[str] = ()


class Guest:
    """A lab guest that was started, perhaps by another process. Get one from `up` or `find_guest`.

    :ivar name: as QEMU's `-name` says it.
    :ivar files: its sockets and files.
    :ivar accel: what it runs under.
    """

    def __init__(self, directory: Path) -> None:
        self.name = directory.name
        self.files = Files(directory)
        state = _read_state(directory)
        self.accel = str(state.get("accel", ""))
        self.memory_bytes = int(state.get("memory_bytes", 0))
        self._disks = str(state.get("disks", ""))

    @property
    def pid(self) -> int | None:
        """QEMU's process, None when it has ended."""
        return running.holder(self.files.pidfile)

    def console(self, lines: int = _TAIL_LINES) -> str:
        """The last lines that the guest wrote to its serial console."""
        try:
            text = self.files.serial.read_text(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.replace("\r", "").splitlines()[-lines:])

    async def run(self, command: str | Sequence[str], *, stdin: bytes = b"", timeout_s: float = 60.0) -> AgentRun:
        """Run a command in the guest, as root, and wait for its end.

        :param command: arguments, or a text for the guest's shell.
        :return: its outputs and its exit code, which is the caller's to judge.
        :raise AgentAbsentError: the guest does not answer.
        :raise GuestError: the agent refused, or the command did not end within `timeout_s` (it may run on).
        """
        from ringfence.qemu.agent import AgentSession

        argv = ["sh", "-c", command] if isinstance(command, str) else list(command)
        async with await AgentSession.open(self.files.agent) as agent:
            return await agent.run([*_AS_OTHERS, *argv], stdin=stdin, timeout_s=timeout_s)

    async def down(self) -> None:
        """End the guest and remove all it had: sockets, disks, logs. Nothing happens when it is gone already.

        :raise HostError: the process does not end, even when killed. Its files stay.
        """
        if self.pid is not None:
            await self._quit()
        if not await asyncio.to_thread(running.stop, self.files.pidfile, grace_s=_QUIT_WITHIN_S):
            raise HostError(
                f"QEMU of {self.name} (pid {self.pid}) does not end, even when killed",
                state="its files were left in place",
                hint="the process hangs in the kernel; look at its stack in /proc/PID/stack",
            )
        if self._disks:
            await asyncio.to_thread(shutil.rmtree, self._disks, ignore_errors=True)
        await asyncio.to_thread(shutil.rmtree, self.files.directory, ignore_errors=True)

    async def _quit(self) -> None:
        """Ask QEMU to end; without success the signals come next."""
        from ringfence.qemu.session import Session

        try:
            async with await Session.open(self.files.qmp_tools) as session:
                await session.execute("quit")
        except MonitorError:
            return
        await asyncio.to_thread(running.wait_gone, self.files.pidfile, timeout_s=_QUIT_WITHIN_S)


async def up(
    spec: GuestSpec, *, say: Callable[[str], None] = lambda _: None, timeout_s: float = BOOT_TIMEOUT_S
) -> Guest:
    """Start a guest and wait until its agent answers. It runs on until `Guest.down`.

    With `ringfence.agent=0` among the kernel's options it waits for the end of the boot instead.

    :param say: takes one line before each long step; after a failed boot also the end of the serial console.
    :raise UsageError: the name is taken, or the spec cannot be.
    :raise HostError: the image cannot be made, or QEMU does not start.
    :raise GuestError: the guest did not boot within `timeout_s`.

    After an error nothing is left behind.
    """
    files = files_of(_KIND, spec.name)
    spec = spec._replace(qemu=spec.qemu or launch.installed_qemu())
    balloon = await asyncio.to_thread(launch.device_properties, spec.qemu, launch.BALLOON)
    backend: frozenset[str] = frozenset()
    if spec.virtio_mem_bytes:
        backend = await asyncio.to_thread(launch.object_properties, spec.qemu, launch.RAM_BACKEND)
    chosen = await asyncio.to_thread(accel.choose, spec.qemu, spec.accel)
    image = await asyncio.to_thread(ensure_image, say)
    directory = files.directory
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        raise UsageError(
            f"there is a guest {spec.name} already", hint=f"ringfence lab down {spec.name}, or choose another name"
        ) from None
    say(f"starting {spec.name} under {chosen.name} ({chosen.reason})")
    try:
        disks = _make_disks(spec)
        state = {"accel": chosen.name, "memory_bytes": spec.memory_bytes, "disks": disks, "image": image.key}
        (directory / _STATE).write_text(json.dumps(state) + "\n")
        options = _options(spec._replace(accel=chosen.name), image, disks)
        await _to_the_end(_start, launch.command_line(options, balloon, backend))
        await _booted(spec, Guest(directory), timeout_s)
    except BaseException as error:
        failed = Guest(directory)
        if isinstance(error, GuestError):
            say(f"the end of the serial console of {spec.name}:\n{failed.console()}")
        await asyncio.shield(failed.down())
        raise
    return Guest(directory)


def find_guest(name: str) -> Guest:
    """The lab guest of this name, running or not.

    :raise UsageError: there is none.
    """
    directory = files_of(_KIND, name).directory
    if not directory.is_dir():
        known = ", ".join(guest.name for guest in list_guests()) or "none"
        raise UsageError(f"there is no lab guest {name!r}", hint=f"there are: {known}; ringfence lab up makes one")
    return Guest(directory)


def list_guests() -> tuple[Guest, ...]:
    """All lab guests of this user, by name, those that ended by themselves among them."""
    return tuple(Guest(path) for path in sorted(home(_KIND).iterdir()) if path.is_dir())


def _read_state(directory: Path) -> dict[str, Any]:
    """What `up` noted; nothing when it was interrupted before."""
    try:
        found = json.loads((directory / _STATE).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _make_disks(spec: GuestSpec) -> str:
    """Empty files below the cache, as the directory for sockets may lie in memory; gives their directory."""
    import tempfile

    if not spec.disks_bytes:
        return ""
    base = cache_dir() / "lab" / "disks"
    base.mkdir(parents=True, exist_ok=True)
    made = tempfile.mkdtemp(prefix=f"{spec.name}-", dir=base)
    try:
        for number, size_bytes in enumerate(spec.disks_bytes):
            with open(f"{made}/disk{number}.raw", "wb") as file:
                file.truncate(size_bytes)
    except OSError as error:
        shutil.rmtree(made, ignore_errors=True)
        raise HostError(
            f"cannot make a disk of {size_bytes} bytes: {error.strerror}",
            path=made,
            errno=error.errno or 0,
            hint="choose a smaller one, or set XDG_CACHE_HOME to a file system that can hold it",
        ) from error
    return made


def _options(spec: GuestSpec, image: Image, disks: str) -> launch.VmOptions:
    images = [f"{disks}/disk{number}.raw" for number in range(len(spec.disks_bytes))]
    return launch.VmOptions(
        name=spec.name,
        files=files_of(_KIND, spec.name),
        memory_bytes=spec.memory_bytes,
        memory_max_bytes=max(spec.memory_bytes + spec.virtio_mem_bytes, spec.memory_max_bytes),
        virtio_mem_bytes=spec.virtio_mem_bytes,
        qemu=spec.qemu,
        machine=spec.machine,
        accel=spec.accel,
        vcpus=spec.vcpus,
        vcpus_max=max(spec.vcpus, spec.vcpus_max),
        disks=[*(Disk(file, direct=takes_direct_io(file)) for file in images), *map(Disk, spec.served_disks)],
        deflate_on_oom=spec.deflate_on_oom,
        free_page_reporting=spec.free_page_reporting,
        extra=(*_boot_arguments(spec, image), *spec.extra),
    )


def _boot_arguments(spec: GuestSpec, image: Image) -> list[str]:
    kernel = ("console=ttyS0", "quiet", "panic=-1", "memhp_default_state=online_movable", *spec.kernel_options)
    tools = str(image.tools).replace(",", ",,")
    return [
        *("-nodefaults", "-no-user-config", "-no-reboot", "-daemonize"),
        # A file without bound: a lab guest is the user's own, and a boot that fails is told by it.
        *("-serial", f"file:{files_of(_KIND, spec.name).serial}".replace(",", ",,")),
        *("-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", " ".join(kernel)),
        *("-drive", f"if=none,id=tools,file={tools},format=raw,readonly=on"),
        *("-device", f"virtio-blk-pci,id=tools,drive=tools,serial={TOOLS_SERIAL},addr={_TOOLS_SLOT}"),
    ]


async def _to_the_end(call: Callable[[list[str]], None], argument: list[str]) -> None:
    """Call in a thread, and wait for it even when cancelled: what comes after a cancellation must not meet it."""
    task = asyncio.ensure_future(asyncio.to_thread(call, argument))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _start(line: Sequence[str]) -> None:
    """Start QEMU, which puts itself into the background once its monitors listen."""
    import subprocess

    try:
        done = subprocess.run(
            line, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_QEMU_START_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise HostError(f"{line[0]} did not start within {_QEMU_START_S:g} s", path=line[0]) from error
    except OSError as error:
        raise launch.missing_qemu(line[0], error) from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise HostError(
            f"QEMU did not start: {lines[-1]}",
            path=line[0],
            hint="check --qemu, --machine, --accel and the arguments behind `--`",
        )


async def _booted(spec: GuestSpec, guest: Guest, timeout_s: float) -> None:
    from ringfence.qemu.agent import AgentSession

    waits_for_agent = "ringfence.agent=0" not in spec.kernel_options
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while loop.time() < deadline:
        if guest.pid is None:
            raise GuestError(f"QEMU of {spec.name} ended while the guest booted", hint="see its console above")
        if waits_for_agent:
            try:
                async with await AgentSession.open(guest.files.agent, timeout_s=_AGENT_TRY_S):
                    return
            except AgentAbsentError:
                await asyncio.sleep(0.05)
        elif "ringfence: guest is up" in guest.console():
            return
        else:
            await asyncio.sleep(0.1)
    raise GuestError(
        f"{spec.name} did not boot within {timeout_s:g} s",
        hint="see its console above; on a busy machine allow more time, and try --accel tcg",
    )
