"""Runs the daemon until it is told to stop: files, keepers, control socket, metrics, the service manager."""

from __future__ import annotations

import asyncio
import gc
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

from ringfence.daemon import service
from ringfence.daemon.metrics import Metrics, serve_metrics
from ringfence.daemon.office import Office
from ringfence.daemon.server import Server
from ringfence.daemon.service import log
from ringfence.daemon.verbs import Verbs
from ringfence.daemon.warden import Warden
from ringfence.engine import spec_files
from ringfence.engine.journal import Journal
from ringfence.errors import RingfenceError


class Settings(NamedTuple):
    """:param fences: the file, or the directory of files, to keep true.

    :param socket: where to be asked.
    :param metrics: where Prometheus may: `HOST:PORT` or a path; empty is nowhere.
    """

    fences: Path
    socket: Path
    metrics: str = ""


class Daemon:
    """One daemon of this host.

    :raise RingfenceError: by `run`, before it is ready: the files are wrong, or the socket cannot be had.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Be it, until SIGTERM, SIGINT or `stop`. What is in force then stays."""
        spec = spec_files.load(self._settings.fences)
        async with AsyncExitStack() as stack:
            record = Journal.open()
            stack.callback(record.close)
            office = Office(record)
            for waiting in await office.tidy():
                stack.callback(waiting.cancel)
            self._warden = Warden(office)
            metrics = Metrics(self._warden)
            verbs = Verbs(self._warden, reload=self._reload, metrics=metrics.text)
            server = Server(self._settings.socket, verbs.table())
            await server.start()
            stack.push_async_callback(server.close)
            stack.push_async_callback(self._warden.stop)
            if self._settings.metrics:
                stack.push_async_callback(await serve_metrics(self._settings.metrics, metrics))
            self._handle_signals()
            self._warden.start(spec)
            # What was loaded stays until the end: the collector need not look at it again and again.
            gc.collect()
            gc.freeze()
            self._ready()
            await self._watched()
            service.notify("STOPPING=1")
            log("info", "stopping; every limit stays as it is")

    def stop(self) -> None:
        """Have `run` end."""
        self._stop.set()

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self._hung_up)

    def _hung_up(self) -> None:
        try:
            log("info", self._reload())
        except RingfenceError as error:
            log("error", f"the files are not taken over: {error.message}")

    def _reload(self) -> str:
        """Read the files anew and say what they come to.

        :raise RingfenceError: they are wrong; those of before stay in force.
        """
        service.reloading()
        try:
            spec = spec_files.load(self._settings.fences)
            self._warden.reload(spec)
        finally:
            self._ready()
        return f"{len(spec.files)} files of fences, {len(self._warden.keepers)} tenants kept"

    def _ready(self) -> None:
        service.notify("READY=1", f"STATUS=keeping {len(self._warden.keepers)} tenants")

    async def _watched(self) -> None:
        """Wait for the end, and say meanwhile that the loop turns."""
        every_s = service.watchdog_s()
        if every_s is None:
            await self._stop.wait()
            return
        while not self._stop.is_set():
            service.notify("WATCHDOG=1")
            try:
                async with asyncio.timeout(every_s):
                    await self._stop.wait()
            except TimeoutError:
                continue
