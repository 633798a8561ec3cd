"""The host's NVMe drives: what sysfs says, and nvme-cli where it is installed."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ringfence.flash.drives import Drive, Namespace, read_drive

NVME_TIMEOUT_S = 5.0
"""A drive answers an identify command within milliseconds; one that is gone may never answer."""

Ask = Callable[[list[str]], Mapping[str, Any] | None]


def nvme_cli(arguments: list[str]) -> Mapping[str, Any] | None:
    """What nvme-cli prints as JSON; None where it is missing, may not ask (root only), or the drive refuses."""
    program = shutil.which("nvme", path="/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, *arguments, "--output-format=json"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=NVME_TIMEOUT_S,
            check=False,
        )
        found = json.loads(done.stdout) if done.returncode == 0 else None
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return found if isinstance(found, Mapping) else None


def find_drives(root: Path = Path("/"), ask: Ask = nvme_cli) -> tuple[Drive, ...]:
    """All of the host's drives, by name. Changes nothing; what cannot be read is left out.

    :param ask: takes nvme-cli's arguments, gives its JSON.
    """
    try:
        names = sorted(path.name for path in (root / "sys/class/nvme").iterdir())
    except OSError:
        return ()
    return tuple(_drive(root, name, ask) for name in names)


def _drive(root: Path, name: str, ask: Ask) -> Drive:
    device = f"/dev/{name}"
    model, page = _text(root / "sys/class/nvme" / name / "model"), ask(["id-ctrl", device])
    found = read_drive(name, model, page)
    if found.fdp:
        configs = (ask(["fdp", "configs", device, "--endgrp-id=1"]) or {}).get("configs")
        found = read_drive(name, model, page, configs if isinstance(configs, list) else ())
    namespaces = _namespaces(root, name, ask)
    names = [namespace.name for namespace in namespaces]
    return found._replace(
        namespaces=namespaces,
        capacity_bytes=found.capacity_bytes or sum(_size_bytes(root, name) for name in names),
        uses=tuple(use for name in names for use in _uses(root, name)),
    )


def _size_bytes(root: Path, block: str) -> int:
    """sysfs counts in 512 bytes, whatever the disk's own sectors are."""
    sectors = _text(root / "sys/block" / block / "size")
    return 512 * int(sectors) if sectors.isdecimal() else 0


def _uses(root: Path, block: str) -> list[str]:
    """Where a disk or a partition of it is mounted or swapped to, and what (LVM, RAID, crypt) is made of it."""
    folder = root / "sys/block" / block
    parts = [folder, *sorted(folder.glob(f"{block}p*"))]
    devices = {f"/dev/{part.name}" for part in parts}
    mounts = [line.split() for line in _text(root / "proc/self/mounts").splitlines()]
    swaps = [line.split() for line in _text(root / "proc/swaps").splitlines()]
    found = [words[1] for words in mounts if len(words) > 1 and words[0] in devices]
    found += ["swap" for words in swaps if words and words[0] in devices]
    for part in parts:
        holders = part / "holders"
        found += sorted(holder.name for holder in holders.iterdir()) if holders.is_dir() else []
    return found


def _namespaces(root: Path, controller: str, ask: Ask) -> tuple[Namespace, ...]:
    """With multipath the kernel shows a hidden path (`nvme0c0n1`) beside the disk (`nvme0n1`): disks only."""
    found = []
    try:
        blocks = sorted(path.name for path in (root / "sys/block").iterdir())
    except OSError:
        return ()
    for name in blocks:
        prefix, _, number = name.rpartition("n")
        if prefix != controller or not number.isdecimal():
            continue
        page = ask(["id-ns", f"/dev/{name}"]) or {}
        zoned = _text(root / "sys/block" / name / "queue/zoned") or "none"
        ids = [page.get(key) for key in ("nvmsetid", "endgid")]
        nvm_set, group = (value if isinstance(value, int) else 0 for value in ids)
        found.append(Namespace(name, zoned, nvm_set, group))
    return tuple(found)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
