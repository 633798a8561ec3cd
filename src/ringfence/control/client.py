"""Asking the daemon, where one runs. Blocking, and cheap to import: the command line does so first of all."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from ringfence.control import protocol
from ringfence.errors import HostError

_CONNECT_S = 1.0  # a local socket is connected in well under a millisecond, or its daemon hangs


class Client:
    """A connection to the daemon. Make one with `connect`."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._lines = connection.makefile("rb")
        self._asked = 0

    def call(
        self,
        verb: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        progress: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> Any:
        """Ask for one thing and wait for its result, however long it takes.

        :param progress: called with each word of how far it is.
        :raise RingfenceError: what the daemon raised, with its exit code, hint and state.
        :raise HostError: the daemon went away; what it had begun it ends, or takes back when it starts again.
        """
        self._asked += 1
        message = {"id": self._asked, "verb": verb, "arguments": arguments or {}}
        try:
            self._socket.sendall(protocol.encode(message))
            while line := self._lines.readline():
                answer = protocol.decode(line)
                if answer.get("id") != self._asked:
                    continue
                if "result" in answer:
                    return answer["result"]
                if "error" in answer:
                    raise protocol.raised(answer["error"])
                if progress is not None and "progress" in answer:
                    progress(answer["progress"])
        except OSError as error:
            raise _gone(error.strerror or str(error)) from error
        raise _gone("it closed the connection")

    def close(self) -> None:
        """End the connection; what was asked for and not answered is ended as by Ctrl-C."""
        self._lines.close()
        self._socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def connect(path: str | None = None) -> Client | None:
    """A connection to the daemon; None when none runs, or this user may not speak to it.

    :param path: its socket; by default where `protocol.socket_path` says.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(_CONNECT_S)
    try:
        connection.connect(path or protocol.socket_path())
    except OSError:
        connection.close()
        return None
    connection.settimeout(None)
    return Client(connection)


def required(path: str | None = None) -> Client:
    """A connection to the daemon.

    :raise HostError: none runs, or this user may not speak to it.
    """
    client = connect(path)
    if client is None:
        where = path or protocol.socket_path()
        raise HostError(
            f"no daemon answers on {where}",
            path=where,
            hint="`systemctl start ringfence`, or `ringfence daemon`; the group ringfence may ask it",
        )
    return client


def _gone(why: str) -> HostError:
    return HostError(
        f"the daemon went away: {why}",
        path=protocol.socket_path(),
        hint="`journalctl -u ringfence` tells why; `ringfence history` what it had begun",
        state="what it had begun is taken back, or ended, when it starts again",
    )
