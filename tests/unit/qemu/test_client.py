"""What the client keeps: nothing. (What it sends and gives back is tested with the session.)"""

from __future__ import annotations

import asyncio

import pytest

from ringfence.errors import MonitorGoneError, MonitorTimeoutError
from ringfence.testing.script import SILENCE, Event, Return, Script

pytestmark = pytest.mark.usefixtures("quiet")


async def test_neither_answers_nor_events_pile_up(connected):
    async with connected({"x": Script((Event("A"), Return(1)))}) as (_, session):
        for _ in range(3):
            await session.execute("x")
        assert session._client._replies == {}
        assert session._client.events.history == ()
        assert session._client.events.empty()


async def test_a_command_given_up_does_not_keep_the_others_from_hearing_of_the_end(connected):
    async with connected({"x": SILENCE}) as (qemu, session):
        with pytest.raises(MonitorTimeoutError):
            await session.execute("x", timeout_s=0.01)
        waiting = asyncio.ensure_future(session.execute("x"))
        await asyncio.sleep(0.01)
        qemu.hang_up()
        with pytest.raises(MonitorGoneError):
            await waiting
