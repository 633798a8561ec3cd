"""Events reach the listeners that asked for them, and the end of the session does too."""

from __future__ import annotations

import asyncio

import pytest

from ringfence.errors import (
    MonitorGoneError,
)
from ringfence.testing.script import Event, Return, Script

pytestmark = pytest.mark.usefixtures("quiet")
SHORT_S = 0.03
LONG_S = 5.0


async def test_listens_to_the_events_named(connected):
    async with connected({"x": Script((Event("A"), Event("B", {"n": 1}), Return({})))}) as (_qemu, session):
        with session.listen({"B"}) as named, session.listen() as every:
            await session.execute("x")
            event = await named.get(LONG_S)
            assert event is not None
            assert (event["event"], event["data"]) == ("B", {"n": 1})
            assert set(event) == {"event", "data", "timestamp"}
            assert await named.get(0) is None
            assert [(await every.get(LONG_S))["event"] for _ in range(2)] == ["A", "B"]


async def test_events_outside_the_context_are_not_collected(connected):
    async with connected({"x": Script((Event("A"), Return({}))), "y": 1}) as (_qemu, session):
        await session.execute("x")
        with session.listen() as listener:
            await session.execute("y")
            assert await listener.get(0) is None
        await session.execute("x")
        assert await listener.get(0) is None


async def test_waits_for_an_event(connected):
    async with connected() as (qemu, session):
        with session.listen() as listener:
            tasks = len(asyncio.all_tasks())
            assert await listener.get(SHORT_S) is None
            await asyncio.sleep(0)
            assert len(asyncio.all_tasks()) == tasks
            waiting = asyncio.ensure_future(listener.get(None))
            await asyncio.sleep(0)
            qemu.emit("SHUTDOWN", {"guest": True})
            event = await waiting
    assert event["data"] == {"guest": True}


async def test_events_before_the_end_are_given_first(connected):
    async with connected() as (qemu, session):
        with session.listen() as listener:
            waiting = asyncio.ensure_future(listener.get(None))
            await asyncio.sleep(0)
            qemu.emit("SHUTDOWN")
            qemu.emit("STOP")
            qemu.hang_up()
            assert (await waiting)["event"] == "SHUTDOWN"
            assert (await listener.get(LONG_S))["event"] == "STOP"
            with pytest.raises(MonitorGoneError):
                await listener.get(LONG_S)
            with pytest.raises(MonitorGoneError):
                await listener.get(0)


async def test_cancelled_wait_loses_no_event(connected):
    async with connected({"x": 1}) as (qemu, session):
        with session.listen() as listener:
            waiting = asyncio.ensure_future(listener.get(None))
            await asyncio.sleep(0)
            qemu.emit("A")
            await session.execute("x")
            waiting.cancel()
            await asyncio.wait([waiting])
            event = await listener.get(LONG_S) if waiting.cancelled() else waiting.result()
            assert event["event"] == "A"


async def test_an_end_just_as_the_wait_begins_is_not_missed(connected):
    async with connected() as (_qemu, session):
        with session.listen() as listener:
            waiting = asyncio.ensure_future(listener.get(None))
            # As on a closed socket, after `get` has looked and before what it starts has begun to wait. The
            # library tells of a change only those who wait already.
            asyncio.get_running_loop().call_soon(session._client._schedule_disconnect)
            with pytest.raises(MonitorGoneError):
                await asyncio.wait_for(waiting, LONG_S)
