"""What a running VM has now, from answers as QEMU gives them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ringfence.engine import figures
from ringfence.engine.figures import DiskFigures, Figures, Group
from ringfence.errors import MonitorRefusedError
from ringfence.testing.steps import PaperVm

GIB = 1 << 30
ZEROS = dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)
REFUSED = MonitorRefusedError("no")


def block(name: str, inserted: dict[str, Any] | None = None, *, qdev: str = "") -> dict[str, Any]:
    block: dict[str, Any] = {"device": name, "qdev": qdev or f"/machine/peripheral/{name}/virtio-backend"}
    if inserted is not None:
        block["inserted"] = {"node-name": "#block1", "drv": "qcow2", "file": "/img/a", **ZEROS, **inserted}
    return block


def answers(**changed: Any) -> dict[str, Any]:
    usual = {
        "query-cpus-fast": [{"cpu-index": 0}, {"cpu-index": 1}],
        "query-memory-size-summary": {"base-memory": GIB, "plugged-memory": GIB},
        "query-hotpluggable-cpus": [{"vcpus-count": 2}, {"vcpus-count": 2}],
        "query-balloon": {"actual": GIB // 2},
        "query-memory-devices": [],
        "query-block": [],
        "query-blockstats": [],
        "qom-get": "scsi-hd",
    }
    return usual | {key.replace("_", "-"): value for key, value in changed.items()}


def observe(**changed: Any) -> Figures:
    script = PaperVm(answers(**changed))
    found = script.play(figures.observe())
    assert not script.changes()
    return found


def test_size() -> None:
    found = observe()
    assert (found.vcpus, found.vcpus_max, found.memory_bytes) == (2, 4, GIB // 2)


def test_a_machine_without_balloon_and_without_cpu_slots() -> None:
    found = observe(query_balloon=REFUSED, query_hotpluggable_cpus=REFUSED)
    assert (found.vcpus_max, found.memory_bytes) == (None, 2 * GIB)


def test_the_balloon_does_not_count_virtio_mem() -> None:
    devices = [
        {"type": "dimm", "data": {"size": GIB}},
        {"type": "virtio-mem", "data": {"size": GIB // 4, "max-size": GIB}},
    ]
    assert observe(query_memory_devices=devices).memory_bytes == GIB // 2 + GIB // 4


def test_limits_that_are_set_are_named_as_the_knob_names_them() -> None:
    found = observe(query_block=[block("d1", {"iops_rd": 100, "iops_rd_max": 500, "iops_rd_max_length": 5})])
    (disk,) = found.disks
    assert disk.limits == {"iops.read": 100, "iops.read.burst": 500, "iops.read.burst_length": 5}
    assert (disk.file, disk.format, disk.groups) == ("/img/a", "qcow2", ())


def test_the_length_of_a_burst_that_is_not_set_is_no_limit() -> None:
    found = observe(query_block=[block("d1", {"iops": 7, "iops_max_length": 1})])
    assert found.disks[0].limits == {"iops": 7}


def test_firmware_and_empty_drives_are_no_disks() -> None:
    blocks = [block("floppy0"), block("pflash0", {}, qdev="/machine/system.flash0"), block("d1", {})]
    assert [disk.limits for disk in observe(query_block=blocks).disks] == [{}]


TREE = {
    "driver": "copy-on-read",
    "file": {
        "driver": "throttle",
        "throttle-group": "tg0",
        "file": {"driver": "qcow2", "file": {"driver": "file", "filename": "/img/deep"}},
    },
}


def test_limits_of_a_filter_are_found_in_its_group() -> None:
    limits = {"iops-total": 77, "bps-write": 5, "bps-write-max": 9, "bps-write-max-length": 2, "iops-size": 0}

    def qom_get(arguments: dict[str, str]) -> Any:
        return limits if arguments == {"path": "/objects/tg0", "property": "limits"} else "scsi-hd"

    blocks = [block("d1", {"drv": "copy-on-read", "file": "json:" + json.dumps(TREE)})]
    found = observe(query_block=blocks, qom_get=qom_get)
    wanted = {"iops": 77, "bps.write": 5, "bps.write.burst": 9, "bps.write.burst_length": 2}
    assert found.disks == (DiskFigures(found.disks[0].name, "/img/deep", "qcow2", {}, (Group("tg0", wanted),)),)


def test_a_filter_whose_group_is_gone() -> None:
    blocks = [block("d1", {"drv": "throttle", "file": "json:" + json.dumps(TREE)})]
    assert observe(query_block=blocks, qom_get=REFUSED).disks[0].groups == ()


@pytest.mark.parametrize("file", ["json:{", "json:[1]", "json:5"])
def test_a_made_up_file_name_that_cannot_be_read(file: str) -> None:
    assert observe(query_block=[block("d1", {"file": file})]).disks[0].file == file
