"""Asks systemd over D-Bus, by its own `busctl`: it is there wherever systemd is, whatever its version.

Source: org.freedesktop.systemd1(5).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

from ringfence.core.host_requests import Systemd
from ringfence.errors import HostError

_TIMEOUT_S = 25.0  # systemd's own for a D-Bus call

_PAIRS = "a(st)"
_TYPES = {
    "Description": "s",
    "Slice": "s",
    "Delegate": "b",
    "PIDs": "au",
    "AllowedCPUs": "ay",
    "AllowedMemoryNodes": "ay",
    "IOReadIOPSMax": _PAIRS,
    "IOWriteIOPSMax": _PAIRS,
    "IOReadBandwidthMax": _PAIRS,
    "IOWriteBandwidthMax": _PAIRS,
    "IODeviceWeight": _PAIRS,
    "IODeviceLatencyTargetUSec": _PAIRS,
}
"""Signatures of properties; all others are unsigned 64-bit numbers."""


def arguments(request: Systemd) -> list[str]:
    """The words of a call, as busctl(1) takes them."""
    if request.method == "SetUnitProperties":
        return ["sba(sv)", request.unit, "true", *_properties(request.properties)]
    if request.method == "StartTransientUnit":
        return ["ssa(sv)a(sa(sv))", request.unit, "fail", *_properties(request.properties), "0"]
    return ["ss", request.unit, "replace"]


def _properties(properties: Mapping[str, object]) -> list[str]:
    words = [str(len(properties))]
    for name, value in properties.items():
        kind = _TYPES.get(name, "t")
        words += [name, kind, *_WORDS.get(kind, _single)(value)]
    return words


def _single(value: object) -> list[str]:
    return [str(value).lower() if isinstance(value, bool) else str(value)]


def _array(value: object) -> list[str]:
    items = list(value) if isinstance(value, Sequence) else []
    return [str(len(items)), *map(str, items)]


def _pairs(value: object) -> list[str]:
    items = list(value) if isinstance(value, Sequence) else []
    return [str(len(items)), *(str(word) for pair in items for word in pair)]


_WORDS: dict[str, Callable[[object], list[str]]] = {"au": _array, "ay": _array, _PAIRS: _pairs}


async def call(request: Systemd) -> None:
    """As `call_now`, beside an event loop where there is one."""
    loaded = sys.modules.get("asyncio")
    try:
        if loaded is None:
            raise RuntimeError
        loaded.get_running_loop()
    except RuntimeError:
        call_now(request)
    else:
        await loaded.to_thread(call_now, request)


def call_now(request: Systemd) -> None:
    """Make the call, of the system's manager, or of the user's own when it is not root.

    :raise HostError: systemd cannot be asked, refuses, or does not answer.
    """
    whose = ["--user"] if os.geteuid() else []
    line = [
        *("busctl", *whose, f"--timeout={_TIMEOUT_S:.0f}", "--quiet", "call"),
        *("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"),
        *(request.method, *arguments(request)),
    ]
    process = _run_now(line)
    if process.returncode:
        why = process.stderr.decode(errors="replace").strip().splitlines()
        raise HostError(
            f"systemd refuses {request.method} of {request.unit}: {why[-1] if why else 'no reason given'}",
            path=request.unit,
            hint="root may; a user's own units are in the user's systemd (`systemctl --user`)",
        )


def _run_now(line: list[str]) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            line, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False
        )
    except OSError as error:
        raise HostError(f"cannot run busctl: {error.strerror}", path="busctl", errno=error.errno or 0) from error
