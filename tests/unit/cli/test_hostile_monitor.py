"""Every verb against a monitor that misbehaves: it ends in time, with one clear error, and nothing left unsaid.

The program runs in this process, the monitor in a thread of its own. A monitor that is silent makes time pass: so
deadlines are long, no step that is well is ever cut short, and none is waited for.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ringfence.core.model import Vm
from ringfence.testing.fake_agent import FakeAgent
from ringfence.testing.fake_hmp import BANNER
from ringfence.testing.fake_qemu import FakeQemu
from ringfence.testing.obedient_vm import ObedientVm, changing
from ringfence.testing.script import SILENCE, Event, HangUp, Pause, Raw, Refuse, Return, Script, unfold

MIB, GIB = 1 << 20, 1 << 30
PATIENCE_S = 20.0
PLAIN_GREETING = {"QMP": {"version": {}, "capabilities": []}}
SET = {
    "disk": ("disk.vda.iops=100",),
    "memory": ("memory.target=512MiB",),
    "vcpus": ("vcpus=3",),
    "several": ("disk.vda.iops=100", "memory.target=512MiB", "vcpus=3", "disk.vdb.bps=1MiB/s"),
}
VERBS = ("ps", "show", *SET, "hmp", "qmp", "doctor")
TELL_IN_THEIR_RESULT = ("ps", "doctor")
"""What a VM does not tell is what these are asked for: no failure of theirs."""


class Host:
    """A host with one VM, whose monitor is a fake, and the program to run on it.

    :ivar qemu: the monitor of the present run, or of the last one.
    """

    def __init__(
        self,
        folder: Path,
        run: Callable[..., Any],
        behind: Callable[..., Vm],
        skip: Callable[[float], None],
    ) -> None:
        self.vm = ObedientVm()
        self.name = "web1"
        self.qemu: FakeQemu
        self._path = folder / "qmp"
        self._run = run
        self._behind = behind
        self._skip = skip

    def __call__(
        self, verb: str, *more: str, timeout: str = f"{PATIENCE_S}s", agent: Any = None, **fake: Any
    ) -> Any:
        """Run a verb; whatever comes of it, it is told as it should be: one error and one hint, or none."""
        with FakeQemu(self._path, self.vm.answers, **fake) as self.qemu:
            self._behind(self.qemu, agent, self.name)
            ran = self._run(*self._arguments(verb), "--timeout", timeout, *more)
        said = [line for line in ran.err.splitlines() if not line.startswith("  ")]
        assert all(re.match("(error|state|hint): |unset limits", line) for line in said), ran.err
        labels = [line.split(":")[0] for line in said]
        assert (labels.count("error"), labels.count("hint")) == ((1, 1) if ran.code else (0, 0)), ran.err
        return ran

    def silence(self, _: object = None) -> Script:
        """An answer that does not come."""
        self._skip(PATIENCE_S + 1)
        return SILENCE

    def _arguments(self, verb: str) -> tuple[str, ...]:
        path = str(self._path)
        if verb in SET:
            return ("set", "--qmp", path, *SET[verb])
        lines = {"hmp": ("monitor", path, "info status"), "qmp": ("monitor", path, "--qmp", "query-version")}
        return lines.get(verb) or (("ps",) if verb == "ps" else (verb, "--qmp", path))


@pytest.fixture
def host(
    tmp_path: Path, run: Callable[..., Any], vm_behind: Callable[..., Vm], skip: Callable[[float], None]
) -> Host:
    return Host(tmp_path, run, vm_behind, skip)


def check_told(verb: str, ran: Any, words: str) -> None:
    """The failure is told where it belongs, and the exit code is that of a monitor's failure."""
    if verb in TELL_IN_THEIR_RESULT:
        assert (ran.code, ran.err) == (0, "")
        assert re.search(words, ran.out)
    else:
        assert ran.code == 4
        assert re.search(words, ran.err)


def table(ran: Any) -> dict[str, str]:
    """What is printed of each key."""
    return dict(line.split(maxsplit=1) for line in ran.out.splitlines())


# What has to be borne


@pytest.mark.parametrize("verb", VERBS)
def test_events_around_each_answer_and_answers_that_take_their_time(host: Host, verb: str) -> None:
    def noisy(answer: Any) -> Callable[[Any], Script]:
        before = (Event("BALLOON_CHANGE", {"actual": 7}), Event("RTC_CHANGE"), Pause(0.001))
        return lambda arguments: Script((*before, *unfold(answer, arguments), Event("STOP", {"x": []})))

    host.vm.answers = {name: noisy(answer) for name, answer in host.vm.answers.items()}
    ran = host(verb)
    assert ran.code == 0
    if verb == "several":
        assert all(" applied " in line for line in table(ran).values())
        assert (host.vm.limits["a"]["iops"], host.vm.limits["b"]["bps"]) == (100, MIB)
        assert (host.vm.actual_bytes, len(host.vm.cpus)) == (512 * MIB, 3)


# Getting in


class Door(NamedTuple):
    """How a monitor receives, and what is to be said of it."""

    words: str
    greeting: Any
    negotiation: object = {}


DOORS = {
    "human monitor": Door("human monitor, not QMP", BANNER),
    "another protocol": Door("not QMP", b"RFB 003.008\n"),
    "not a greeting": Door("not QMP", {"QMP": {"version": 3, "capabilities": "x"}}),
    "closes": Door("closed the connection", PLAIN_GREETING, HangUp()),
    "refuses": Door("refused qmp_capabilities", PLAIN_GREETING, Refuse("GenericError", "not you")),
}


@pytest.mark.parametrize("verb", ["disk", "doctor"])
@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_a_door_that_does_not_open(host: Host, door: Door, verb: str) -> None:
    host.vm.answers["qmp_capabilities"] = door.negotiation
    check_told(verb, host(verb, greeting=door.greeting), door.words)


@pytest.mark.parametrize("verb", ["ps", "show", "disk", "hmp", "doctor"])
def test_a_monitor_that_does_not_greet(host: Host, verb: str) -> None:
    greeting = b'{"QMP": {"ver' if verb == "show" else None
    check_told(verb, host(verb, timeout="20ms", greeting=greeting), "not greeted within 0.02 s|no prompt within")


# Answers


NOISE = {
    "closes": (HangUp(), "closed the connection"),
    "closes in mid-JSON": (Script((Raw(b'{"return": [{"act'), HangUp())), "closed the connection"),
    "garbage": (Raw(b"\xff\xfe kernel panic\r\n"), "not QMP"),
    "half an answer of its own": (Raw(b'{"id": [], "return": 1}\n'), "not QMP"),
    "refuses": (Refuse("CommandNotFound", "has not been found"), "has not been found"),
}
FIRST_COMMAND = {
    "ps": "query-cpus-fast",
    "show": "query-status",
    "disk": "query-block",
    "memory": "query-balloon",
    "vcpus": "query-cpus-fast",
    "hmp": "human-monitor-command",
    "qmp": "query-version",
    "doctor": "query-block",
}
"""One command that each verb needs."""


@pytest.mark.parametrize("verb", FIRST_COMMAND)
@pytest.mark.parametrize(("answer", "words"), NOISE.values(), ids=NOISE)
def test_no_answer_but_noise(host: Host, verb: str, answer: object, words: str) -> None:
    host.vm.answers[FIRST_COMMAND[verb]] = answer
    ran = host(verb)
    check_told(verb, ran, words)
    if verb in SET:
        assert "state: nothing was changed" in ran.err
    assert changing(host.qemu.received) == []


@pytest.mark.parametrize("verb", ["ps", "show", "disk", "hmp", "qmp", "doctor"])
def test_no_answer(host: Host, verb: str) -> None:
    command = FIRST_COMMAND[verb]
    host.vm.answers[command] = host.silence
    check_told(verb, host(verb), f"no answer to {command} within")


@pytest.mark.parametrize("verb", ["disk", "memory", "vcpus"])
def test_a_refused_change(host: Host, verb: str) -> None:
    for command in ("block_set_io_throttle", "balloon", "device_add"):
        host.vm.answers[command] = Refuse("GenericError", "not today")
    ran = host(verb)
    assert ran.code == 4
    assert "not today" in ran.err
    assert re.search("refused by QEMU|failed", ran.out)


# Answers of another form than the schema says; test_driver.py has every other way


@pytest.mark.parametrize(
    ("verb", "command", "answer", "words"),
    [
        ("ps", "query-memory-size-summary", [], "stands where an object is expected"),
        ("show", "query-block", {"device": "d"}, "answer to query-block .* where an array is expected"),
        ("disk", "query-block", [{"qdev": 7}], "query-block .*: 7 stands where a text is expected"),
        ("memory", "query-balloon", {}, "query-balloon.* has no 'actual'"),
        ("memory", "query-balloon", [], "query-balloon.* an object is expected"),
        (
            "several",
            "query-hotpluggable-cpus",
            [{"slots": 1}],
            "answer to query-hotpluggable-cpus .* has no 'type'",
        ),
        ("hmp", "human-monitor-command", {}, "human-monitor-command is no text"),
        ("doctor", "query-hotpluggable-cpus", "none", "where an array is expected"),
    ],
)
def test_an_answer_of_another_form(host: Host, verb: str, command: str, answer: object, words: str) -> None:
    host.vm.answers[command] = answer
    check_told(verb, host(verb), words)
    assert changing(host.qemu.received) == []


def test_a_disk_without_a_medium_is_a_vm_that_cannot(host: Host) -> None:
    host.vm.answers["query-block"] = [{"device": "cd", "qdev": "/machine/x/virtio-backend", "removable": True}]
    ran = host("disk")
    assert ran.code == 3
    assert "no medium" in ran.err


def test_doctor_goes_on_behind_what_failed(host: Host) -> None:
    host.vm.answers["query-balloon"] = {}
    out = host("doctor").out
    assert re.search(r"missing +memory +QEMU's answer to", out)
    assert re.search(r"ok +disk.vdb +can be changed", out)


@pytest.mark.parametrize("verb", ["ps", "show", "doctor", "disk"])
def test_what_names_hold_does_not_reach_the_terminal(host: Host, verb: str) -> None:
    odd = host.name = "[/x]\x1b]0;owned\x07\udcff"
    (block, *_) = host.vm.answers["query-block"](None)
    block["device"] = odd
    host.vm.answers["query-block"] = [block]
    host.vm.answers["block_set_io_throttle"] = Refuse("GenericError", odd)
    ran = host(verb)
    assert not {"\x1b", "\x07", "\udcff"} & set(ran.out + ran.err)
    assert "[/x]\\x1b]0;owned\\x07\\udcff" in ran.out + ran.err


# A set that dies in the middle


def test_what_was_done_before_qemu_went_is_told_and_what_was_not(host: Host) -> None:
    def last_words(_: object) -> HangUp:
        host.vm.answers["qmp_capabilities"] = HangUp()
        host.qemu.answers.update(host.vm.answers)
        return HangUp()

    host.vm.answers["balloon"] = last_words
    ran = host("several")
    lines = table(ran)
    assert ran.code == 4
    assert re.search(r"unlimited -> 100 +applied", lines["disk.vda.iops"])
    assert re.search(r"1 GiB -> not known +failed", lines["memory.target"])
    assert lines["vcpus"] == "2  not attempted"
    assert lines["disk.vdb.bps"] == "unlimited  not attempted"
    assert "whether the change took effect is not known" in ran.err
    assert "the balloon's target may be 512 MiB" in ran.err
    assert host.vm.limits["b"]["bps"] == 0


def test_a_connection_that_breaks_behind_a_change_is_made_anew_to_read_back(host: Host) -> None:
    obey = host.vm.answers["block_set_io_throttle"]
    host.vm.answers["block_set_io_throttle"] = lambda arguments: (obey(arguments) and None) or HangUp()
    ran = host("several")
    assert ran.code == 4
    assert re.search(r"unlimited -> 100 +failed", table(ran)["disk.vda.iops"])
    assert "read back after it" in ran.err
    assert host.qemu.clients == 2


def test_a_change_that_is_not_answered(host: Host) -> None:
    host.vm.answers["balloon"] = host.silence
    ran = host("memory")
    assert ran.code == 4
    assert "no answer to balloon within 5 s" in ran.err
    assert "target may be 512 MiB" in ran.err


def test_the_same_as_data(host: Host) -> None:
    host.vm.answers["device_add"] = Raw(b"?\n")
    ran = host("several", "-o", "json")
    results = {result["key"]: result for result in json.loads(ran.out)}
    assert [result["verdict"] for result in results.values()] == ["applied", "applied", "failed", "not attempted"]
    assert (results["vcpus"]["known"], results["vcpus"]["actual"]) == (True, 2)
    assert "not QMP" in results["vcpus"]["detail"]
    assert results["vcpus"]["hint"]


# Ending it by hand


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ended_by_a_signal_the_guest_keeps_what_it_has_reached(host: Host, number: int) -> None:
    moves = iter(range(100))

    def balloon(arguments: Any) -> object:
        if not next(moves):
            os.kill(os.getpid(), number)
            host.vm.actual_bytes = 700 * MIB
        return Script((Return({}), Event("BALLOON_CHANGE", {"actual": host.vm.actual_bytes})))

    host.vm.answers["balloon"] = balloon
    host.vm.poll_s = 0 if number == signal.SIGINT else 5
    before = host.vm.poll_s
    ran = host("several")
    assert ran.code == 130
    lines = table(ran)
    assert " applied " in lines["disk.vda.iops"]
    assert re.search(r"1 GiB -> 700 MiB +interrupted, asked for 512 MiB", lines["memory.target"])
    assert "the guest came to 700 MiB, which is its target now" in ran.err
    assert lines["vcpus"].endswith("not attempted")
    assert host.vm.poll_s == before
    assert [c["arguments"]["value"] for c in changing(host.qemu.received) if c["execute"] == "balloon"] == [
        512 * MIB,
        700 * MIB,
    ]


def test_ended_by_hand_before_the_first_change(host: Host) -> None:
    def interrupted(_: object) -> Script:
        os.kill(os.getpid(), signal.SIGINT)
        return SILENCE

    host.vm.answers["query-balloon"] = interrupted
    ran = host("memory")
    assert ran.code == 130
    assert "before the first change" in ran.err
    assert changing(host.qemu.received) == []


def test_ended_twice_it_does_not_wait(host: Host) -> None:
    def deaf(_: object) -> Script:
        os.kill(os.getpid(), signal.SIGINT)
        host.qemu.answers["query-balloon"] = deafer
        return Script((Return({}),))

    def deafer(_: object) -> Script:
        os.kill(os.getpid(), signal.SIGINT)
        return SILENCE

    host.vm.answers["balloon"] = deaf
    ran = host("memory")
    assert ran.code == 130
    assert "interrupted twice" in ran.err
    assert "not known" in ran.err


# A hostile guest


AGENTS = {
    "text": {"guest-get-vcpus": "cpus", "guest-info": "me"},
    "odd members": {"guest-get-vcpus": [{"online": True}], "guest-info": {"supported_commands": [{}]}},
    "numbers": {"guest-get-vcpus": [7], "guest-info": {"version": 1, "supported_commands": []}},
    "refuses": {},
    "closes": {"guest-get-vcpus": HangUp(), "guest-info": HangUp()},
    "garbage": {"guest-get-vcpus": Raw(b"\xff\x00[\n"), "guest-info": Raw(b"\n")},
}


@pytest.mark.parametrize(
    ("verb", "answers"),
    [*product(("show", "doctor"), AGENTS.values()), ("vcpus", AGENTS["garbage"])],
    ids=[*(f"{verb} {name}" for verb, name in product(("show", "doctor"), AGENTS)), "vcpus garbage"],
)
def test_what_a_guest_says_keeps_nobody_from_the_rest(
    host: Host, tmp_path: Path, verb: str, answers: dict[str, object]
) -> None:
    with FakeAgent(tmp_path / "ga", answers) as agent:
        ran = host(verb, agent=agent)
    assert ran.code == 0
    if verb == "doctor":
        assert re.search(r"missing +agent +", ran.out)
        assert re.search(r"ok +vcpus +", ran.out)
    else:
        assert "the guest agent does not answer" in ran.out + ran.err


def test_an_agent_that_is_silent(host: Host, tmp_path: Path) -> None:
    with FakeAgent(tmp_path / "ga", {"guest-sync-delimited": host.silence}) as agent:
        ran = host("show", agent=agent)
    assert ran.code == 0
    assert "the guest agent does not answer" in ran.out
