"""A real QEMU with a real guest inside the box, its vCPUs capped by `ringfence set`: scripts/box --nested."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ringfence.lab.guest import GuestSpec, up
from ringfence.qemu.session import Session

pytestmark = pytest.mark.skipif(
    "RINGFENCE_NESTED" not in os.environ, reason="a QEMU in a QEMU, minutes long: scripts/box --nested"
)
WINDOW_S = 10.0
TRIES = 5
BURN = "for n in 0 1; do (while :; do :; done) >/dev/null 2>&1 </dev/null & done"


def say(line: str) -> None:
    """The run is long and is watched."""
    sys.stderr.write(f"{line}\n")


def ringfence(*words: str) -> str:
    line = (sys.executable, "-m", "ringfence", *words)
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    say(done.stdout + done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def shares(pid: int, threads: list[int]) -> list[float]:
    """What each thread had of one CPU, in percent, over a while."""

    def spent() -> list[int]:
        return [int(Path(f"/proc/{pid}/task/{tid}/schedstat").read_text().split()[0]) for tid in threads]

    began, before = time.monotonic(), spent()
    time.sleep(WINDOW_S)
    took = time.monotonic() - began
    found = [(now - then) / took / 1e7 for then, now in zip(before, spent(), strict=True)]
    say(f"percent of one CPU: {[round(share, 1) for share in found]}")
    return found


def hold(pid: int, threads: list[int], caps: list[float]) -> bool:
    """Whether each thread gets its cap within 5 %, never more. One without a CPU to use it is measured again."""
    for _ in range(TRIES):
        found = shares(pid, threads)
        assert all(share <= 1.05 * cap for share, cap in zip(found, caps, strict=True))
        if all(share >= 0.95 * cap for share, cap in zip(found, caps, strict=True)):
            return True
    return False


async def test_caps_hold_for_each_vcpu_and_for_the_whole_vm(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        began = time.monotonic()
        guest = await up(GuestSpec("nested", vcpus=2, vcpus_max=2, memory_bytes=256 << 20), say=say, timeout_s=900)
        try:
            say(f"up after {time.monotonic() - began:.0f} s")
            async with await Session.open(guest.files.qmp_tools, timeout_s=30) as session:
                threads = [cpu["thread-id"] for cpu in await session.execute("query-cpus-fast", timeout_s=30)]
            await guest.run(BURN, timeout_s=120)
            assert guest.pid is not None
            assert all(share > 60 for share in shares(guest.pid, threads))
            ringfence("set", "nested", "cpu.vcpu.0.cap=40%", "cpu.vcpu.1.cap=15%")
            assert hold(guest.pid, threads, [40, 15])
            ringfence("set", "nested", "cpu.vcpu.0.cap=none", "cpu.vcpu.1.cap=none", "cpu.cap=50%")
            assert sum(shares(guest.pid, threads)) <= 50 * 1.05
        finally:
            await guest.down()
