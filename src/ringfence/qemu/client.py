"""The qemu.qmp client as this project needs it: no pretty-printing of what nobody logs, no endless history."""

from __future__ import annotations

import json

from qemu.qmp import Message, QMPClient


class Client(QMPClient):
    """A `QMPClient` that leaves negotiation to its user.

    The library checks the answer to `qmp_capabilities` with an `assert`, which `python -O` removes; sent through
    `execute` it is checked like any other answer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.negotiate = False
        # The library's own listener keeps every event of the session, for ever.
        self.events.event_filter = lambda _: False

    def _cb_outbound(self, msg: Message) -> Message:
        return _Line(msg, eager=False)

    def _cb_inbound(self, msg: Message) -> Message:
        return msg  # the library would format the message, indented, for a log that is off


class _Line(Message):
    """A message without a space too many: QEMU reads a command byte by byte, 2 microseconds each.

    It ends its line, which QEMU does not need, but a line-based server or recorder in between does.
    """

    def __bytes__(self) -> bytes:
        return json.dumps(self._obj, separators=(",", ":")).encode() + b"\n"
