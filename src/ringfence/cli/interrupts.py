"""Ctrl-C in the middle of a change: what is under way leaves order."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio


@contextmanager
def ended_by_signal(interrupt: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP call `interrupt`; the second one ends the block at once, the third kills.

    :raise asyncio.CancelledError: at the second; KeyboardInterrupt where no event loop runs.
    """
    import signal

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    task = _running_task()
    seen = 0

    def end(*_: object) -> None:
        nonlocal seen
        seen += 1
        if seen == 1:
            interrupt()
            return
        restore()
        if task is None:
            raise KeyboardInterrupt
        task.cancel()

    if task is not None:
        loop = task.get_loop()

        def restore() -> None:
            for number in numbers:
                loop.remove_signal_handler(number)

        for number in numbers:
            loop.add_signal_handler(number, end)
    else:
        before = {number: signal.signal(number, end) for number in numbers}

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

    try:
        yield
    finally:
        restore()


def _running_task() -> asyncio.Task[object] | None:
    """The task that runs this; None where there is no event loop, and so none has been loaded for it."""
    loaded = sys.modules.get("asyncio")
    try:
        task: asyncio.Task[object] | None = loaded.current_task() if loaded else None
    except RuntimeError:
        return None
    return task
