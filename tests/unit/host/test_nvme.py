"""Drives by recorded answers of nvme-cli 2.3 to QEMU's emulated ones: 7.2.22 with zones, 10.0.13 with FDP."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ringfence.flash.drives import Drive, abilities, place, read_drive
from ringfence.host.nvme import find_drives

GOLDEN = Path(__file__).parents[2] / "golden/nvme-cli-2.3-2026-11-25.json"


def host(tmp_path: Path, recorded: Mapping[str, Any]) -> Drive:
    """A tree of sysfs, and a stand-in for nvme-cli that answers as it was recorded."""
    (tmp_path / "sys/class/nvme/nvme0").mkdir(parents=True)
    (tmp_path / "sys/class/nvme/nvme0/model").write_text(f"{recorded['model']}\n")
    for name, zoned in recorded["zoned"].items():
        (tmp_path / "sys/block" / name / "queue").mkdir(parents=True)
        (tmp_path / "sys/block" / name / "queue/zoned").write_text(f"{zoned}\n")

    def ask(arguments: list[str]) -> Mapping[str, Any] | None:
        found = recorded.get(" ".join(arguments).replace("--endgrp-id=1", "-e 1"))
        assert found is None or isinstance(found, dict)
        return found

    (drive,) = find_drives(tmp_path, ask)
    return drive


@pytest.fixture
def recorded() -> dict[str, Any]:
    found = json.loads(GOLDEN.read_text())
    assert isinstance(found, dict)
    return found


def test_zones(tmp_path: Path, recorded: dict[str, Any]) -> None:
    drive = host(tmp_path, recorded["zns"])
    assert drive.known
    assert [(n.name, n.zoned) for n in drive.namespaces] == [("nvme0n1", "host-managed"), ("nvme0n2", "none")]
    assert (drive.fdp, drive.nvm_sets, drive.endurance_groups) == (False, 0, 0)
    assert [ability.kind for ability in abilities(drive)] == ["zones", "namespaces"]
    assert "/dev/nvme0n1" in abilities(drive)[0].command


def test_flexible_data_placement(tmp_path: Path, recorded: dict[str, Any]) -> None:
    drive = host(tmp_path, recorded["fdp"])
    assert (drive.fdp, drive.reclaim_groups, drive.handles, drive.endurance_groups) == (True, 2, 4, 1)
    assert [n.name for n in drive.namespaces] == ["nvme0n1"]  # the hidden path of multipath is none
    assert drive.namespaces[0].endurance_group == 1
    assert [a.kind for a in abilities(drive)] == ["FDP reclaim groups", "FDP handles", "namespaces"]


def test_without_nvme_cli_only_what_sysfs_says(tmp_path: Path, recorded: dict[str, Any]) -> None:
    drive = host(tmp_path, {**recorded["zns"], "id-ctrl /dev/nvme0": None})
    assert not drive.known
    assert drive.model == "QEMU NVMe Ctrl"
    assert [ability.kind for ability in abilities(drive)] == ["zones", "namespaces"]


def test_how_large_a_drive_is_and_what_the_host_does_with_it(tmp_path: Path, recorded: dict[str, Any]) -> None:
    disk = tmp_path / "sys/block/nvme0n1"
    for folder in ("holders", "nvme0n1p1/holders", "nvme0n1p2/holders/dm-0"):
        (disk / folder).mkdir(parents=True)
    (disk / "size").write_text("2048\n")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mounts").write_text(
        "/dev/nvme0n1p1 /boot ext4 rw 0 0\n/dev/nvme0n10 /mnt ext4 rw 0 0\n"
    )
    (tmp_path / "proc/swaps").write_text("Filename Type Size\n/dev/nvme0n1 partition 1 0 -2\n")
    drive = host(tmp_path, recorded["fdp"])
    assert drive.capacity_bytes == 1024**2  # it says 0 of all its media
    assert drive.uses == ("/boot", "swap", "dm-0")
    assert read_drive("nvme0", "", {"tnvmcap": str(2**70)}).capacity_bytes == 2**70
    assert read_drive("nvme0", "", {"tnvmcap": "much"}).capacity_bytes == 0


def test_no_drives(tmp_path: Path) -> None:
    assert find_drives(tmp_path) == ()


def test_sets_and_groups_by_their_bits() -> None:
    page = {"ctratt": 1 << 2 | 1 << 4, "nsetidmax": 4, "endgidmax": 2, "nn": 32}
    kinds = [ability.kind for ability in abilities(read_drive("nvme1", "x", page))]
    assert kinds == ["NVM sets", "endurance groups", "namespaces"]
    # numbers without the bits are left-overs, and firmware that answers nonsense has nothing
    for nonsense in ({**page, "ctratt": 0}, {"ctratt": "0x14", "nn": -1}, {"ctratt": True, "nsetidmax": 9}):
        assert [a.kind for a in abilities(read_drive("nvme1", "x", nonsense))] == ["namespaces"]


def test_tenants_are_placed_by_the_best_that_holds_them_all() -> None:
    sets = read_drive("nvme0", "", {"ctratt": 4, "nsetidmax": 2, "nn": 32})
    plain = read_drive("nvme1", "", {"ctratt": 0, "nn": 1})
    assert [(p.drive, p.kind) for p in place(["a", "b"], [sets, plain])] == [
        ("nvme0", "separate drives"),
        ("nvme1", "separate drives"),
    ]
    assert [(p.drive, p.kind) for p in place(["a", "b"], [sets])] == [("nvme0", "NVM sets")] * 2
    assert [(p.drive, p.kind) for p in place(["a", "b", "c"], [sets])] == [("nvme0", "namespaces")] * 3
    assert [(p.drive, p.kind) for p in place(["a", "b", "c"], [plain, sets])] == [
        ("nvme0", "NVM sets"),
        ("nvme0", "NVM sets"),
        ("nvme1", "namespaces"),
    ]
    assert place(["a"], []) == ()
