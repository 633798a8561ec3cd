"""What the tests of the sessions share."""

from __future__ import annotations

import asyncio
import contextlib
import gc

import pytest

from ringfence.qemu.session import Session
from ringfence.testing.fake_qemu import FakeQemu


@pytest.fixture
async def quiet(capfd, caplog):
    """Whatever happens to a session, nothing is printed and no task's error is left unlooked at."""
    unhandled = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
    yield
    gc.collect(1)
    await asyncio.sleep(0)
    assert unhandled == []
    assert capfd.readouterr().err == ""
    assert [record for record in caplog.records if record.name.startswith("asyncio")] == []


@pytest.fixture
def path(tmp_path):
    return tmp_path / "qmp"


@pytest.fixture
def connected(path):
    """A function that opens a session with a fake QEMU, given its answers."""

    @contextlib.asynccontextmanager
    async def connect(answers=None):
        async with FakeQemu(path, answers) as qemu, await Session.open(qemu.address) as session:
            yield qemu, session

    return connect
