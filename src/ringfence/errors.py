"""Every error ringfence raises, by whose fault it is.

    RingfenceError                  exit 1
    ├── UsageError                  exit 2   the request is wrong; nothing was changed
    ├── TenantError                 exit 3   this VM cannot do it as it was started
    ├── MonitorError                exit 4   the way to QEMU
    │   ├── MonitorBusyError                 another client holds the socket (retry helps)
    │   ├── MonitorGoneError                 no QEMU behind the socket, or it closed on us
    │   ├── MonitorTimeoutError              QEMU did not answer in time (retry helps)
    │   ├── MonitorProtocolError             what came back is not QMP
    │   └── MonitorRefusedError              QEMU answered with an error
    ├── HostError                   exit 5   the kernel or a host program said no
    ├── GuestError                  exit 6   the guest, or its agent
    │   ├── AgentAbsentError                 nothing answers on the agent's channel (retry helps)
    │   └── AgentRefusedError                the agent answered with an error
    └── InterruptError              exit 130 somebody ended it before it was done, such as by Ctrl-C

An error's text says what happened; `hint` says what to do next; `state` says what was left behind
when something had already been changed. Only `ringfence.cli` turns errors into exit codes.
"""

from __future__ import annotations


class RingfenceError(Exception):
    """Root of the tree.

    :param message: what happened, one sentence.
    :param hint: what the user can do next; empty when there is nothing to say.
    :param state: what is left behind; empty when nothing was changed.
    """

    exit_code = 1
    retryable = False

    def __init__(self, message: str, *, hint: str = "", state: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.state = state

    def add_state(self, text: str) -> None:
        """Add to what is left behind, on the way up from where the error was met."""
        self.state = f"{self.state.rstrip('.')}; {text}" if self.state else text


class UsageError(RingfenceError):
    """The request cannot be meant: unknown name, bad unit, value out of range. Nothing was changed."""

    exit_code = 2


class TenantError(RingfenceError):
    """The VM lacks what the request needs; `hint` names the option to start it with."""

    exit_code = 3


class MonitorError(RingfenceError):
    """The way to QEMU failed."""

    exit_code = 4


class MonitorBusyError(MonitorError):
    """The socket took our connection and sent no greeting: another client is being served."""

    retryable = True


class MonitorGoneError(MonitorError):
    """Nobody listens on the socket, or QEMU closed it while we were talking."""


class MonitorTimeoutError(MonitorError):
    """QEMU took a command and did not answer within the deadline."""

    retryable = True


class MonitorProtocolError(MonitorError):
    """What came over the socket is not the protocol that was expected there."""


class MonitorRefusedError(MonitorError):
    """QEMU answered a command with an error.

    :param error_class: QEMU's own class (`GenericError`, `DeviceNotFound`, ...), the stable part.
    """

    def __init__(
        self, message: str, *, error_class: str = "GenericError", hint: str = "", state: str = ""
    ) -> None:
        usual = _NO_SUCH_COMMAND if error_class == "CommandNotFound" else _QEMUS_REASON
        super().__init__(message, hint=hint or usual, state=state)
        self.error_class = error_class


_NO_SUCH_COMMAND = (
    "this QEMU is too old for it, or was built without it; `ringfence monitor VM --qmp` knows its commands"
)
_QEMUS_REASON = "the reason is QEMU's own: see its documentation of the command"


class HostError(RingfenceError):
    """The kernel, the file system or a host program refused.

    :param path: the file or program concerned.
    :param errno: the kernel's number where there is one, else 0.
    """

    exit_code = 5

    def __init__(self, message: str, *, path: str = "", errno: int = 0, hint: str = "", state: str = "") -> None:
        super().__init__(message, hint=hint, state=state)
        self.path = path
        self.errno = errno


class GuestError(RingfenceError):
    """The guest, or the agent in it, did not do its part."""

    exit_code = 6


class AgentAbsentError(GuestError):
    """No agent channel, nobody listening on it, or no answer within the deadline."""

    retryable = True


class AgentRefusedError(GuestError):
    """The guest agent answered with an error."""


class InterruptError(RingfenceError):
    """Somebody ended it before it was done."""

    exit_code = 130
