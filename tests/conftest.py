"""Options of the whole test run, read by tests/vm/conftest.py; and what measures does so alone.

Tests run in several processes at a time, a file in one of them: so one waits for its guest while another works.
Those marked `measures` compare a rate with its limit: of these, one runs at a time.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_NUMBERS = itertools.count()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "measures: not beside another test that measures")


@pytest.fixture(autouse=True)
def _measures_alone(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.node.get_closest_marker("measures") is None:
        yield
        return
    with (Path(tempfile.gettempdir()) / f"ringfence-measures-{os.getuid()}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("QEMU")
    group.addoption("--qemu", default="", metavar="PATH|SUITE", help="run tests/vm with this QEMU only")
    group.addoption(
        "--smoke-qemu",
        default="trixie",
        metavar="SUITE",
        help="run the tests marked `smoke` with this suite's QEMU too (default: %(default)s)",
    )
    group.addoption(
        "--all-qemus",
        action="store_true",
        help="fail, rather than skip, when the QEMU of --smoke-qemu cannot be had",
    )


@pytest.fixture(autouse=True)
def _journal_of_this_test(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test writes into, or reads from, the journal of who runs it."""
    monkeypatch.setenv("RINGFENCE_STATE_DIR", str(tmp_path_factory.getbasetemp() / f"state-{next(_NUMBERS)}"))
