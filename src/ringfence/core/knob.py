"""The knob contract.

A knob is one resource that can be read and changed on a running VM or container. It is a module of plain
generators and pure functions gathered in one object with the shape of `Knob`. Its life:

    observe   steps that only read; one `Part` for each instance (one per disk, one for the memory, ...)
    check     pure: is this wanted value possible? raises UsageError or TenantError, before anything is changed
    changes   pure: the exact requests that would be sent, in order (the dry run prints these)
    apply     steps that send those requests, wait for what became of them, and give one `Outcome`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

from ringfence.core.requests import Change, Steps
from ringfence.errors import TenantError

Value: TypeAlias = int | str

VM, CONTAINER = "vm", "container"
ONLY_VMS, EVERY_TENANT = frozenset({VM}), frozenset({VM, CONTAINER})


class Verdict(StrEnum):
    """What became of a change."""

    APPLIED = "applied"
    PARTIAL = "partial"
    REFUSED = "refused"
    NEEDS_REBOOT = "needs-reboot"
    UNSUPPORTED = "unsupported"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    NOT_ATTEMPTED = "not attempted"


class Row(NamedTuple):
    """What one key means. From these rows come the CLI's keys, the JSON and the table in the docs.

    :param key: dotted, with `<disk>` or the like where an instance is named.
    :param unit: one of `ringfence.units`' kinds.
    :param lifted: the word for what it is when it is lifted.
    :param mechanism: QEMU's name for what does it.
    :param lifts: whether `unlimited` is a value of it.
    :param main: shown by default; the others only when set, or on request.
    :param read_only: observed, and never a value to set.
    :param modifies: the key that this one only says the manner of; it has no state of its own to be met or kept.
    """

    key: str
    unit: str
    mechanism: str
    help: str
    lifts: bool = False
    main: bool = True
    lifted: str = "unlimited"
    read_only: bool = False
    modifies: str = ""


class Advice(NamedTuple):
    """What to start the VM with for a key to work, or to work better.

    :param option: QEMU's command line option, to copy.
    :param why: what it brings.
    """

    option: str
    why: str


class Observation(NamedTuple):
    """What a key is now.

    :param target: what was asked of QEMU; None is unlimited or unset. QEMU does not tell a balloon's: there it is
        what it has come to.
    :param actual: what is so; None is unlimited, unset, or unknown (then `unavailable` or `notes` says why).
    :param unavailable: why it cannot be changed on this VM; empty when it can. `advice` says what would help.
    """

    row: Row
    key: str
    target: Value | None
    actual: Value | None
    minimum: int | None = None
    maximum: int | None = None
    unavailable: str = ""
    notes: tuple[str, ...] = ()
    advice: tuple[Advice, ...] = ()

    def refuse_unavailable(self) -> None:
        """:raise TenantError: it cannot be changed on this VM; the hint is the advice."""
        if self.unavailable:
            hint = "; ".join(f"start it with {advice.option}" for advice in self.advice)
            raise TenantError(
                f"{self.key} is not available: {self.unavailable}",
                hint=hint or "`ringfence show VM` tells what is",
            )


class Part(NamedTuple):
    """One instance of a knob on one VM, as it was read.

    :param name: canonical name of the instance, empty where there is only one (`vda`).
    :param aliases: every other name the user may call it by.
    :param state: the knob's own; `Knob.observation` tells what it means for a key.
    :param identity: what is never another instance's, however the names may change; empty where the name is so.
    """

    name: str
    aliases: tuple[str, ...]
    state: Any
    identity: str = ""


class Outcome(NamedTuple):
    """What became of one part's changes.

    :param after: the part as read back after the change; None when it could not be read any more.
    :param by: who refused, when somebody did: `QEMU`, `guest`, `ringfence`.
    :param detail: the reason, one sentence; empty when all is as asked.
    :param hint: what to do next; empty when there is nothing to say.
    :param state: what is left behind, beside what `after` tells.
    """

    verdict: Verdict
    after: Part | None
    by: str = ""
    detail: str = ""
    notes: tuple[str, ...] = ()
    hint: str = ""
    state: str = ""


Wants: TypeAlias = Mapping[str, Value | None]
"""Leaf of a key (`iops.burst`, `target`) to the wanted value; None lifts the limit."""


class Knob(Protocol):
    """The shape of a knob; `ringfence.knobs.registry` lists them all."""

    prefix: str
    tenants: frozenset[str]
    """Kinds of tenants that it concerns, `VM`, `CONTAINER`."""
    rows: tuple[Row, ...]
    events: tuple[str, ...]
    """QEMU's events that `apply` waits for; the driver listens from before its first request."""

    def observe(self) -> Steps[tuple[Part, ...]]:
        """Read every instance. Sends nothing that changes the VM."""

    def observation(self, part: Part, row: Row) -> Observation:
        """What one key of the part is, from what was read."""

    def check(self, part: Part, wants: Wants, *, force: bool) -> None:
        """Raise UsageError or TenantError when `wants` cannot be; `force` skips what protects the guest only."""

    def changes(self, part: Part, wants: Wants) -> Sequence[Change]:
        """The requests that `apply` sends to change the VM; empty when it already is as wanted."""

    def apply(self, part: Part, wants: Wants, *, timeout_s: float, force: bool) -> Steps[Outcome]:
        """Send `changes`, see what became of them, read back."""


@runtime_checkable
class Makes(Protocol):
    """What a knob also has when naming an instance of it makes one. Its steps come before all others."""

    def absent(self, name: str) -> Part:
        """The instance `name` before it is made.

        :raise UsageError: it cannot be called so.
        """


@runtime_checkable
class Foresees(Protocol):
    """What a knob also has when its changes hang on those made before it by the same command."""

    def foresee(self, part: Part, earlier: Sequence[tuple[Part, Wants]]) -> Part:
        """The part as the steps before it will have left it; pure.

        :param earlier: the parts of those steps, of any knob, themselves foreseen, and what is wanted of them.
        """


@runtime_checkable
class InStep(Protocol):
    """What a knob also has when `changes` does not tell whether anything is left to do."""

    def in_step(self, part: Part, wants: Wants) -> bool:
        """Whether the part is as wanted, so that nothing need be done; pure."""


@runtime_checkable
class Watches(Protocol):
    """What a knob also has when a change of it may show only seconds later that something has gone wrong."""

    def watch(self, part: Part, wants: Wants) -> Steps[str]:
        """Look on after a change that was applied; gives what is wrong and what helps, empty when nothing is.

        :param part: as it was before the change.
        """
