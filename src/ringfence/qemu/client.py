"""The qemu.qmp client as this project needs it.

The library connects, greets, reads and disconnects. Some of what it leaves to subclasses is done another way
here, which takes a third off a round trip: messages are not formatted for a log that is off; a command is written
at once, and an answer completes a future, where the library has a queue and a task's turn for each; and commands
can be sent one behind the other without a task each.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

from qemu.qmp import Message, QMPClient


class Client(QMPClient):
    """A `QMPClient` that leaves negotiation to its user: the library checks its answer by `assert` only."""

    def __init__(self) -> None:
        super().__init__()
        self.negotiate = False
        # The library's own listener keeps every event of the session, for ever.
        self.events.event_filter = lambda _: False
        self._sent = 0
        self._replies: dict[object, asyncio.Future[Message | None]] = {}

    def submit(self, command: str, arguments: Mapping[str, object] | None) -> asyncio.Future[Message | None]:
        """Send a command to a client that is running.

        :return: what QEMU answers; None when the connection ends before it does. May be cancelled: the answer is
            then dropped when it comes.
        """
        self._sent += 1
        message: dict[str, object] = {"execute": command, "id": str(self._sent)}
        if arguments is not None:
            message["arguments"] = arguments
        self._do_send(_Line(message, eager=False))
        reply = self._replies[message["id"]] = asyncio.get_running_loop().create_future()
        return reply

    async def _on_message(self, msg: Message) -> None:
        reply = self._replies.pop(msg.get("id"), None)
        if reply is None:
            await super()._on_message(msg)
        elif not reply.done():
            reply.set_result(msg)

    async def _bh_disconnect(self) -> None:
        try:
            await super()._bh_disconnect()
        finally:
            for reply in self._replies.values():
                if not reply.done():
                    reply.set_result(None)
            self._replies.clear()

    def _cb_outbound(self, msg: Message) -> Message:
        return msg

    def _cb_inbound(self, msg: Message) -> Message:
        return msg


class _Line(Message):
    """A message on one line, with nothing in it that could be left out.

    QEMU 7.2 reads a command byte by byte, 3 microseconds each: blanks and long ids were a fifth of a round trip.
    It needs no newline, a line-based server or recorder in between does.
    """

    def __bytes__(self) -> bytes:
        return json.dumps(self._obj, separators=(",", ":")).encode() + b"\n"
