"""The lab itself, on real guests."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ringfence.errors import GuestError, HostError, UsageError
from ringfence.lab import workloads
from ringfence.lab.guest import GuestSpec, find_guest, list_guests, up
from ringfence.qemu import accel
from ringfence.qemu.launch import installed_qemu
from ringfence.qemu.session import Session
from ringfence.units import GIB, MIB


def ringfence(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run((sys.executable, "-m", "ringfence", *arguments), input=stdin, capture_output=True)


def open_disk(pid: int) -> Path:
    """The first disk that the process has open."""
    links = (os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir())
    return next(Path(target) for target in links if target.endswith("disk0.raw"))


def running(pid: int) -> bool:
    """Whether the process is there, and is not one that only waits to be reaped."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("machine", ["q35", "pc"])
async def test_a_guest_is_what_was_asked_for(lab_guest, machine):
    guest = await lab_guest(machine=machine, vcpus=2, memory_bytes=384 * MIB, disks_bytes=[GIB, 64 * MIB])
    assert find_guest(guest.name).pid == guest.pid
    assert await workloads.online_cpus(guest) == (0, 1)
    assert 256 * MIB < (await workloads.meminfo(guest))["MemTotal"] < 384 * MIB
    sizes = await guest.run("cat /sys/block/vda/size /sys/block/vdb/size; grep -c ^virtio_balloon /proc/modules")
    assert sizes.stdout.split() == [b"2097152", b"131072", b"1"]


async def test_commands_have_input_two_outputs_and_an_exit_code(lab_guest):
    guest = await lab_guest()
    done = await guest.run("cat; echo oops >&2; exit 3", stdin=b"hello\n")
    assert (done.exit_code, done.stdout, done.stderr) == (3, b"hello\n", b"oops\n")
    assert (await guest.run(["echo", "a  b", "$HOME"])).stdout == b"a  b $HOME\n"
    assert (await guest.run(["cat", "/proc/self/oom_score_adj"])).stdout == b"0\n"


async def test_tools_run_on_the_first_disk(lab_guest):
    guest = await lab_guest(disks_bytes=[256 * MIB])
    result = await workloads.fio(guest, workloads.FioJob("randrw", runtime_s=1, ramp_s=0.2))
    assert min(result.read_iops, result.write_iops, result.p50_us) > 0
    assert result.p99_us >= result.p50_us
    assert result.read_bytes_per_s == pytest.approx(result.read_iops * 4096, rel=0.02)
    assert (await guest.run(["stress-ng", "--version"])).exit_code == 0


async def test_touched_memory_is_memory_of_the_host(lab_guest):
    guest = await lab_guest(free_page_reporting=False)

    def rss_bytes() -> int:
        return int(Path(f"/proc/{guest.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    await workloads.meminfo(guest)
    before = rss_bytes()
    await workloads.touch_memory(guest, 256 * MIB)
    assert rss_bytes() - before > 128 * MIB
    with pytest.raises(GuestError):
        await workloads.touch_memory(guest, 8 * GIB)


async def test_kernel_options_take_parts_away(lab_guest):
    guest = await lab_guest(kernel_options=["ringfence.balloon=0", "ringfence.agent=0"])
    assert "guest is up" in guest.console()
    async with await Session.open(guest.files.qmp) as session:
        balloon = await session.execute("query-balloon")
        await session.execute("balloon", {"value": 256 * MIB})
        assert await session.execute("query-balloon") == balloon


@pytest.mark.parametrize(
    ("option", "online"), [("ringfence.cpu_online=0", (0,)), ("ringfence.cpu_online=1", (0, 1))]
)
async def test_a_new_cpu_is_left_to_the_agent_unless_told_otherwise(
    cpu_hotplug, lab_guest, needs_cpu_hotplug, option, online
):
    guest = await lab_guest(kernel_options=[option])
    async with await Session.open(guest.files.qmp) as session:
        await needs_cpu_hotplug(session)
        slots = await session.execute("query-hotpluggable-cpus")
        free = [slot for slot in slots if "qom-path" not in slot][-1]
        await session.execute("device_add", {"driver": free["type"], "id": "plugged", **free["props"]})
    present = "while [ ! -e /sys/devices/system/cpu/cpu1/online ]; do sleep 0.1; done"
    assert (await guest.run(present)).exit_code == 0
    if len(online) > 1:
        await guest.run("while [ $(cat /sys/devices/system/cpu/cpu1/online) = 0 ]; do sleep 0.1; done")
    assert await workloads.online_cpus(guest) == online


async def test_the_agent_comes_back_after_it_was_killed(lab_guest):
    guest = await lab_guest()
    await guest.run("(sleep 0.2; killall qemu-ga) >/dev/null 2>&1 </dev/null &")
    async with asyncio.timeout(30):
        while "the agent ended" not in guest.console():  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # polls a file that QEMU writes
    assert (await guest.run(["true"])).exit_code == 0


async def test_nothing_is_left_of_a_guest(image):
    guest = await up(GuestSpec(f"gone-{os.getpid()}", disks_bytes=[MIB]))
    pid, directory = guest.pid, guest.files.directory
    disk = open_disk(pid)
    assert disk.exists()
    await guest.down()
    await guest.down()
    assert not running(pid)
    assert not directory.exists()
    assert not disk.parent.exists()
    assert guest.name not in [other.name for other in list_guests()]


async def test_a_guest_that_hangs_is_ended_all_the_same(lab_guest):
    guest = await lab_guest()
    async with await Session.open(guest.files.qmp_tools):  # its own monitor is busy: signals must do
        await guest.down()
    assert guest.pid is None


async def test_a_boot_that_fails_leaves_nothing_and_shows_the_console(image):
    said = []
    name = f"fails-{os.getpid()}"
    with pytest.raises(GuestError, match=r"did not boot|ended while"):
        await up(
            GuestSpec(name, kernel_options=["rdinit=/nowhere", "root=/nowhere"]), say=said.append, timeout_s=60
        )
    assert "panic" in said[-1]
    with pytest.raises(UsageError, match="no lab guest"):
        find_guest(name)


async def test_a_qemu_that_refuses_its_options_says_why(image):
    with pytest.raises(HostError, match="nosuchdevice"):
        await up(GuestSpec(f"bad-{os.getpid()}", extra=["-device", "nosuchdevice"]))
    assert not any(guest.name.startswith("bad-") for guest in list_guests())


async def test_a_name_is_given_once(lab_guest):
    guest = await lab_guest()
    with pytest.raises(UsageError, match="already"):
        await up(GuestSpec(guest.name))
    assert (await guest.run(["true"])).exit_code == 0


def test_the_command_line_boots_runs_lists_and_ends(image):
    name = f"cli-{os.getpid()}"
    try:
        booted = ringfence("lab", "up", name, "--disk", "64MiB", "--memory", "256MiB", "--kernel-option", "x=y")
        assert booted.returncode == 0, booted.stderr
        assert name.encode() in ringfence("lab", "ls").stdout
        done = ringfence("lab", "run", name, "--", "sh", "-c", "cat; echo no >&2; exit 7", stdin=b"in")
        assert (done.returncode, done.stdout, done.stderr) == (7, b"in", b"no\n")
        assert b"x=y" in ringfence("lab", "run", name, "--", "cat /proc/cmdline").stdout
    finally:
        ended = ringfence("lab", "down", name)
    assert ended.returncode == 0
    assert name.encode() not in ringfence("lab", "ls", "-o", "json").stdout
    assert ringfence("lab", "run", name, "true").returncode == UsageError.exit_code


def test_the_probe_reaches_its_end_under_tcg():
    assert accel.probe(installed_qemu(), "tcg", timeout_s=60) == ""


def test_what_is_chosen_works():
    chosen = accel.choose(installed_qemu())
    assert accel.probe(installed_qemu(), chosen.name, timeout_s=60) == ""
