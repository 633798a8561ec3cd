"""Progress of long steps, on a terminal only, and only of what takes over a second."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ringfence import units
from ringfence.engine.driver import ProgressCallback, no_progress

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

    from ringfence.core.requests import Progress

_SILENT_S = 1.0


class _Bar:
    """Draws nothing in the first second, so that a quick change leaves no flicker."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._bar: RichProgress | None = None
        self._tasks: dict[str, int] = {}

    def update(self, progress: Progress) -> None:
        if self._bar is None:
            if time.monotonic() - self._start < _SILENT_S:
                return
            self._bar = self._open()
        if progress.text not in self._tasks:
            self._tasks[progress.text] = self._bar.add_task(progress.text, total=progress.total, done="")
        from rich.progress import TaskID

        done, total = (units.format_value(progress.unit, n) for n in (progress.done, progress.total))
        self._bar.update(
            TaskID(self._tasks[progress.text]),
            completed=progress.done,
            total=progress.total,
            done=f"{done} of {total}",
        )

    def _open(self) -> RichProgress:
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        from ringfence.cli.output import console

        bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[done]}"),
            console=console(stderr=True),
            transient=True,
        )
        bar.start()
        return bar

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


@contextmanager
def shown_progress(*, quiet: bool) -> Iterator[ProgressCallback]:
    """A callback that draws a bar while the block runs; one that does nothing when it would disturb."""
    if quiet or not sys.stderr.isatty():
        yield no_progress
        return
    bar = _Bar()
    try:
        yield bar.update
    finally:
        bar.close()
