"""PURE: how the monitor's answers, events and messages look."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, tzinfo
from typing import Any


def as_json(value: object) -> str:
    """A QMP answer for people and for jq: two spaces of indentation, QEMU's order of keys."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def as_wire(command: str, arguments: Mapping[str, object]) -> str:
    """A QMP command as it is sent, on one line."""
    message: dict[str, object] = {"execute": command}
    if arguments:
        message["arguments"] = dict(arguments)
    return "-> " + json.dumps(message, ensure_ascii=False) + "\n"


def event_line(event: Mapping[str, Any], zone: tzinfo | None = None) -> str:
    """An event on one line: QEMU's time, its name, its data: `[14:02:11] BALLOON_CHANGE {"actual": 536870912}`.

    :param zone: of the time shown; None is the local one.
    """
    stamp = event.get("timestamp") or {}
    parts = []
    # QEMU gives -1 when the host's clock failed it.
    if stamp.get("seconds", -1) >= 0:
        parts.append(datetime.fromtimestamp(stamp["seconds"], zone).strftime("[%H:%M:%S]"))
    parts.append(str(event["event"]))
    if event.get("data"):
        parts.append(json.dumps(event["data"], ensure_ascii=False))
    return " ".join(parts)


def banner(name: str, version: str, mode: str, address: str) -> str:
    """What greets at the prompt: whom one speaks to, how, and how to leave.

    :param version: QEMU's, empty when it did not say.
    :param mode: `HMP` or `QMP`.
    """
    qemu = f"QEMU {version}" if version else "QEMU"
    return f"{name}: {qemu}, {mode} on {address}\nTab completes, Ctrl-D leaves, quit ends the VM.\n"


def version_text(greeting: Mapping[str, Any]) -> str:
    """QEMU's version from the `QMP` object of its greeting: `7.2.22`; empty when it is not there."""
    numbers = greeting.get("version", {}).get("qemu")
    if not isinstance(numbers, dict):
        return ""
    return ".".join(str(numbers[key]) for key in ("major", "minor", "micro") if key in numbers)
