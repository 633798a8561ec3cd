"""Two guests on one served SSD: what the victim of a writing neighbour feels, shared and channel-isolated.

The guests run under TCG on a machine of two cores, so the model is made slow until flash time, not the CPUs', is
what requests wait for (`SLOWER`). Also: what the server itself can do, by `qemu-img bench`, without the model.
Exit code 1 when a limit does not hold. `--write` puts the table into benchmarks/results/flash_live.md.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from ringfence.lab.guest import Guest, GuestSpec, up
from ringfence.lab.workloads import FioJob, FioResult, fio
from ringfence.units import MIB

RESULTS = Path(__file__).parent / "results"
SLOWER = 40
SIZE = "256MiB"
CASES = {
    "shared": ("isolation=none", "isolation=none"),
    "channel-isolated": ("channels=0-7", "channels=8-15"),
}
VICTIM = FioJob(rw="randread", block_size_bytes=16384, iodepth=4, runtime_s=20, ramp_s=2, device="/dev/vda")
AGGRESSOR = FioJob(rw="randwrite", block_size_bytes=65536, iodepth=16, runtime_s=26, ramp_s=0, device="/dev/vda")


class Served:
    """`ringfence flash serve` with a victim's and an aggressor's virtual SSD."""

    def __init__(self, directory: Path, options: tuple[str, str], *more: str) -> None:
        self.directory = directory
        line = [sys.executable, "-m", "ringfence", "flash", "serve", str(directory)]
        for name, option in zip(("victim", "aggressor"), options, strict=True):
            line += ["--vssd", f"{name},size={SIZE},{option}"]
        self._process = subprocess.Popen([*line, *more], stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        while "serving;" not in (line_said := self._process.stderr.readline()):
            if not line_said:
                raise SystemExit("the server did not start")

    def uri(self, name: str) -> str:
        return f"nbd+unix:///?socket={self.directory}/{name}.sock"

    def end(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.communicate()
        shutil.rmtree(self.directory)


def server_alone(base: Path) -> dict[str, float]:
    """Requests of 4 KiB per second, 16 under way on one connection, answered at once."""
    served = Served(base / "alone", ("channels=0-7", "channels=8-15"), "--instant")
    found = {}
    for name, option in (("read", ()), ("write", ("-w",))):
        line = [
            "qemu-img",
            "bench",
            "-f",
            "raw",
            "-c",
            "60000",
            "-d",
            "16",
            "-s",
            "4096",
            *option,
            served.uri("victim"),
        ]
        said = subprocess.run(line, check=True, capture_output=True, text=True).stdout
        took = re.search(r"completed in ([0-9.]+) s", said)
        assert took is not None
        found[name] = 60000 / float(took[1])
    served.end()
    return found


async def guests(served: Served, case: str) -> tuple[Guest, Guest]:
    specs = [
        GuestSpec(f"flash-{name}", memory_bytes=256 * MIB, served_disks=(served.uri(name),))
        for name in ("victim", "aggressor")
    ]
    print(f"{case}: booting two guests", file=sys.stderr)
    return await up(specs[0]), await up(specs[1])


async def measure(base: Path, case: str) -> tuple[FioResult, FioResult, FioResult]:
    """Alone, beside the aggressor, and the aggressor."""
    served = Served(base / case, CASES[case], "--slower", str(SLOWER))
    victim, aggressor = await guests(served, case)
    try:
        alone = await fio(victim, VICTIM)
        writing = asyncio.create_task(fio(aggressor, AGGRESSOR))
        await asyncio.sleep(3)
        beside = await fio(victim, VICTIM)
        return alone, beside, await writing
    finally:
        await asyncio.gather(victim.down(), aggressor.down())
        served.end()


def main() -> int:
    base = Path(tempfile.mkdtemp(prefix="rf-live-"))
    rate = server_alone(base)
    found = {case: asyncio.run(measure(base, case)) for case in CASES}
    base.rmdir()
    shared, isolated = found["shared"], found["channel-isolated"]
    ratio = shared[1].p99_us / isolated[1].p99_us
    to_alone = isolated[1].p99_us / isolated[0].p99_us
    least = min(rate.values())
    lines = [
        "# A served SSD under two guests",
        "",
        f"vd16 with flash and buses {SLOWER} times slower, so that flash time dominates what TCG adds on",
        f"{os.cpu_count()} cores; victim: fio 16 KiB random reads, 4 under way, 20 s; aggressor: 64 KiB random",
        "writes, 16 under way. Both fio in guests of their own. By `benchmarks/flash_live.py`.",
        "",
        "| case | victim's p50, ms | p99, ms | IOPS | aggressor's IOPS |",
        "|---|---|---|---|---|",
    ]
    for case, (alone, beside, writing) in found.items():
        for label, result, other in ((f"{case}, alone", alone, None), (f"{case}, beside", beside, writing)):
            other_iops = f"{other.write_iops:.0f}" if other else ""
            lines.append(
                f"| {label} | {result.p50_us / 1e3:.2f} | {result.p99_us / 1e3:.2f} | {result.read_iops:.0f} "
                f"| {other_iops} |"
            )
    checks = {
        f"p99 shared / channel-isolated: {ratio:.1f} (at least 3)": ratio >= 3,
        f"p99 channel-isolated / alone: {to_alone:.3f} (0.9 to 1.1)": 0.9 <= to_alone <= 1.1,
        f"server without the model, 4 KiB: {rate['read']:.0f} reads/s, {rate['write']:.0f} writes/s "
        "(at least 10,000)": least >= 10_000,
    }
    lines += ["", *(f"- {text}: {'holds' if ok else 'DOES NOT HOLD'}" for text, ok in checks.items())]
    text = "\n".join(lines) + "\n"
    print(text)
    if "--write" in sys.argv:
        (RESULTS / "flash_live.md").write_text(text)
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
