import json
from typing import NamedTuple

import pytest

from ringfence.errors import GuestError
from ringfence.lab import workloads
from ringfence.lab.workloads import FioJob


class Run(NamedTuple):
    exit_code: int
    stdout: bytes
    stderr: bytes


class StubGuest:
    """Answers every command with one result, and keeps what it was asked."""

    def __init__(self, stdout: bytes = b"", *, exit_code: int = 0, stderr: bytes = b"") -> None:
        self.asked: list[list[str]] = []
        self._run = Run(exit_code, stdout, stderr)

    async def run(self, command, *, stdin=b"", timeout_s=60.0):
        self.asked.append(command)
        return self._run


def direction(iops=0.0, bytes_per_s=0, p50_ns=None, p99_ns=None):
    clat = {} if p50_ns is None else {"percentile": {"50.000000": p50_ns, "99.000000": p99_ns}}
    return {"iops": iops, "bw_bytes": bytes_per_s, "clat_ns": clat}


FIO = json.dumps(
    {
        "jobs": [
            {
                "read": direction(100.5, 411648, 39_000_000, 43_000_000),
                "write": direction(48.0, 9, 1000, 99_000_000),
            }
        ]
    }
)


async def test_fio_runs_the_job_and_reads_its_result():
    guest = StubGuest(b"note: something\n" + FIO.encode())
    result = await workloads.fio(guest, FioJob("randrw", 4096, 8, runtime_s=2.5, ramp_s=0.5, device="/dev/vdb"))
    assert (result.read_iops, result.write_iops, result.read_bytes_per_s) == (100.5, 48.0, 411648)
    assert (result.p50_us, result.p99_us) == (39_000, 99_000)
    (argv,) = guest.asked
    assert {
        "--rw=randrw",
        "--bs=4096",
        "--iodepth=8",
        "--runtime=2500ms",
        "--ramp_time=500ms",
        "--direct=1",
    } <= set(argv)
    assert "--filename=/dev/vdb" in argv


def test_a_direction_without_io_has_no_latency():
    text = json.dumps({"jobs": [{"read": direction(1.0, 1, 5000, 6000), "write": direction()}]})
    assert workloads.parse_fio(text).p99_us == 6


@pytest.mark.parametrize("text", ["", "fio: failed", "{}", '{"jobs": []}', '{"jobs": [{"read": {}}]}'])
def test_anything_but_fios_json_is_the_guests_fault(text):
    with pytest.raises(GuestError, match="JSON"):
        workloads.parse_fio(text)


async def test_a_failed_command_says_its_last_words():
    guest = StubGuest(exit_code=1, stderr=b"first\nfio: no such file\n")
    with pytest.raises(GuestError, match="ended with 1: fio: no such file"):
        await workloads.fio(guest, FioJob())


async def test_meminfo_is_in_bytes():
    guest = StubGuest(b"MemTotal:       238812 kB\nMemAvailable:   200000 kB\nHugePages_Total:       3\n")
    found = await workloads.meminfo(guest)
    assert found == {"MemTotal": 238812 * 1024, "MemAvailable": 200000 * 1024, "HugePages_Total": 3}


@pytest.mark.parametrize(
    ("text", "cpus"), [("0\n", (0,)), ("0-2,4\n", (0, 1, 2, 4)), ("0,3-4", (0, 3, 4)), ("", ())]
)
def test_cpu_lists(text, cpus):
    assert workloads.parse_cpu_list(text) == cpus


async def test_touching_memory_writes_as_much_as_was_said():
    guest = StubGuest()
    await workloads.touch_memory(guest, 64 * 1024 * 1024)
    assert "count=64;" in guest.asked[0][-1]


async def test_memory_that_the_guest_has_not_is_an_error():
    with pytest.raises(GuestError, match="No space left"):
        await workloads.touch_memory(StubGuest(exit_code=1, stderr=b"dd: No space left on device"), 1 << 40)
