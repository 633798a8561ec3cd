"""The balloon's options: shown, asked for, and told as what they are: settled when the device is made."""

from __future__ import annotations

from typing import Any

import pytest

from ringfence.core.knob import Part, Verdict
from ringfence.core.requests import Qmp
from ringfence.errors import MonitorRefusedError, TenantError
from ringfence.knobs.memory.options import BalloonOptions
from ringfence.testing.steps import PaperVm

KNOB = BalloonOptions()
DEFLATE, REPORTING = KNOB.rows
PATH = "/machine/peripheral/balloon0"


class Device:
    """A balloon with `on` switched on; `live` is whether it takes changes."""

    def __init__(self, on: dict[str, bool], *, live: bool = False) -> None:
        self.on, self.live = on, live
        self.vm = PaperVm({"qom-list": self.list, "qom-get": self.get, "qom-set": self.set})

    def list(self, arguments: Any) -> list[dict[str, str]]:
        if arguments["path"] == "/machine/peripheral":
            return [{"name": "balloon0", "type": "child<virtio-balloon-pci>"}]
        return [{"name": name, "type": "bool"} for name in self.on] if arguments["path"] == PATH else []

    def get(self, arguments: Any) -> bool:
        return self.on[arguments["property"]]

    def set(self, arguments: Any) -> dict[str, Any]:
        if not self.live:
            raise MonitorRefusedError("Attempt to set property after it was realized")
        self.on[arguments["property"]] = arguments["value"]
        return {}

    def part(self) -> Part:
        return self.vm.play(KNOB.observe())[0]

    def change(self, **wants: str | None) -> Any:
        part = self.part()
        KNOB.check(part, wants, force=False)
        return self.vm.play(KNOB.apply(part, wants, timeout_s=5, force=False))


def test_they_are_shown_and_what_is_off_is_recommended() -> None:
    part = Device({"deflate-on-oom": True, "free-page-reporting": False}).part()
    on, off = KNOB.observation(part, DEFLATE), KNOB.observation(part, REPORTING)
    assert (on.actual, on.advice) == ("on", ())
    assert (off.actual, off.advice[0].option) == (None, "-device virtio-balloon-pci,free-page-reporting=on")


def test_a_device_that_takes_no_change_needs_a_reboot_and_is_as_it_was() -> None:
    device = Device({"deflate-on-oom": False, "free-page-reporting": True})
    outcome = device.change(deflate_on_oom="on", free_page_reporting=None)
    assert (outcome.verdict, outcome.by) == (Verdict.NEEDS_REBOOT, "QEMU")
    assert "deflate-on-oom=on,free-page-reporting=off" in outcome.hint
    assert outcome.after.state.on == device.on == {"deflate-on-oom": False, "free-page-reporting": True}


def test_a_device_that_does_is_read_back() -> None:
    device = Device({"deflate-on-oom": False, "free-page-reporting": True}, live=True)
    (request,) = KNOB.changes(device.part(), {"deflate_on_oom": "on", "free_page_reporting": "on"})
    assert request == Qmp("qom-set", {"path": PATH, "property": "deflate-on-oom", "value": True})
    assert device.change(deflate_on_oom="on").verdict is Verdict.APPLIED
    assert device.change(deflate_on_oom="on").notes == ("already so",)
    device.vm.answers["qom-set"] = {}
    assert device.change(deflate_on_oom=None).verdict is Verdict.FAILED


def test_what_is_not_there_is_not_available() -> None:
    with pytest.raises(TenantError, match="has no such option"):
        Device({"deflate-on-oom": True}).change(free_page_reporting="on")
    device = Device({})
    device.vm.answers["qom-list"] = []
    with pytest.raises(TenantError, match="has no balloon device"):
        device.change(deflate_on_oom="on")
