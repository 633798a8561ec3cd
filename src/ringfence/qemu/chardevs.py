"""PURE: the sockets a command line opens: its monitors, and the guest agent's channel.

Source: QEMU qemu-options.hx (-chardev, -mon, -qmp, -monitor), chardev/char.c (the short forms such as
`unix:PATH,server=on`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ringfence.core.model import Address, Monitor
from ringfence.qemu.options import Fields, Option, count, is_on, keyval
from ringfence.qemu.process import Process

AGENT_PORT = "org.qemu.guest_agent.0"
_ANY_HOST = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
_HOST_PORT = ("tcp:", "telnet:")
_SHORT_MONITORS = {"qmp": "qmp", "qmp-pretty": "qmp", "monitor": "hmp"}
_MONITOR_OBJECTS = {"monitor-qmp": "qmp", "monitor-hmp": "hmp"}


def by_id(options: Sequence[Option]) -> dict[str, Option]:
    """The chardevs of a command line."""
    found = (
        (keyval(option.text, "backend").get("id", ""), option) for option in options if option.name == "chardev"
    )
    return {name: option for name, option in found if name}


def monitors(options: Sequence[Option], process: Process) -> Iterator[Monitor]:
    """Every monitor that the command line asks for, in its order. QEMU's own defaults are not among them."""
    chardevs = by_id(options)
    for option in options:
        if kind := _SHORT_MONITORS.get(option.name):
            if option.text != "none":
                yield _short(kind, option.text, chardevs, process)
        elif option.name == "mon":
            fields = keyval(option.text, "chardev")
            kind = "qmp" if fields.get("mode") == "control" else "hmp"
            yield _on_chardev(kind, fields.get("chardev", ""), chardevs, process)
        elif option.name == "object":
            fields = keyval(option.text, "qom-type")
            if kind := _MONITOR_OBJECTS.get(fields.get("qom-type", "")):
                yield _on_chardev(kind, fields.get("chardev", ""), chardevs, process)
        elif option.name == "serial" and option.text.startswith("mon:"):
            shared = _short("hmp", option.text.removeprefix("mon:"), chardevs, process)
            yield shared._replace(where=option.text, mux=True)


def agent(options: Sequence[Option], process: Process) -> Address | None:
    """The host's end of the guest agent's channel."""
    for option in options:
        if option.name == "device":
            fields = keyval(option.text, "driver")
            if fields.get("driver") == "virtserialport" and fields.get("name") == AGENT_PORT:
                chardev = by_id(options).get(fields.get("chardev", ""))
                return _listening(keyval(chardev.text, "backend"), process) if chardev else None
    return None


def _short(kind: str, text: str, chardevs: dict[str, Option], process: Process) -> Monitor:
    if text.startswith("chardev:"):
        return _on_chardev(kind, text.removeprefix("chardev:"), chardevs, process)
    if text.startswith("unix:"):
        fields = keyval(text.removeprefix("unix:"), "path")
    elif text.startswith(_HOST_PORT):
        fields = keyval(text.partition(":")[2], "at")
        fields["host"], _, fields["port"] = fields.get("at", "").rpartition(":")
    else:
        return Monitor(kind, None, text)
    return Monitor(kind, _listening({**fields, "backend": "socket"}, process), text)


def _on_chardev(kind: str, name: str, chardevs: dict[str, Option], process: Process) -> Monitor:
    chardev = chardevs.get(name)
    if chardev is None:
        return Monitor(kind, None, f"chardev {name}")
    fields = keyval(chardev.text, "backend")
    return Monitor(kind, _listening(fields, process), chardev.text, is_on(fields.get("mux", "")))


def _listening(fields: Fields, process: Process) -> Address | None:
    """Where a chardev can be connected to, if it can."""
    if fields.get("backend") != "socket" or not is_on(fields.get("server", "")):
        return None
    if "tls-creds" in fields or any(is_on(fields.get(kind, "")) for kind in ("abstract", "websocket")):
        return None  # nothing here speaks these
    if "fd" in fields:
        fd = count(fields["fd"])
        path = process.socket_path(fd) if fd is not None else ""
    else:
        path = fields.get("path", "")
    if path:
        return Address(path=_absolute(path, process))
    port = count(fields.get("port", ""))
    if port is None or not 0 < port < 65536:
        return None
    host = fields.get("host", "").removeprefix("[").removesuffix("]")
    return Address(host=_ANY_HOST.get(host, host), port=port)


def _absolute(path: str, process: Process) -> str:
    cwd = "" if path.startswith("/") else process.cwd()
    return f"{cwd.rstrip('/')}/{path}" if cwd else path
