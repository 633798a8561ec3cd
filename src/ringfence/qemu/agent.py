"""The guest agent, over the host's end of its channel.

Protocol: docs/interop/qemu-ga in QEMU. There is no greeting, older agents put no id into answers, and what an
earlier client did not read is still in the channel; hence a conversation, and what follows a missed deadline,
begins with `guest-sync-delimited`: whatever comes before its answer is not ours. Nothing here trusts the guest.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ringfence.errors import AgentAbsentError, AgentRefusedError, GuestError
from ringfence.qemu import sockets

if TYPE_CHECKING:
    from types import TracebackType

    from ringfence.core.model import Address

_DELIMITER = b"\xff"  # never part of JSON; makes the agent forget a command it had half read
_ANSWER_BYTES = 48 * 2**20  # the agent keeps 16 MiB each of a program's two outputs; base64 makes 43 of them
_POLL_FIRST_S = 0.005
_POLL_LAST_S = 0.25
_ABSENT_HINT = "Start qemu-guest-agent in the guest, and see that nothing else, such as libvirt, holds the socket."
_IN_DOUBT = "The command may have taken effect, or may still do so."


class AgentRun(NamedTuple):
    """What became of a program in the guest.

    :param exit_code: minus the signal's number when a signal ended it.
    :param truncated: whether the agent dropped output past its limit of 16 MiB.
    """

    exit_code: int
    stdout: bytes
    stderr: bytes
    truncated: bool = False


class AgentSession:
    """A guest agent that answered. Make one with `open`.

    Commands of several tasks are executed one after the other. It stays usable after an error, except that of a
    closed connection.

    :ivar address: where it is connected.
    """

    def __init__(self, address: Address, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.address = address
        self._reader = reader
        self._writer = writer
        self._turn = asyncio.Lock()
        self._in_step = False  # nothing but the next command's answer can come

    @classmethod
    async def open(cls, address: Address, *, timeout_s: float = 1.0) -> AgentSession:
        """Connect and hear from the agent; both within `timeout_s`.

        :raise AgentAbsentError: nobody listens there, or nothing answers: no agent runs in the guest, or another
            client holds its channel; from outside the two look the same. Nothing is left open.
        """
        session: AgentSession | None = None
        try:
            async with asyncio.timeout(timeout_s):
                connection = await sockets.connect(address)
                session = cls(address, *await asyncio.open_connection(sock=connection, limit=_ANSWER_BYTES))
                await session._synchronise()
        except TimeoutError:
            if session is not None:
                await session.close()
            raise AgentAbsentError(
                f"{address}: no answer within {timeout_s:g} s: no agent runs in the guest, or another client "
                "holds its socket",
                hint=_ABSENT_HINT,
            ) from None
        except OSError as error:
            hint = sockets.PERMISSION_HINT if isinstance(error, PermissionError) else sockets.GONE_HINT
            raise AgentAbsentError(f"{address}: {error.strerror or error}", hint=hint) from None
        except BaseException:
            if session is not None:
                await session.close()
            raise
        return session

    async def __aenter__(self) -> AgentSession:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Give the channel back to other clients. Idempotent, never raises, does not wait for the guest."""
        self._writer.transport.abort()
        await asyncio.sleep(0)  # the socket is closed in the next round of the loop

    async def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, *, timeout_s: float = 5.0
    ) -> Any:
        """Execute one of the agent's commands; gives what stands in the answer's `return`.

        Not for the few commands that do not answer when they succeed, such as `guest-shutdown`.

        :raise AgentRefusedError: the agent answered with an error.
        :raise AgentAbsentError: no answer within `timeout_s` of its turn, or the connection is closed.
        :raise GuestError: what came is not the agent's protocol.
        """
        message: dict[str, object] = {"execute": command}
        if arguments is not None:
            message["arguments"] = arguments
        async with self._turn:
            try:
                async with asyncio.timeout(timeout_s):
                    answer = await self._exchange(message)
            except TimeoutError:
                raise AgentAbsentError(
                    f"{self.address}: no answer to {command} within {timeout_s:g} s",
                    hint="The agent or its guest may be busy or stopped; ask again, or allow more time.",
                    state=_IN_DOUBT,
                ) from None
        if isinstance(answer, dict) and "return" in answer:
            return answer["return"]
        raise self._refusal(command, answer)

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 30.0) -> AgentRun:
        """Run a program in the guest, as the agent's user, and wait for its end.

        :param argv: path (looked up in the agent's PATH) and arguments; no shell is involved.
        :raise AgentRefusedError: the agent cannot start it, or forbids `guest-exec`.
        :raise AgentAbsentError: the agent stopped answering.
        :raise GuestError: it did not end within `timeout_s`; `state` names the process that goes on in the guest.
        """
        from base64 import b64encode

        arguments: dict[str, object] = {"path": argv[0], "arg": list(argv[1:]), "capture-output": True}
        if stdin:
            arguments["input-data"] = b64encode(stdin).decode()
        deadline = time.monotonic() + timeout_s
        started = await self.execute("guest-exec", arguments, timeout_s=timeout_s)
        pid = started.get("pid") if isinstance(started, dict) else None
        if not isinstance(pid, int):
            raise self._nonsense("guest-exec")
        pause_s = _POLL_FIRST_S
        while True:
            left_s = max(deadline - time.monotonic(), _POLL_FIRST_S)
            status = await self.execute("guest-exec-status", {"pid": pid}, timeout_s=left_s)
            if not isinstance(status, dict):
                raise self._nonsense("guest-exec-status")
            if status.get("exited"):
                return self._outcome(status)
            if time.monotonic() + pause_s > deadline:
                raise GuestError(
                    f"{argv[0]} did not end within {timeout_s:g} s in the guest",
                    hint="Allow more time.",
                    state=f"It goes on in the guest as process {pid}.",
                )
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, _POLL_LAST_S)

    def _outcome(self, status: Mapping[str, Any]) -> AgentRun:
        from base64 import b64decode

        try:
            return AgentRun(
                exit_code=-int(status["signal"]) if "signal" in status else int(status["exitcode"]),
                stdout=b64decode(status.get("out-data", "")),
                stderr=b64decode(status.get("err-data", "")),
                truncated=bool(status.get("out-truncated") or status.get("err-truncated")),
            )
        except (KeyError, TypeError, ValueError):
            raise self._nonsense("guest-exec-status") from None

    async def _exchange(self, message: Mapping[str, object]) -> object:
        """Send a command and give the parsed answer, whatever it is."""
        if not self._in_step:
            await self._synchronise()
        self._in_step = False
        self._writer.write(json.dumps(message).encode() + b"\n")
        answer = _parse(await self._line())
        self._in_step = isinstance(answer, dict)
        return answer

    async def _synchronise(self) -> None:
        """Read past everything up to the answer to our own `guest-sync-delimited`."""
        token = time.monotonic_ns()
        sync = {"execute": "guest-sync-delimited", "arguments": {"id": token}}
        self._writer.write(_DELIMITER + json.dumps(sync).encode() + b"\n")
        while True:
            answer = (await self._line()).rpartition(_DELIMITER)[2]
            if _parse(answer) == {"return": token}:
                self._in_step = True
                return

    async def _line(self) -> bytes:
        try:
            line = await self._reader.readline()
        except ValueError:  # longer than the limit
            raise self._nonsense("a command") from None
        except OSError:
            line = b""
        if not line.endswith(b"\n"):
            raise AgentAbsentError(f"{self.address}: the connection is closed", hint=_ABSENT_HINT, state=_IN_DOUBT)
        return line

    def _refusal(self, command: str, answer: object) -> GuestError:
        error = answer.get("error") if isinstance(answer, dict) else None
        if not isinstance(error, dict):
            return self._nonsense(command)
        missing = error.get("class") == "CommandNotFound"
        return AgentRefusedError(
            f"the guest agent refused {command}: {error.get('desc')}",
            hint="The agent is too old for it, or it was disabled in the agent's configuration."
            if missing
            else "",
        )

    def _nonsense(self, command: str) -> GuestError:
        return GuestError(
            f"{self.address}: what came as the answer to {command} is not the guest agent's protocol",
            hint="See that this is the socket of the channel org.qemu.guest_agent.0.",
            state=_IN_DOUBT,
        )


def _parse(line: bytes) -> object:
    """The JSON value, or None when it is none."""
    try:
        value: object = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value
