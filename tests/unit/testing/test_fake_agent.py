"""The fake agent says what the recorded one said."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from ringfence.testing.fake_agent import FakeAgent
from ringfence.testing.recording import read_recording
from ringfence.testing.script import Event

RECORDED = next(Path(__file__).parents[2].glob("golden/agent-7.2.22-*.jsonl"))


def without_reason(text):
    """The agent words its parser's errors by itself."""
    return re.sub(r'JSON parse error, [^}]*"\}', 'JSON parse error"}', text)


def test_says_what_the_recorded_agent_said(tmp_path):
    with FakeAgent(tmp_path / "agent", {"guest-ping": {}}) as guest, socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(guest.address.path)
        for entry in read_recording(RECORDED)[1:]:
            if "send" in entry:
                client.sendall(entry["send"].encode("latin-1"))
                continue
            said = ""
            while said.count("\n") < entry["receive"].count("\n"):
                said += client.recv(65536).decode("latin-1")
            assert without_reason(said) == without_reason(entry["receive"])
        assert guest.commands == [("guest-ping", {}), ("guest-nope", {})]


def test_has_no_events(tmp_path):
    with pytest.raises(TypeError):  # noqa: PT012, SIM117 - raised by leaving the context
        with FakeAgent(tmp_path / "agent", {"x": Event("A")}) as guest, socket.socket(socket.AF_UNIX) as client:
            client.connect(guest.address.path)
            client.sendall(b'{"execute": "x"}\n')
            assert client.recv(1) == b""
