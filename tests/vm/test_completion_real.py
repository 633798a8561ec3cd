"""Completion against a real QEMU, and at a real prompt."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pexpect
import pytest

from ringfence.lab.guest import Guest
from ringfence.qemu.session import Session
from ringfence.units import MIB

Boot = Callable[..., Awaitable[Guest]]


async def fish(line: str) -> list[str]:
    """Words offered for a line, without their help."""
    environment = {
        "_RINGFENCE_COMPLETE": "complete_fish",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "_TYPER_COMPLETE_ARGS": f"ringfence {line}",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ringfence"),
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert err == b""
    return [offered.split("\t")[0] for offered in out.decode().splitlines()]


async def test_keys_have_the_disks_as_the_guest_calls_them(lab_guest: Boot) -> None:
    guest = await lab_guest(memory_bytes=256 * MIB, disks_bytes=(MIB,))
    assert {"disk.vda.iops=", "disk.vda.bps="} <= set(await fish(f"set {guest.name} disk."))
    by_socket = await fish(f"set --qmp {guest.files.qmp} d")
    assert "disk.vda.iops=" in by_socket
    assert await fish(f"set {guest.name} memory.target=") == ["memory.target=128MiB", "memory.target=256MiB"]


async def test_a_busy_monitor_is_not_waited_for(lab_guest: Boot) -> None:
    guest = await lab_guest(memory_bytes=256 * MIB, disks_bytes=(MIB,))
    async with await Session.open(guest.files.qmp), await Session.open(guest.files.qmp_tools):
        offered = await fish(f"set {guest.name} ")
    assert offered[:2] == ["memory.target=", "vcpus="]
    assert any(word.startswith("disk.") for word in offered)  # by the names on the command line


@pytest.fixture
def prompt(tmp_path: Path) -> Iterator[pexpect.spawn]:
    """Bash with the program on its path and its completion loaded."""
    program = tmp_path / "ringfence"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m ringfence "$@"\n')
    program.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "TERM": "dumb", "INPUTRC": "/dev/null"}
    child = pexpect.spawn("bash", ["--norc"], env=environment, encoding="utf-8", timeout=30)
    child.sendline("bind 'set enable-bracketed-paste off'; PS1='ready> '")
    child.expect("\r\nready> ")
    child.sendline('eval "$(ringfence --show-completion)"')
    child.expect("\r\nready> ")
    yield child
    child.close(force=True)


async def test_at_a_prompt_of_bash(lab_guest: Boot, prompt: pexpect.spawn) -> None:
    guest = await lab_guest(memory_bytes=256 * MIB)
    prompt.send(f"ringfence set {guest.name[:-2]}\t")
    prompt.expect_exact(f"{guest.name} ")
    prompt.send("memory.ta\t")
    prompt.expect_exact("rget")
    prompt.send("=1\t")
    prompt.expect_exact("28MiB ")
