"""The double of resctrl does what the real kernel was recorded to do."""

from __future__ import annotations

import ast
import errno
import re
from pathlib import Path

import pytest

from ringfence.testing.fake_resctrl import FakeResctrl
from ringfence.testing.rdt_processors import EPYC, ICELAKE, ICELAKE_CDP, ICELAKE_MBPS

GOLDEN = Path(__file__).parents[2] / "golden"
_WRITE = re.compile(r"W (\S+) ('.*?') -> (OK|.*\((\d+)\)) \| (.*)")
_MKDIR = re.compile(r"mkdir (.+?) -> (OK|.*\((\d+)\)) \| (.*)")
_NOT_PLAYED = ("cpus", "cpus_list", "info/")
RECORDED = [
    ("resctrl-icelake-linux-6.1-2026-11-22.txt", FakeResctrl(ICELAKE, task_lists=False), 70),
    ("resctrl-icelake-linux-6.12-2026-11-22.txt", FakeResctrl(ICELAKE), 70),
    ("resctrl-epyc-linux-6.12-2026-11-22.txt", FakeResctrl(EPYC, domains=4), 70),
]


def attempt(resctrl: FakeResctrl, path: str, text: str | None) -> int:
    """The errno of a write, or of a mkdir; 0 when it is taken."""
    try:
        if text is None:
            resctrl.mkdir(path)
        else:
            resctrl.write(path, text, writer=10)
    except OSError as error:
        return error.errno or -1
    return 0


@pytest.mark.parametrize(("file", "resctrl", "least"), RECORDED, ids=[name for name, _, _ in RECORDED])
def test_replay(file: str, resctrl: FakeResctrl, least: int) -> None:
    """Every write of the first mount, its errno, its status, and the schemata after it."""
    lines = (GOLDEN / file).read_text().splitlines()
    played, stale = 0, False
    for number, line in enumerate(lines):
        if line.startswith("rename "):
            break
        write, mkdir = _WRITE.match(line), _MKDIR.match(line)
        if write and write[1].endswith(_NOT_PLAYED):
            stale = True  # what it left in the status is not ours to know
        elif write:
            path, text = write[1], ast.literal_eval(write[2])
            assert attempt(resctrl, path, text) == int(write[4] or 0), line
            stale = stale and not path.endswith(("schemata", "mode"))
            if not stale:
                assert " / ".join(resctrl.read("info/last_cmd_status").splitlines()) == write[5], line
            if path.endswith("schemata") and lines[number + 1].startswith("     '"):
                assert resctrl.read(path) == ast.literal_eval(lines[number + 1].strip()), line
            played += 1
        elif mkdir:
            name = mkdir[1].removesuffix(" (while exclusive)")
            assert attempt(resctrl, name, None) == int(mkdir[3] or 0), line
            played += 1
        elif line.startswith("size after "):
            assert resctrl.read("g1/size") == ast.literal_eval(line.removeprefix("size after "))
    assert played >= least
    made = 0
    while not attempt(resctrl, f"more{made}", None):
        made += 1
    assert f"mkdir limit after {made} groups" in "\n".join(lines)
    assert attempt(resctrl, "more", None) == errno.ENOSPC
    assert resctrl.read("info/last_cmd_status").endswith("Out of CLOSIDs\n")


def test_code_and_data_apart() -> None:
    text = (GOLDEN / "resctrl-icelake-cdp-linux-6.1-2026-11-22.txt").read_text()
    resctrl = FakeResctrl(ICELAKE_CDP, task_lists=False)
    assert repr(resctrl.read("schemata")) in text
    resctrl.mkdir("c1")
    for line in text.split("second mount")[0].splitlines():
        if write := _WRITE.match(line):
            assert attempt(resctrl, write[1], ast.literal_eval(write[2])) == int(write[4] or 0), line
    assert repr(resctrl.read("c1/schemata")) in text


def test_megabytes_a_second() -> None:
    text = (GOLDEN / "resctrl-icelake-cdp-linux-6.1-2026-11-22.txt").read_text()
    resctrl = FakeResctrl(ICELAKE_MBPS)
    assert repr(resctrl.read("schemata")) in text
    resctrl.mkdir("c1")
    resctrl.write("c1/schemata", "MB:0=1234\n")
    assert repr(resctrl.read("c1/schemata")) in text
