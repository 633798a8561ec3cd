"""A private event loop in a thread of its own, for whoever has none: what `ringfence.blocking` stands on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent import futures
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, TypeVar

from ringfence.errors import UsageError

_T = TypeVar("_T")


class LoopThread:
    """Runs coroutines, from any thread but its own. The thread is started when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Event | None = None

    def run(self, coroutine: Coroutine[Any, Any, _T], *, interrupt: Callable[[], object] | None = None) -> _T:
        """What the coroutine returns, or raises.

        :param interrupt: has it end soon and in good order; called in the loop's thread, on Ctrl-C, whereupon its
            end is waited for. A second Ctrl-C does not wait. Without it, the coroutine is cancelled.
        :raise UsageError: called in the loop's own thread, such as by a callback for progress.
        """
        if self._is_here():
            coroutine.close()
            raise UsageError(
                "a callback may not wait for what it is called by",
                hint="have it take a note of it, and do it when the call is back; `interrupt` may be called",
            )
        loop = self._started()
        future = asyncio.run_coroutine_threadsafe(coroutine, loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            if interrupt is None:
                future.cancel()
            else:
                loop.call_soon_threadsafe(interrupt)
            futures.wait((future,))
            raise

    def call(self, function: Callable[[], _T]) -> _T:
        """What a function returns that has to be called in the loop's thread; also from there."""
        if self._is_here():
            return function()

        async def called() -> _T:
            return function()

        return self.run(called())

    @contextmanager
    def entered(self, manager: AbstractAsyncContextManager[_T]) -> Iterator[_T]:
        """An asynchronous context as a plain one."""

        async def leave(error: BaseException | None) -> bool | None:
            if error is None:
                return await manager.__aexit__(None, None, None)
            return await manager.__aexit__(type(error), error, error.__traceback__)

        async def enter() -> _T:
            return await manager.__aenter__()

        value = self.run(enter())
        try:
            yield value
        except BaseException as error:
            if not self.run(leave(error)):
                raise
        else:
            self.run(leave(None))

    def close(self) -> None:
        """End the thread; what still runs in it is cancelled. It starts anew if it is needed again."""
        with self._lock:
            thread, loop, ended = self._thread, self._loop, self._ended
            self._thread = self._loop = self._ended = None
        if thread is not None and loop is not None and ended is not None:
            loop.call_soon_threadsafe(ended.set)
            thread.join()

    def _is_here(self) -> bool:
        return self._thread is threading.current_thread()

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                ready = threading.Event()
                # A daemon thread: a program that forgets to close it still ends.
                self._thread = threading.Thread(target=self._serve, args=(ready,), name="ringfence", daemon=True)
                self._thread.start()
                ready.wait()
            assert self._loop is not None
            return self._loop

    def _serve(self, ready: threading.Event) -> None:
        async def until_ended() -> None:
            ended = self._ended = asyncio.Event()
            self._loop = asyncio.get_running_loop()
            ready.set()
            await ended.wait()

        asyncio.run(until_ended())
