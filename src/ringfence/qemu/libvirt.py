"""QMP through libvirtd, for a VM whose only monitor libvirtd holds: `virsh qemu-monitor-command`.

One virsh process carries out one burst of commands: 18 ms each, where a socket takes 0.2 ms. What is changed this
way is not in libvirt's own records, and libvirt marks the domain as `tainted: custom-monitor` in its log.

Source: virsh(1), qemu-monitor-command and qemu-monitor-event.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ringfence.errors import (
    MonitorError,
    MonitorGoneError,
    MonitorProtocolError,
    MonitorRefusedError,
    MonitorTimeoutError,
)
from ringfence.qemu import sockets
from ringfence.qemu.hmp_text import check_line, unix_lines
from ringfence.qemu.managers import is_own_socket

if TYPE_CHECKING:
    from types import TracebackType

    from ringfence.core.model import Vm
    from ringfence.qemu.libvirt_events import LibvirtListener
    from ringfence.qemu.schema import Schema

_SYSTEM = ("/var/lib/libvirt/", "/run/libvirt/", "/var/run/libvirt/")
_IN_DOUBT = "The command may have taken effect, or may still do so."


def uri_of(vm: Vm) -> str:
    """The libvirt that runs this VM: root's, or that of a user's session."""
    own = [address.path for address in vm.qmp_addresses if is_own_socket(address)]
    return "qemu:///session" if own and not own[0].startswith(_SYSTEM) else "qemu:///system"


class LibvirtSession:
    """What `session.Session` is, by way of libvirtd. Make one with `open`.

    It holds nothing open between commands, so there is nothing to be busy; commands of several tasks may run at a
    time, and libvirtd carries them out one after the other.

    :ivar address: prints as the libvirt that is asked.
    :ivar greeting: as in a greeting of QEMU: `version`; no capabilities.
    """

    def __init__(self, uri: str, uuid: str, pid: int) -> None:
        """:param pid: QEMU's, whose end is the session's; 0 when it is not known."""
        self.address = f"libvirt at {uri}"
        self.greeting: Mapping[str, Any] = {}
        self._uri = uri
        self._uuid = uuid
        self._pid = pid
        self._schema: Schema | None = None
        self._listeners: set[LibvirtListener] = set()

    @classmethod
    async def open(cls, vm: Vm, *, timeout_s: float = 2.0) -> LibvirtSession:
        """Ask libvirtd for QEMU's version, to see that it answers.

        :raise MonitorError: virsh is not installed, or libvirtd does not let this user do it, or is not there.
        :raise MonitorTimeoutError: no answer within `timeout_s`.
        """
        session = cls(uri_of(vm), vm.uuid, vm.pid)
        await session.reopen(timeout_s=timeout_s)
        return session

    async def reopen(self, *, timeout_s: float = 2.0) -> None:
        """See that libvirtd answers: there is no connection that could have broken. Errors as in `open`."""
        version = await self.execute("query-version", timeout_s=timeout_s)
        self.greeting = {"version": version, "capabilities": []}

    async def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, *, timeout_s: float = 5.0
    ) -> Any:
        """See `Session.execute`."""
        (message,) = await self._ask([_wire(command, arguments)], command, timeout_s)
        return _value(command, message)

    async def execute_all(
        self, commands: Sequence[tuple[str, Mapping[str, object] | None]], *, timeout_s: float = 5.0
    ) -> list[Any]:
        """See `Session.execute_all`."""
        if not commands:
            return []
        names = [command for command, _ in commands]
        messages = await self._ask([_wire(*command) for command in commands], ", ".join(names), timeout_s)
        return [_value(name, message) for name, message in zip(names, messages, strict=True)]

    async def hmp(self, line: str, *, timeout_s: float = 10.0) -> str:
        """See `Session.hmp`."""
        check_line(line)
        text = await self.execute("human-monitor-command", {"command-line": line}, timeout_s=timeout_s)
        return unix_lines(str(text))

    async def schema(self) -> Schema:
        """See `Session.schema`."""
        if self._schema is None:
            from ringfence.qemu.schema import Schema

            self._schema = Schema(await self.execute("query-qmp-schema"))
        return self._schema

    def listen(self, events: Collection[str] = ()) -> LibvirtListener:
        """See `Session.listen`; it begins some 20 ms late, when virsh has told libvirtd that we listen."""
        from ringfence.qemu.libvirt_events import LibvirtListener

        words = virsh(self._uri, "qemu-monitor-event", "--domain", self._uuid, "--loop", "--timestamp")
        return LibvirtListener(words, self._pid, frozenset(events), self._listeners)

    async def close(self) -> None:
        """End what listens. Idempotent, never raises."""
        for listener in list(self._listeners):
            await listener.close()

    async def __aenter__(self) -> LibvirtSession:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _ask(self, lines: Sequence[str], what: str, timeout_s: float) -> list[Any]:
        """The answers to commands, in order."""
        if len(lines) == 1:
            words = ["qemu-monitor-command", self._uuid, lines[0]]
        else:
            # One word is a script. JSON can do without the quote that would end the quoted word in it.
            quoted = [line.replace("'", "\\u0027") for line in lines]
            words = [";".join(f"qemu-monitor-command {self._uuid} '{line}'" for line in quoted)]
        try:
            async with asyncio.timeout(timeout_s):
                code, out, err = await _run(virsh(self._uri, *words))
        except TimeoutError:
            raise MonitorTimeoutError(
                f"{self.address}: no answer to {what} within {timeout_s:g} s",
                hint="libvirtd may be busy with this VM; ask again, or allow more time.",
                state=_IN_DOUBT,
            ) from None
        answers = [line for line in out.splitlines() if line.strip()]
        if code:
            raise self._failed(err, done=len(answers))
        if len(answers) != len(lines):
            raise MonitorProtocolError(f"{self.address}: {len(answers)} answers to {what}", state=_IN_DOUBT)
        try:
            return [json.loads(answer) for answer in answers]
        except ValueError:
            raise MonitorProtocolError(
                f"{self.address}: the answer to {what} is not JSON", state=_IN_DOUBT
            ) from None

    def _failed(self, err: str, *, done: int) -> MonitorError:
        lines = [line.removeprefix("error: ").strip() for line in err.splitlines() if line.strip()]
        state = _IN_DOUBT if done else ""
        if self._pid and not _runs(self._pid):
            return MonitorGoneError(f"{self.address}: the VM has ended", hint=sockets.GONE_HINT, state=state)
        return MonitorError(
            f"{self.address}: {'; '.join(lines) or 'virsh failed and gave no reason'}",
            hint="See whether `virsh list` works for this user: root, or a member of the group libvirt.",
            state=state,
        )


def virsh(uri: str, *words: str) -> list[str]:
    """A command line of virsh."""
    return ["virsh", "-q", "-c", uri, *words]


async def start(words: Sequence[str]) -> asyncio.subprocess.Process:
    """Start virsh, in a session of its own: without a terminal it asks for no password, nor heeds Ctrl-C.

    :raise MonitorError: it is not installed.
    """
    pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    try:
        return await asyncio.create_subprocess_exec(
            *words, stdin=null, stdout=pipe, stderr=pipe, start_new_session=True, limit=1 << 24
        )
    except OSError as error:
        raise MonitorError(
            f"virsh cannot be run ({error.strerror})",
            hint="libvirtd holds this VM's monitor, and virsh is the way through it: "
            "install it (libvirt-clients), or give the VM a second -qmp socket.",
        ) from None


async def end(process: asyncio.subprocess.Process) -> None:
    """Kill virsh, and read its pipes to their ends: only then is nothing of it left in the loop."""
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.communicate()


async def _run(words: Sequence[str]) -> tuple[int, str, str]:
    process = await start(words)
    try:
        out, err = await process.communicate()
    except BaseException:
        await end(process)
        raise
    return process.returncode or 0, out.decode(errors="replace"), err.decode(errors="replace")


def _wire(command: str, arguments: Mapping[str, object] | None) -> str:
    message: dict[str, object] = {"execute": command}
    if arguments:
        message["arguments"] = arguments
    return json.dumps(message, separators=(",", ":"))


def _value(command: str, message: Any) -> Any:
    if isinstance(message, dict):
        if "return" in message:
            return message["return"]
        error = message.get("error")
        if isinstance(error, dict) and {"class", "desc"} <= error.keys():
            raise MonitorRefusedError(f"QEMU refused {command}: {error['desc']}", error_class=error["class"])
    raise MonitorProtocolError(f"the answer to {command} that virsh gave is not QMP", state=_IN_DOUBT)


def _runs(pid: int) -> bool:
    import os

    return os.path.exists(f"/proc/{pid}")
