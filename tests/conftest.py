"""Options of the whole test run; they are read by tests/vm/conftest.py."""

from __future__ import annotations

import itertools

import pytest

_NUMBERS = itertools.count()


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
