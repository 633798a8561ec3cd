"""A QMP session for one burst of commands, without an event loop.

`ringfence set VM disk.vda.iops=100` as a whole process is mostly imports, and asyncio with the QMP library on top
of it was half of them. A change that waits for no event and asks no guest needs neither: it sends, and reads until
all is answered. Whatever is not plain here (a socket that does not greet at once, a manager's own, TCP) is left to
`Session`.
"""

from __future__ import annotations

import json
import select
import time
from collections.abc import Collection, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from ringfence.errors import MonitorBusyError, MonitorError, MonitorProtocolError
from ringfence.qemu import replies, sockets, wire

if TYPE_CHECKING:
    import socket

    from ringfence.core.model import Address
    from ringfence.qemu.door import Events
    from ringfence.qemu.schema import Schema

_LINE_BYTES_MAX = 10 * 1024 * 1024  # as in the QMP library; QEMU's longest answer, its schema, has 0.2 MB

T = TypeVar("T")


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """What a coroutine gives that awaits nothing but sessions of this kind, and `pause`."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise RuntimeError("this waits for an event loop, and there is none")


async def pause(seconds: float) -> None:
    """What `asyncio.sleep` is elsewhere."""
    time.sleep(seconds)  # noqa: ASYNC251 - there is no loop that it could hold up


class BriefSession:
    """What `session.Session` is, for one task at a time: its methods are coroutines which never suspend.

    Events are passed over. Make one with `open`.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.greeting: Mapping[str, Any] = {}
        self._socket: socket.socket | None = None
        self._unread = bytearray()
        self._overdue: set[int] = set()

    @classmethod
    def open(cls, address: Address, *, timeout_s: float) -> BriefSession:
        """Connect to a unix socket, await the greeting, negotiate, all within `timeout_s`. Errors as in `Session`.

        After an error nothing is left open.
        """
        session = cls(address)
        session._open(timeout_s)
        return session

    async def reopen(self, *, timeout_s: float = 2.0) -> None:
        """See `Session.reopen`."""
        self._release()
        self._open(timeout_s)

    async def close(self) -> None:
        """See `Session.close`."""
        self._release()

    async def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, *, timeout_s: float = 5.0
    ) -> Any:
        """See `Session.execute`."""
        (answer,) = self._ask([(command, arguments)], timeout_s)
        return answer

    async def execute_all(
        self, commands: Sequence[tuple[str, Mapping[str, object] | None]], *, timeout_s: float = 5.0
    ) -> list[Any]:
        """See `Session.execute_all`."""
        return self._ask(commands, timeout_s)

    async def hmp(self, line: str, *, timeout_s: float = 10.0) -> str:
        """See `Session.hmp`."""
        from ringfence.qemu.hmp_text import check_line, unix_lines

        check_line(line)
        return unix_lines(
            str(await self.execute("human-monitor-command", {"command-line": line}, timeout_s=timeout_s))
        )

    async def schema(self) -> Schema:
        """See `Session.schema`; asked each time."""
        from ringfence.qemu.schema import Schema

        return Schema(await self.execute("query-qmp-schema"))

    def listen(self, events: Collection[str] = ()) -> Events:  # noqa: ARG002 - the shape of a door
        """:raise MonitorError: always; who waits for events needs a `Session`."""
        raise MonitorError(f"{self.address}: events are not listened to here")

    def _open(self, timeout_s: float) -> None:
        deadline = _now() + timeout_s
        try:
            self._socket = sockets.connect_unix(self.address.path)
        except BlockingIOError:
            raise sockets.late_connect(self.address, timeout_s) from None
        except OSError as error:
            raise sockets.monitor_error(self.address, error) from None
        try:
            self._greet(deadline, timeout_s)
        except BaseException:
            self._release()
            raise

    def _greet(self, deadline: float, timeout_s: float) -> None:
        try:
            greeting = self._message(deadline, state="").get("QMP")
        except TimeoutError:
            raise MonitorBusyError(
                f"{self.address}: connected, but not greeted within {timeout_s:g} s", hint=sockets.BUSY_HINT
            ) from None
        if not isinstance(greeting, dict) or not isinstance(greeting.get("capabilities"), list):
            raise replies.not_qmp(self.address, "it does not greet so", "")
        self.greeting = greeting
        # See `Session`.
        wanted = {"enable": ["oob"]} if "oob" in greeting["capabilities"] else None
        self._ask([("qmp_capabilities", wanted)], deadline - _now())

    def _ask(self, commands: Sequence[tuple[str, Mapping[str, object] | None]], timeout_s: float) -> list[Any]:
        deadline = _now() + timeout_s
        sent: dict[int, str] = {}
        answers: dict[int, Any] = {}
        lines = b""
        for command, arguments in commands:
            number = wire.free(sent.keys() | self._overdue)
            sent[number] = command
            lines += wire.line(command, arguments, number)
        try:
            self._send(lines, deadline)
            while len(answers) < len(sent):
                message = self._message(deadline, state=replies.IN_DOUBT)
                told = message.get("id")
                if not isinstance(told, int):
                    raise self._nonsense("an answer without its command's id", replies.IN_DOUBT)
                if told in sent:
                    answers[told] = message
                elif told in self._overdue:
                    self._overdue.discard(told)
                else:
                    raise self._nonsense("an answer to nothing that was asked", replies.IN_DOUBT)
        except TimeoutError:
            waiting = [number for number in sent if number not in answers]
            self._overdue.update(waiting)
            raise replies.late(self.address, sent[waiting[0]], timeout_s) from None
        try:
            return [replies.value(self.address, command, answers[number]) for number, command in sent.items()]
        except MonitorProtocolError:
            self._release()
            raise

    def _send(self, data: bytes, deadline: float) -> None:
        """Hand all of it to QEMU.

        :raise TimeoutError: it does not read. The session is closed, as half a command may have gone out.
        """
        if self._socket is None:
            raise replies.left(self.address)
        left = memoryview(data)
        try:
            while left:
                if not _ready(self._socket, select.POLLOUT, deadline):
                    self._release()
                    raise TimeoutError
                left = left[self._socket.send(left) :]
        except ConnectionError:
            self._release()
            raise replies.closed(self.address, replies.IN_DOUBT) from None

    def _message(self, deadline: float, *, state: str) -> dict[str, Any]:
        """The next message that is no event."""
        while True:
            line = self._line(deadline, state)
            try:
                message = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise self._nonsense(str(error), state) from None
            if not isinstance(message, dict):
                raise self._nonsense("a message is no object", state)
            if "event" not in message:
                return message

    def _line(self, deadline: float, state: str) -> bytes:
        while (end := self._unread.find(b"\n")) < 0:
            if self._socket is None:
                raise replies.left(self.address, state)
            if len(self._unread) > _LINE_BYTES_MAX:
                raise self._nonsense("a message without an end", state)
            if not _ready(self._socket, select.POLLIN, deadline):
                raise TimeoutError
            try:
                read = self._socket.recv(1 << 16)
            except ConnectionError:
                read = b""
            if not read:
                self._release()
                raise replies.closed(self.address, state)
            self._unread += read
        line = bytes(self._unread[:end])
        del self._unread[: end + 1]
        return line

    def _nonsense(self, why: str, state: str) -> MonitorProtocolError:
        self._release()
        return replies.not_qmp(self.address, why, state)

    def _release(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None
        self._unread.clear()
        self._overdue.clear()


def _now() -> float:
    return time.monotonic()


def _ready(sock: socket.socket, event: int, deadline: float) -> bool:
    """Whether the socket can be read from, or written to, before the deadline."""
    poll = select.poll()
    poll.register(sock, event)
    return bool(poll.poll(max(0.0, deadline - _now()) * 1e3))
