"""Lines typed at the monitor, kept between runs. Imports prompt_toolkit: only for the interactive monitor."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from ringfence.cli.monitor_parse import is_secret


class _PrivateHistory(FileHistory):
    """Keeps no line that `is_secret`; loses a line rather than the session when the file cannot be written."""

    def store_string(self, string: str) -> None:
        if not is_secret(string):
            with contextlib.suppress(OSError):
                super().store_string(string)


def history_path(mode: str) -> Path:
    """`$XDG_STATE_HOME/ringfence/monitor_history` for HMP, `qmp_history` for QMP."""
    state = os.environ.get("XDG_STATE_HOME", "")
    # The XDG Base Directory Specification has relative paths ignored.
    root = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    return root / "ringfence" / ("qmp_history" if mode == "QMP" else "monitor_history")


def open_history(mode: str) -> History:
    """The history of `HMP` or `QMP`, in a file that only its user can read; where there can be none, in memory."""
    try:
        path = history_path(mode)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(handle, 0o600)
        finally:
            os.close(handle)
    except (OSError, RuntimeError):  # RuntimeError: this user has no home directory
        return InMemoryHistory()
    return _PrivateHistory(str(path))
