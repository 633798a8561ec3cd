"""The kernel's own resctrl, with what it programs into the processor read back; runs in `scripts/box --rdt`."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path("/sys/fs/resctrl")
MSR_LOG = Path("/share/msr.log")
L3_MASK, MBA_DELAY = 0xC90, 0xD50

pytestmark = pytest.mark.skipif(not MSR_LOG.exists(), reason="no processor with RDT to watch: scripts/box --rdt")


@pytest.fixture
def resctrl() -> Iterator[Path]:
    subprocess.run(("mount", "-t", "resctrl", "resctrl", ROOT), check=True)
    yield ROOT
    subprocess.run(("umount", ROOT), check=True)


def programmed(since: int = 0) -> list[tuple[int, int]]:
    """The MSRs that were written, and the values, in order."""
    lines = MSR_LOG.read_text().splitlines()[since:]
    return [(int(msr, 16), int(value, 16)) for msr, value in (line.split() for line in lines)]


def write(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)


def test_a_mask_and_a_delay_reach_the_processor(resctrl: Path) -> None:
    group = resctrl / "COS1"
    group.mkdir()
    before = len(programmed())
    write(group / "schemata", "L3:0=3\n")
    write(group / "schemata", "MB:0=33\n")
    assert programmed(before) == [(L3_MASK + 1, 3), (MBA_DELAY + 1, 100 - 40)]
    assert (group / "schemata").read_text() == "    MB:0= 40;1=100\n    L3:0=003;1=7ff\n"


def test_a_refused_mask_reaches_nobody(resctrl: Path) -> None:
    before = len(programmed())
    with pytest.raises(OSError, match="Invalid argument"):
        write(resctrl / "schemata", "L3:0=5\n")
    assert "non-consecutive" in (resctrl / "info/last_cmd_status").read_text()
    assert programmed(before) == []


def test_another_program_sees_the_same(resctrl: Path) -> None:
    (resctrl / "COS1").mkdir()
    write(resctrl / "COS1/schemata", "L3:0=3;1=7f0\n")
    Path("/run/lock").mkdir(exist_ok=True)
    shown = subprocess.run(("pqos", "-I", "-s"), capture_output=True, text=True, check=True).stdout
    masks = [line.split("=>")[1].strip() for line in shown.splitlines() if "L3CA COS1 " in line]
    assert masks == ["MASK 0x3", "MASK 0x7f0"]
    before = len(programmed())
    subprocess.run(("pqos", "-I", "-e", "llc@1:2=0x1c"), capture_output=True, check=True)
    assert (L3_MASK + 2, 0x1C) in programmed(before)


def test_monitoring_counts(resctrl: Path) -> None:
    counters = resctrl / "mon_data/mon_L3_01"
    assert int((counters / "llc_occupancy").read_text()) > 0
    first = int((counters / "mbm_total_bytes").read_text())
    assert int((counters / "mbm_total_bytes").read_text()) >= first > 0
