"""The fake human monitor says, byte for byte, what the recorded one said."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from ringfence.testing.fake_hmp import FakeHmp
from ringfence.testing.recording import read_recording
from ringfence.testing.script import Refuse

RECORDED = next(Path(__file__).parents[2].glob("golden/hmp-7.2.22-*.jsonl"))
ANSWERS = {
    "info status": "VM status: paused\n",
    "info name": "",
    "info version": "7.2.22Debian 1:7.2+dfsg-7+deb12u18+b3\n",
    "print 1+1": "0x2\n",
}


def test_says_what_the_recorded_monitor_said(tmp_path):
    with FakeHmp(tmp_path / "hmp", ANSWERS) as qemu, socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(qemu.address.path)
        for entry in read_recording(RECORDED)[1:]:
            if "send" in entry:
                client.sendall(entry["send"].encode())
                continue
            said = b""
            while len(said) < len(entry["receive"]):
                said += client.recv(65536)
            assert said.decode() == entry["receive"]
        assert qemu.commands == ["info status", "info name", "quit_nope", "info version", "print 1+1"]


def test_reports_failures_as_text_only(tmp_path):
    with pytest.raises(TypeError):  # noqa: PT012, SIM117 - raised by leaving the context
        with FakeHmp(tmp_path / "hmp", {"x": Refuse("A", "a")}) as qemu, socket.socket(socket.AF_UNIX) as client:
            client.connect(qemu.address.path)
            client.sendall(b"x\n")
            while client.recv(65536):
                pass
