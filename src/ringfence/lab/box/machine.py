"""One QEMU that is a box: its command line, its channels to the agent in it, and its state saved."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import shlex
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ringfence.core.model import Address
from ringfence.errors import GuestError, HostError
from ringfence.lab.box.image import BoxImage
from ringfence.qemu.files import home
from ringfence.qemu.session import Session

BOOT_TIMEOUT_S = 300.0
"""A box with systemd is up 20 s after its start on idle cores; this is for a machine that is very busy."""

_SAVE_TIMEOUT_S = 120.0
_SAVE_BYTES_PER_S = 1 << 30
_STOP_WITHIN_S = 5.0
_CONNECT_TIMEOUT_S = 30.0
_LINE_LIMIT_BYTES = 1 << 20
_TAIL_LINES = 30


_T = TypeVar("_T")


class Hardware(NamedTuple):
    """What the box's QEMU is given; a saved state fits only the hardware it was saved on.

    :param init: a path in the box; empty for systemd.
    :param disks: images, read-only, behind the root disk.
    :param kernel_options: added to the kernel's command line.
    :param gdb: whether QEMU takes a debugger on `Machine.gdb`.
    """

    qemu: str
    accel: str
    image: BoxImage
    init: str = ""
    disks: Sequence[Path] = ()
    memory_mib: int = 2048
    smp: str = "2"
    cpu: str = "max"
    kernel_options: Sequence[str] = ()
    gdb: bool = False


class Start(NamedTuple):
    """How one QEMU is started.

    :param root: the root disk.
    :param keep: whether what is written to it stays; else it is gone with the machine.
    :param state: what `Machine.save` wrote, to go on from.
    :param share: the box's /share.
    :param cache: the box's /cache.
    :param halted: whether the CPUs wait for the debugger.
    """

    root: Path
    share: Path
    cache: Path
    keep: bool = False
    state: Path | None = None
    halted: bool = False


class Machine:
    """A box that runs. Get one from `started`."""

    def __init__(self, folder: Path, process: asyncio.subprocess.Process, channels: _Channels) -> None:
        self._folder = folder
        self._process = process
        self._channels = channels
        self.gdb = folder / "gdb"

    async def ready(self) -> str:
        """Wait until the agent in the box is there; gives the release of its kernel.

        :raise GuestError: it does not come.
        """
        return await self._expect("ready", BOOT_TIMEOUT_S)

    async def prepare(self, script: str, timeout_s: float) -> None:
        """Run a shell script before the state is saved.

        :raise GuestError: it fails, or does not end within `timeout_s`.
        """
        await self._tell("prepare", base64.b64encode(script.encode()).decode())
        status = await self._expect("prepared", timeout_s)
        if status != "0":
            raise GuestError(f"what prepares the box ended with {status}", hint="see its output above")

    async def run(self, script: str, timeout_s: float) -> int:
        """Run a shell script in the box, with /share and /cache mounted; gives its exit status. Once only.

        :raise GuestError: the box ends first, or the script does not end within `timeout_s`.
        """
        await self._tell("run", f"{time.time():.3f}", base64.b64encode(script.encode()).decode())
        status = await self._expect("exit", timeout_s)
        await _end(self._process)
        await self._channels.drained()
        return int(status)

    async def running(self) -> None:
        """Wait until the saved state is loaded, where a debugger's connection would come in between.

        :raise MonitorError: QEMU does not answer.
        """
        await self._or_ended(self._channels.connected.wait(), _CONNECT_TIMEOUT_S)
        async with await Session.open(Address(path=str(self._folder / "qmp"))) as session:
            while True:
                found = await session.execute("query-status", timeout_s=_SAVE_TIMEOUT_S)
                if found["status"] == "running":
                    return
                await asyncio.sleep(0.05)

    async def save(self, state: Path) -> None:
        """Write the state of the box to a file, and end it.

        :raise MonitorError: QEMU refuses.
        :raise HostError: the file cannot be written.
        """
        async with await Session.open(Address(path=str(self._folder / "qmp"))) as session:
            await session.execute("migrate-set-parameters", {"max-bandwidth": _SAVE_BYTES_PER_S})
            await session.execute("migrate", {"uri": f"exec:cat >{shlex.quote(str(state))}"})
            async with asyncio.timeout(_SAVE_TIMEOUT_S):
                while (found := await session.execute("query-migrate"))["status"] != "completed":
                    if found["status"] == "failed":
                        why = found.get("error-desc", "QEMU does not say why")
                        raise HostError(f"the state of the box was not saved: {why}", path=str(state))
                    await asyncio.sleep(0.1)
            await session.execute("quit")
        await _end(self._process)

    def console(self, lines: int = _TAIL_LINES) -> str:
        """The last lines that the kernel and QEMU wrote."""
        text = ""
        for name in ("console.log", "qemu.log"):
            with contextlib.suppress(OSError):
                text += (self._folder / name).read_text(errors="replace")
        return "\n".join(text.replace("\r", "").splitlines()[-lines:])

    async def _tell(self, *words: str) -> None:
        await self._or_ended(self._channels.connected.wait(), _CONNECT_TIMEOUT_S)
        self._channels.tell(" ".join(words))

    async def _expect(self, word: str, timeout_s: float) -> str:
        """The rest of the agent's next line, which must begin with `word`."""
        found = await self._or_ended(self._channels.line(), timeout_s)
        if not found.startswith(f"{word} "):
            raise self._lost("ended")
        return found.removeprefix(f"{word} ")

    async def _or_ended(self, waiting: Coroutine[Any, Any, _T], timeout_s: float) -> _T:
        """What comes of `waiting`.

        :raise GuestError: the box ends first, or `timeout_s` pass.
        """
        wanted = asyncio.ensure_future(waiting)
        ended = asyncio.ensure_future(self._process.wait())
        try:
            done, _ = await asyncio.wait((wanted, ended), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if wanted in done:
                return wanted.result()
            raise self._lost("ended" if ended in done else f"was silent for {timeout_s:g} s")
        finally:
            wanted.cancel()
            ended.cancel()

    def _lost(self, what: str) -> GuestError:
        return GuestError(
            f"the box {what}; the end of its console:\n{self.console()}",
            hint="try again; when it stays so, remove the box from the cache, or look at what ran in it",
        )


@contextlib.asynccontextmanager
async def started(hardware: Hardware, start: Start, output: Callable[[bytes], None]) -> AsyncIterator[Machine]:
    """Start a box. When left, QEMU has ended and its files are gone.

    :param output: takes what commands write.
    :raise HostError: QEMU cannot be run.
    """
    folder = Path(tempfile.mkdtemp(dir=home("box")))
    channels = _Channels(output)
    process = None
    try:
        await channels.listen(folder)
        line = command_line(hardware, start, folder)
        with (folder / "qemu.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *line, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
            )
        yield Machine(folder, process, channels)
    finally:
        if process is not None:
            await asyncio.shield(_end(process))
        await channels.close()
        shutil.rmtree(folder, ignore_errors=True)


async def beside(main: Coroutine[Any, Any, _T], side: Coroutine[Any, Any, None]) -> _T:
    """What comes of `main`, with `side` running until then; an error of either ends both."""
    tasks = wanted, helper = asyncio.ensure_future(main), asyncio.ensure_future(side)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if helper.done():
            helper.result()
        return await wanted
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def command_line(hardware: Hardware, start: Start, folder: Path) -> list[str]:
    """QEMU's, with all its sockets and logs in `folder`."""
    kernel = ["console=ttyS0", "quiet", "panic=-1", "tsc=unstable", "nokaslr", *hardware.kernel_options]
    if hardware.init:
        kernel.append(f"ringfence.init={hardware.init}")
    kept = "cache=unsafe" if start.keep else "snapshot=on"
    line = [
        *(hardware.qemu, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-accel", hardware.accel, "-cpu", hardware.cpu, "-smp", hardware.smp, "-m", str(hardware.memory_mib)),
        *("-kernel", str(hardware.image.kernel), "-initrd", str(hardware.image.initrd)),
        *("-append", " ".join(kernel)),
        *("-serial", _path("file:", folder / "console.log")),
        *("-chardev", _path("socket,id=qmp,server=on,wait=off,path=", folder / "qmp")),
        *("-mon", "chardev=qmp,mode=control"),
        *("-drive", _path(f"if=none,id=disk0,{kept},format={_format(start.root)},file=", start.root)),
        *("-device", "virtio-blk-pci,drive=disk0", "-device", "virtio-serial-pci"),
    ]
    for number, disk in enumerate(hardware.disks, 1):
        options = f"if=none,id=disk{number},readonly=on,format=raw,file="
        line += ["-drive", _path(options, disk), "-device", f"virtio-blk-pci,drive=disk{number}"]
    for name in _Channels.NAMES:
        line += ["-chardev", _path(f"socket,id={name},path=", folder / name)]
        line += ["-device", f"virtserialport,chardev={name},name={name}"]
    for name, shared in (("share", start.share), ("cache", start.cache)):
        line += ["-fsdev", _path(f"local,id={name},security_model=none,path=", shared)]
        line += ["-device", f"virtio-9p-pci,fsdev={name},mount_tag={name}"]
    if hardware.gdb:
        line += [
            "-chardev",
            _path("socket,id=gdb,server=on,wait=off,path=", folder / "gdb"),
            "-gdb",
            "chardev:gdb",
        ]
    if start.halted:
        line.append("-S")
    if start.state is not None:
        line += ["-incoming", f"exec:cat {shlex.quote(str(start.state))}"]
    return line


def _path(options: str, path: Path) -> str:
    return options + str(path).replace(",", ",,")


def _format(image: Path) -> str:
    return "qcow2" if image.suffix == ".qcow2" else "raw"


async def _end(process: asyncio.subprocess.Process) -> None:
    """Its disks are scratch, or were flushed by `quit`: no grace is needed beyond QEMU's own way out."""
    for stop in (process.terminate, process.kill):
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                stop()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _STOP_WITHIN_S)
            return


class _Channels:
    """The host's ends of the box's ports. They listen before QEMU starts: the box never sees them closed."""

    NAMES = ("control", "output")

    def __init__(self, output: Callable[[bytes], None]) -> None:
        self._output = output
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._lines: asyncio.Queue[str] = asyncio.Queue()
        self._control: asyncio.StreamWriter | None = None
        self.connected = asyncio.Event()

    async def listen(self, folder: Path) -> None:
        for name, serve in zip(self.NAMES, (self._serve_control, self._serve_output), strict=True):
            server = await asyncio.start_unix_server(self._kept(serve), folder / name, limit=_LINE_LIMIT_BYTES)
            self._servers.append(server)

    def tell(self, line: str) -> None:
        if self._control is None:
            raise GuestError("the box has closed its control channel", hint="try again")
        self._control.write(f"{line}\n".encode())

    async def line(self) -> str:
        """The next line of the agent; empty when QEMU is gone."""
        return await self._lines.get()

    async def drained(self) -> None:
        """Wait until all that QEMU had written was taken. QEMU has ended."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=_STOP_WITHIN_S)

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        for task in set(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _kept(
        self, serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]
    ) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(serve(reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return take

    async def _serve_control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._control = writer
        self.connected.set()
        with contextlib.suppress(OSError, ValueError):
            while line := await reader.readline():
                self._lines.put_nowait(line.decode(errors="replace").rstrip("\n"))
        self._control = None
        self._lines.put_nowait("")
        writer.close()

    async def _serve_output(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                self._output(data)
        writer.close()
