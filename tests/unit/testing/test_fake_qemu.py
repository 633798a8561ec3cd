"""The fake's manners are the real one's, and it does what it is told."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ringfence.testing.fake_qemu import GREETING, FakeQemu
from ringfence.testing.recording import read_recording, replay
from ringfence.testing.script import SILENCE, Event, HangUp, Pause, Raw, Refuse, Return, Script

MONITOR = next(Path(__file__).parents[2].glob("golden/qmp-monitor-7.2.22-*.jsonl"))


class Client:
    """Talks to the fake with a plain socket, knowing nothing of this project."""

    def __init__(self, address):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(5)
        self.socket.connect(address.path)
        self.file = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
        self.socket.close()

    def read(self):
        line = self.file.readline()
        return json.loads(line) if line.endswith(b"\n") else line

    def send(self, *commands):
        self.socket.sendall(b"".join(json.dumps(command).encode() for command in commands))

    def ask(self, *commands):
        self.send(*commands)
        return [self.read() for _ in commands]

    def negotiate(self):
        assert self.ask({"execute": "qmp_capabilities"}) == [GREETING]
        assert self.read() == {"return": {}}
        return self


@pytest.fixture
def qemu(tmp_path):
    with FakeQemu(tmp_path / "qmp") as fake:
        yield fake


@pytest.fixture
def client(qemu):
    with Client(qemu.address) as connected:
        yield connected.negotiate()


def without_time(message):
    return {key: value for key, value in message.items() if key != "timestamp"}


def test_says_what_the_recorded_qemu_said(tmp_path):
    recording = read_recording(MONITOR)
    with FakeQemu(tmp_path / "qmp", replay(recording)) as fake, Client(fake.address) as client:
        for entry in recording[1:]:
            if "send" in entry:
                client.send(entry["send"])
            else:
                said = client.read()
                assert list(without_time(said).items()) == list(without_time(entry["receive"]).items())
                assert ("timestamp" in said) == ("timestamp" in entry["receive"])


def test_lines_end_as_qemus_do(qemu):
    with Client(qemu.address) as client:
        assert client.file.readline().endswith(b"}\r\n")


def test_echoes_the_id(qemu, client):
    qemu.answers["x"] = 1
    assert client.ask({"execute": "x", "id": "a"}) == [{"return": 1, "id": "a"}]
    assert client.ask({"execute": "nope", "id": 7})[0]["id"] == 7
    assert client.ask({"exec-oob": "x", "id": None}) == [{"return": 1, "id": None}]


def test_several_commands_in_one_write(qemu, client):
    qemu.answers.update(x=1, y=2)
    assert client.ask({"execute": "x"}, {"execute": "y"}) == [{"return": 1}, {"return": 2}]
    assert qemu.commands == [("x", {}), ("y", {})]


def test_a_command_in_pieces(qemu, client):
    qemu.answers["x"] = "é"
    for piece in (b'{"exec', b'ute": \n"x"', b"}"):
        client.socket.sendall(piece)
    assert client.read() == {"return": "é"}


@pytest.mark.parametrize("line", ["bad json\n", "[]\n", "5\n", '{"arguments": {}}\n'])
def test_what_is_no_command_is_refused_and_the_session_goes_on(qemu, client, line):
    qemu.answers["x"] = 1
    client.socket.sendall(line.encode())
    refusal = client.read()
    assert (refusal["error"]["class"], "id" in refusal) == ("GenericError", False)
    assert client.ask({"execute": "x"}) == [{"return": 1}]


def test_every_kind_of_answer(qemu, client):
    counted = iter(range(9))
    qemu.answers.update(
        {
            "value": [{"a": None}],
            "refused": Refuse("DeviceNotFound", "no d1"),
            "function": lambda arguments: {"n": next(counted), **arguments},
            "function of act": lambda _: Refuse("GenericError", "no"),
            "script": Script((Event("A"), Pause(0.001), Event("B", {"b": 1}), Return(2), Event("C"))),
            "silent": SILENCE,
            "raw": Raw(b"{raw}\n"),
        }
    )
    client.send(*({"execute": name, "arguments": {"x": 1}} for name in qemu.answers))
    assert client.read() == {"return": [{"a": None}]}
    assert client.read() == {"error": {"class": "DeviceNotFound", "desc": "no d1"}}
    assert client.read() == {"return": {"n": 0, "x": 1}}
    assert client.read() == {"error": {"class": "GenericError", "desc": "no"}}
    said = [client.read() for _ in range(4)]
    assert [without_time(message) for message in said] == [
        {"event": "A"},
        {"event": "B", "data": {"b": 1}},
        {"return": 2},
        {"event": "C"},
    ]
    assert set(said[0]["timestamp"]) == {"seconds", "microseconds"}
    assert client.file.readline() == b"{raw}\n"


@pytest.mark.parametrize(
    ("acts", "last"), [((HangUp(), Return(1)), b""), ((Raw(b'{"return": ['), HangUp()), b'{"return": [')]
)
def test_hangs_up_half_way(qemu, client, acts, last):
    qemu.answers["x"] = Script(acts)
    assert client.ask({"execute": "x"}) == [last]


def test_serves_one_client_at_a_time(qemu, client):
    with Client(qemu.address) as second:
        second.socket.settimeout(0.02)
        with pytest.raises(TimeoutError):
            second.socket.recv(1)
        second.socket.settimeout(5)
        client.__exit__()
        second.negotiate()
        assert qemu.clients == 2


def test_backlog_is_qemus(qemu, client):
    queued = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) for _ in range(3)]
    queued[0].connect(qemu.address.path)
    queued[1].connect(qemu.address.path)
    with pytest.raises(BlockingIOError):
        queued[2].connect(qemu.address.path)
    for queue in queued:
        queue.close()


def test_each_client_negotiates_anew(qemu, client):
    client.__exit__()
    with Client(qemu.address) as second:
        assert second.ask({"execute": "x"}) == [GREETING]
        assert second.read()["error"]["class"] == "CommandNotFound"
    assert qemu.commands == [("x", {})]


def test_other_greetings(tmp_path):
    with FakeQemu(tmp_path / "a", greeting=b"hello\n") as fake, Client(fake.address) as client:
        assert client.file.readline() == b"hello\n"
    with FakeQemu(tmp_path / "b", greeting={"QMP": 1}) as fake, Client(fake.address) as client:
        assert client.read() == {"QMP": 1}
    with FakeQemu(tmp_path / "c", {"x": 1}, greeting=None) as fake, Client(fake.address) as client:
        assert client.ask({"execute": "qmp_capabilities"}) == [{"return": {}}]


def test_scripted_negotiation(tmp_path):
    answers = {"qmp_capabilities": Refuse("GenericError", "no"), "x": 1}
    with FakeQemu(tmp_path / "qmp", answers) as fake, Client(fake.address) as client:
        assert client.ask({"execute": "qmp_capabilities"}, {"execute": "x"})[1]["error"]["desc"] == "no"
        assert "Expecting capabilities negotiation" in client.read()["error"]["desc"]


def test_emits_events_to_who_has_negotiated(qemu):
    with Client(qemu.address) as client:
        assert client.read() == GREETING
        qemu.emit("EARLY")
        assert client.ask({"execute": "qmp_capabilities"}) == [{"return": {}}]
        qemu.emit("STOP")
        qemu.emit("JOB", {"n": 1})
        assert without_time(client.read()) == {"event": "STOP"}
        assert without_time(client.read()) == {"event": "JOB", "data": {"n": 1}}
        qemu.hang_up()
        assert client.read() == b""


def test_failure_of_a_function_comes_out_where_the_fake_was_made(tmp_path):
    def fail(_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):  # noqa: SIM117 - raised by leaving the context
        with FakeQemu(tmp_path / "qmp", {"x": fail}) as fake, Client(fake.address) as client:
            assert client.negotiate().ask({"execute": "x"}) == [b""]


def test_leaves_nothing_behind(tmp_path):
    fake = FakeQemu(tmp_path / "qmp")
    for _ in range(2):
        with fake, Client(fake.address) as client:
            client.negotiate()
        assert list(tmp_path.iterdir()) == []


async def test_in_a_running_loop(tmp_path):
    async with FakeQemu(tmp_path / "qmp"):
        assert [file.is_socket() for file in tmp_path.iterdir()] == [True]
    assert list(tmp_path.iterdir()) == []


def test_serves_another_process(qemu):
    script = (
        f"import socket; s = socket.socket(1); s.connect({qemu.address.path!r}); print(s.makefile().readline())"
    )
    seen = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, check=True, timeout=10)
    assert json.loads(seen.stdout) == GREETING
