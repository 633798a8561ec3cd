"""Folders of unit tests: in memory where that can be; thousands of them on a disk take half of all the time."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_IN_MEMORY = "/dev/shm"


@pytest.fixture(scope="session")
def _folders(request: pytest.FixtureRequest) -> Iterator[Iterator[Path]]:
    """New folders without end, kept after a failure; short, as a socket's path must fit into 107 bytes."""
    base = _IN_MEMORY if os.access(_IN_MEMORY, os.W_OK | os.X_OK) else None
    top = Path(tempfile.mkdtemp(prefix="rf-", dir=base))
    yield (top / str(number) for number in itertools.count())
    if not request.session.testsfailed:
        shutil.rmtree(top)


@pytest.fixture
def tmp_path(_folders: Iterator[Path]) -> Path:
    path = next(_folders)
    path.mkdir()
    return path
