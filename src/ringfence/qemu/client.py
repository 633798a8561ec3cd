"""The qemu.qmp client as this project needs it.

The library connects, greets, reads and disconnects. Some of what it leaves to subclasses is done another way
here, which takes a third off a round trip: messages are not formatted for a log that is off; a command is written
at once, and an answer completes a future, where the library has a queue and a task's turn for each; and a burst of
commands is one write, without a task each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from qemu.qmp import Message, QMPClient

from ringfence.qemu import wire


class Client(QMPClient):
    """A `QMPClient` that leaves negotiation to its user: the library checks its answer by `assert` only."""

    def __init__(self) -> None:
        super().__init__()
        self.negotiate = False
        # The library's own listener keeps every event of the session, for ever.
        self.events.event_filter = lambda _: False
        self._replies: dict[int, asyncio.Future[Message | None]] = {}

    def submit(
        self, commands: Sequence[tuple[str, Mapping[str, object] | None]]
    ) -> list[asyncio.Future[Message | None]]:
        """Send commands to a client that is running, in one go.

        :return: what QEMU answers to each; None when the connection ends before it does. May be cancelled: the
            answer is then dropped when it comes.
        """
        loop = asyncio.get_running_loop()
        lines: list[bytes] = []
        replies: list[asyncio.Future[Message | None]] = []
        for command, arguments in commands:
            number = wire.free(self._replies)
            lines.append(wire.line(command, arguments, number))
            self._replies[number] = loop.create_future()
            replies.append(self._replies[number])
        assert self._writer is not None  # as in the library: it is there while the client runs
        self._writer.write(b"".join(lines))
        return replies

    async def _on_message(self, msg: Message) -> None:
        number = msg.get("id")
        reply = self._replies.pop(number, None) if isinstance(number, int) else None
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
