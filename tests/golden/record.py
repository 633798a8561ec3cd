"""Record what a real QEMU says: `python tests/golden/record.py`, from the repository's root.

Writes one file for each session below into this folder, named after the QEMU version and the day. The first line
of a file tells how it was made; then come `{"send": ...}` and `{"receive": ...}` in the order they were seen.
Speaks to the sockets by itself, so that a recording does not depend on the code that is tested with it.
"""

from __future__ import annotations

import datetime
import json
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
QEMU = "qemu-system-x86_64"
NO_LIMIT = {"bps": 0, "bps_rd": 0, "bps_wr": 0, "iops": 0, "iops_rd": 0, "iops_wr": 0}
BARE = ["-machine", "none", "-S"]
DEVICES = [
    *("-machine", "q35", "-accel", "tcg", "-S", "-m", "256M,slots=2,maxmem=1G", "-smp", "1,maxcpus=2"),
    *("-device", "virtio-balloon-pci,id=balloon0"),
    *(
        "-drive",
        "driver=null-co,if=none,id=d1,size=64M,read-zeroes=on",
        "-device",
        "virtio-blk-pci,id=vd1,drive=d1",
    ),
    *("-blockdev", "driver=null-co,node-name=n2,size=67108864,read-zeroes=on"),
    *("-device", "virtio-blk-pci,id=vd2,drive=n2"),
]
MONITOR_COMMANDS = [
    ("query-status", None),
    ("qmp_capabilities", {"enable": ["oob"]}),
    ("qmp_capabilities", None),
    ("query-version", None),
    ("query-status", None),
    ("cont", None),
    ("query-status", None),
    ("stop", None),
    ("query-status", None),
    ("query-name", None),
    ("query-block", None),
    ("query-nope", None),
    ("balloon", {"value": "x"}),
    ("query-balloon", None),
    ("human-monitor-command", {"command-line": "info status"}),
    ("human-monitor-command", {"command-line": "info balloon"}),
    ("human-monitor-command", {"command-line": "nosuch 1"}),
    ("human-monitor-command", {"command-line": ""}),
]
DEVICE_COMMANDS = [
    ("qmp_capabilities", None),
    ("query-block", None),
    ("block_set_io_throttle", {"id": "/machine/peripheral/vd1/virtio-backend", **NO_LIMIT, "iops": 100}),
    ("query-block", None),
    ("block_set_io_throttle", {"id": "/machine/peripheral/vd2/virtio-backend", **NO_LIMIT, "bps_wr": 1048576}),
    ("query-block", None),
    ("block_set_io_throttle", {"id": "vd2", **NO_LIMIT}),
    ("block_set_io_throttle", {"device": "n2", **NO_LIMIT}),
    ("block_set_io_throttle", {"device": "d1", **NO_LIMIT, "iops": 10, "iops_rd": 5}),
    ("block_set_io_throttle", {"device": "d1", **NO_LIMIT}),
    ("query-block", None),
    ("query-balloon", None),
    ("balloon", {"value": 200000000}),
    ("query-balloon", None),
    ("qom-get", {"path": "/machine/peripheral/balloon0", "property": "guest-stats"}),
    ("query-hotpluggable-cpus", None),
    ("query-cpus-fast", None),
    ("query-memory-devices", None),
    ("query-memory-size-summary", None),
]
HMP_LINES = ["info status", "info name", "quit_nope", "info version", "print 1+1", ""]
AGENT_LINES = [
    b'{"execute":"guest-p',
    b'\xff{"execute":"guest-sync-delimited","arguments":{"id":12345678901}}\n',
    b'{"execute":"guest-ping"}\n',
    b'{"execute":"guest-nope"}\n',
    b"garbage\n",
]
SCHEMA_NAMES = [
    *("balloon", "block_set_io_throttle", "human-monitor-command", "migrate-set-parameters", "qom-set"),
    *("query-stats", "query-status", "screendump", "set_password", "BALLOON_CHANGE", "SHUTDOWN"),
]


class Wire:
    """A socket of QEMU's, read until it has been silent for a while."""

    def __init__(self, path: Path) -> None:
        deadline = time.monotonic() + 5
        self.socket = socket.socket(socket.AF_UNIX)
        while True:
            try:
                self.socket.connect(str(path))
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        self.socket.settimeout(0.3)

    def exchange(self, data: bytes = b"") -> bytes:
        self.socket.sendall(data)
        seen = b""
        try:
            while more := self.socket.recv(1 << 20):
                seen += more
        except TimeoutError:
            pass
        return seen


def record_qmp(wire: Wire, commands: list) -> list[dict]:
    entries = [{"receive": json.loads(line)} for line in wire.exchange().splitlines()]
    for name, arguments in commands:
        command = {"execute": name} if arguments is None else {"execute": name, "arguments": arguments}
        entries.append({"send": command})
        entries += [
            {"receive": json.loads(line)} for line in wire.exchange(json.dumps(command).encode()).splitlines()
        ]
    return entries


def record_text(wire: Wire, lines: list[bytes]) -> list[dict]:
    """Bytes as text, one character a byte."""
    entries = [{"receive": wire.exchange().decode("latin-1")}]
    for line in lines:
        entries += [{"send": line.decode("latin-1")}, {"receive": wire.exchange(line).decode("latin-1")}]
    return entries


def trimmed_schema(wire: Wire) -> list[dict]:
    """The entries of SCHEMA_NAMES, and of every type they lead to."""
    wire.exchange(b'{"execute": "qmp_capabilities"}')
    every = {
        entry["name"]: entry for entry in json.loads(wire.exchange(b'{"execute": "query-qmp-schema"}'))["return"]
    }
    wanted, queue = {}, list(SCHEMA_NAMES)
    while queue:
        entry = every[queue.pop()]
        if entry["name"] not in wanted:
            wanted[entry["name"]] = entry
            parts = [*entry.get("members", ()), *entry.get("variants", ()), entry]
            queue += [part[key] for part in parts for key in ("type", "arg-type", "element-type") if key in part]
    return [{"receive": entry} for name, entry in every.items() if name in wanted]


def write(kind: str, program: str, arguments: list[str], entries: list[dict]) -> None:
    text = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[
        0
    ]
    version = re.search(r"\d+\.\d+\.\d+", text)[0]
    day = datetime.date.today().isoformat()
    header = {"recorded": day, "version": text, "arguments": arguments}
    file = HERE / f"{kind}-{version}-{day}.jsonl"
    file.write_text("".join(json.dumps(entry) + "\n" for entry in [header, *entries]))
    sys.stdout.write(f"{file}: {len(entries)} entries\n")


def record_qemu(folder: Path, kinds: dict[str, object], arguments: list[str]) -> None:
    qmp, hmp = folder / "qmp", folder / "hmp"
    sockets = ["-qmp", f"unix:{qmp},server=on,wait=off", "-monitor", f"unix:{hmp},server=on,wait=off"]
    process = subprocess.Popen([QEMU, "-nodefaults", "-no-user-config", "-display", "none", *arguments, *sockets])
    try:
        for kind, record in kinds.items():
            write(kind, QEMU, arguments, record(Wire(hmp if kind == "hmp" else qmp)))
    finally:
        process.terminate()
        process.wait()


def record_agent(folder: Path, program: str) -> None:
    path = folder / "agent"
    process = subprocess.Popen([program, "-m", "unix-listen", "-p", path, "-t", folder])
    try:
        write("agent", program, [], record_text(Wire(path), AGENT_LINES))
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        record_qemu(
            folder,
            {
                "qmp-monitor": lambda wire: record_qmp(wire, MONITOR_COMMANDS),
                "qmp-schema": trimmed_schema,
                "hmp": lambda wire: record_text(wire, [f"{line}\n".encode() for line in HMP_LINES]),
            },
            BARE,
        )
        record_qemu(folder, {"qmp-devices": lambda wire: record_qmp(wire, DEVICE_COMMANDS)}, DEVICES)
        if sys.argv[1:]:
            record_agent(folder, sys.argv[1])


if __name__ == "__main__":
    main()
