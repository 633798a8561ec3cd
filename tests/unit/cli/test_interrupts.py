"""Ctrl-C in the middle of a change, with an event loop and without."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from ringfence.cli.interrupts import ended_by_signal

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.parametrize("number", NUMBERS)
def test_without_a_loop(number: int) -> None:
    before = [signal.getsignal(each) for each in NUMBERS]
    told: list[int] = []
    with pytest.raises(KeyboardInterrupt), ended_by_signal(lambda: told.append(1)):  # noqa: PT012 - it has to be within
        os.kill(os.getpid(), number)
        assert told == [1]
        os.kill(os.getpid(), number)
    assert told == [1]
    assert [signal.getsignal(each) for each in NUMBERS] == before


@pytest.mark.parametrize("number", NUMBERS)
async def test_in_a_loop(number: int) -> None:
    told = asyncio.Event()

    async def work() -> None:
        with ended_by_signal(told.set):
            os.kill(os.getpid(), number)
            await told.wait()
            os.kill(os.getpid(), number)
            await asyncio.sleep(10)

    with pytest.raises(asyncio.CancelledError):
        await asyncio.ensure_future(work())
