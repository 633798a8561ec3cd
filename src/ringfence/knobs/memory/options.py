"""The keys of the balloon device's options: does it give back before the guest kills, and what the guest frees?

Every QEMU tried, 5.2 to 11.1, settles them when the device is made. So a change is asked for, in case this one
does it live, and told as `needs-reboot` where it does not.
Source: QEMU hw/virtio/virtio-balloon.c (virtio_balloon_properties).
"""

from __future__ import annotations

from typing import NamedTuple

from ringfence import units
from ringfence.core.answers import entries, text
from ringfence.core.knob import ONLY_VMS, Advice, Observation, Outcome, Part, Row, Verdict, Wants
from ringfence.core.requests import Agent, Qmp, Steps
from ringfence.errors import MonitorRefusedError
from ringfence.knobs.memory.ledger import OPTIONS

_CONTAINERS = ("/machine/peripheral", "/machine/peripheral-anon")
_MECHANISM = "virtio-balloon"
_LEAVES = {option.replace("-", "_"): option for option in OPTIONS}


class State(NamedTuple):
    """:param path: of the balloon device, empty without one.
    :param on: QEMU's name of each option that this device has, to whether it is on.
    """

    path: str
    on: dict[str, bool]


class BalloonOptions:
    """See the module."""

    prefix = "memory"
    tenants = ONLY_VMS
    rows: tuple[Row, ...] = tuple(
        Row(f"memory.{leaf}", units.SWITCH, _MECHANISM, OPTIONS[option], True, False, "off")
        for leaf, option in _LEAVES.items()
    )
    events: tuple[str, ...] = ()

    def observe(self) -> Steps[tuple[Part, ...]]:
        """Find the balloon and read its options; one Part."""
        listed = yield [Qmp("qom-list", {"path": path}) for path in _CONTAINERS]
        for container, children in zip(_CONTAINERS, listed, strict=True):
            for child in entries(children):
                if text(child["type"]).startswith("child<virtio-balloon"):
                    return (Part("", (), (yield from _read(f"{container}/{text(child['name'])}"))),)
        return (Part("", (), State("", {})),)

    def observation(self, part: Part, row: Row) -> Observation:
        """Whether it is on."""
        state: State = part.state
        option = _option(row)
        now = "on" if state.on.get(option) else None
        missing = "" if option in state.on else "this QEMU's balloon has no such option"
        missing = missing if state.path else "it has no balloon device"
        start = Advice(f"-device virtio-balloon-pci,{option}=on", OPTIONS[option])
        return Observation(row, row.key, now, now, unavailable=missing, advice=() if now else (start,))

    def check(self, part: Part, wants: Wants, *, force: bool) -> None:
        """Raise TenantError where there is no such option."""
        for row in self.rows:
            if row.key.removeprefix("memory.") in wants:
                self.observation(part, row).refuse_unavailable()

    def changes(self, part: Part, wants: Wants) -> list[Qmp | Agent]:
        """One request for each option that is to be other than it is."""
        state: State = part.state
        wanted = {_LEAVES[leaf]: value is not None for leaf, value in wants.items()}
        return [
            Qmp("qom-set", {"path": state.path, "property": option, "value": on})
            for option, on in wanted.items()
            if state.on[option] != on
        ]

    def apply(self, part: Part, wants: Wants, *, timeout_s: float, force: bool) -> Steps[Outcome]:
        """Ask, and read back."""
        changes = self.changes(part, wants)
        if not changes:
            return Outcome(Verdict.APPLIED, part, notes=("already so",))
        try:
            yield [change for change in changes if isinstance(change, Qmp)]
        except MonitorRefusedError as refusal:
            after = Part("", (), (yield from _read(part.state.path)))
            words = ",".join(f"{_LEAVES[leaf]}={value or 'off'}" for leaf, value in wants.items())
            detail = f"this QEMU settles it when the device is made ({refusal.message})"
            hint = f"start the VM with -device virtio-balloon-pci,{words}"
            return Outcome(Verdict.NEEDS_REBOOT, after, "QEMU", detail, hint=hint)
        after = Part("", (), (yield from _read(part.state.path)))
        if self.changes(after, wants):
            detail = "QEMU accepted the command and did not follow it"
            return Outcome(Verdict.FAILED, after, by="QEMU", detail=detail)
        return Outcome(Verdict.APPLIED, after, notes=("the guest's driver takes it over when it starts anew",))


def _option(row: Row) -> str:
    return _LEAVES[row.key.removeprefix("memory.")]


def _read(path: str) -> Steps[State]:
    names = [text(entry["name"]) for entry in entries((yield Qmp("qom-list", {"path": path})))]
    asked = [option for option in OPTIONS if option in names]
    answers = yield [Qmp("qom-get", {"path": path, "property": option}) for option in asked]
    return State(path, {option: value is True for option, value in zip(asked, answers, strict=True)})
