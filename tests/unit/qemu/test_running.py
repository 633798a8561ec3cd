"""Processes are real: small ones that hold a lock as QEMU does."""

import os
import signal
import subprocess
import sys

import pytest

from ringfence.qemu import running

HOLD = """
import fcntl, signal, sys
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
if sys.argv[2] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("held", flush=True)
signal.pause()
"""


@pytest.fixture
def hold(tmp_path):
    """Gives a function that starts a process holding the pidfile."""
    started = []

    def start(kind: str = "polite") -> subprocess.Popen[bytes]:
        argv = (sys.executable, "-S", "-c", HOLD, str(tmp_path / "pid"), kind)
        process = subprocess.Popen(argv, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout.readline() == b"held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_the_holder_of_the_lock_is_the_process(hold, tmp_path):
    process = hold()
    assert running.holder(tmp_path / "pid") == process.pid


def test_a_number_in_a_file_that_nobody_holds_means_nothing(tmp_path):
    (tmp_path / "pid").write_text(f"{os.getppid()}\n")
    assert running.holder(tmp_path / "pid") is None
    assert running.holder(tmp_path / "none") is None
    assert running.stop(tmp_path / "pid", grace_s=0)
    assert running.wait_gone(tmp_path / "pid", timeout_s=0)


def test_a_process_is_asked_first(hold, tmp_path):
    process = hold()
    assert not running.wait_gone(tmp_path / "pid", timeout_s=0)
    assert running.stop(tmp_path / "pid", grace_s=5)
    assert process.wait() == -signal.SIGTERM
    assert running.holder(tmp_path / "pid") is None


def test_and_killed_when_it_does_not_listen(hold, tmp_path):
    process = hold("stubborn")
    assert running.stop(tmp_path / "pid", grace_s=0.02)
    assert process.wait() == -signal.SIGKILL
