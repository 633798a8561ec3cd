"""Every kind of disk, however it was made: all limits are set and read back, pools are joined and left.

A QEMU that is paused before its first instruction is enough to see what QEMU holds; one guest shows that it holds
there, too.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ringfence
from ringfence.core.knob import Verdict
from ringfence.core.model import Address
from ringfence.engine import changes
from ringfence.engine.changes import Result
from ringfence.engine.driver import Edges, run
from ringfence.errors import TenantError
from ringfence.knobs.disk.throttle import DiskThrottle
from ringfence.lab.guest import Guest
from ringfence.lab.workloads import FioJob
from ringfence.qemu.session import Session
from ringfence.units import MIB

QEMU = shutil.which("qemu-system-x86_64")
pytestmark = [pytest.mark.measures, pytest.mark.skipif(QEMU is None, reason="needs qemu-system-x86_64")]

DEVICES = {
    "virtio-blk": "virtio-blk-pci,id={id},drive={node}",
    "virtio-blk-iothread": "virtio-blk-pci,id={id},drive={node},iothread=io0",
    "virtio-scsi": "scsi-hd,id={id},drive={node},bus=scsi.0",
    "virtio-scsi-iothread": "scsi-hd,id={id},drive={node},bus=scsi-io.0",
    "ide": "ide-hd,id={id},drive={node},bus=ide.{slot}",
    "nvme": "nvme,id={id},drive={node},serial={id}",
}
MADE_BY = ("drive", "blockdev", "hotplug")
KINDS = [(kind, how) for kind in DEVICES for how in MADE_BY if (kind, how) != ("ide", "hotplug")]
EXTRA = [("nvme-ns", "blockdev"), ("virtio-blk", "if=virtio"), ("ide", "if=ide"), ("usb", "blockdev")]


def disk_id(kind: str, how: str) -> str:
    if how.startswith("if="):
        return f"drive-{kind}"
    return f"{kind}-{how}"


def command_line(folder: Path) -> list[str]:
    def node(kind: str, how: str) -> str:
        name = f"n-{disk_id(kind, how)}"
        (folder / name).touch()
        os.truncate(folder / name, 8 * MIB)
        return name

    line = [
        *(str(QEMU), "-S", "-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35", "-m", "64"),
        *("-accel", "tcg", "-qmp", f"unix:{folder}/qmp,server=on,wait=off", "-object", "iothread,id=io0"),
        *("-device", "virtio-scsi-pci,id=scsi", "-device", "virtio-scsi-pci,id=scsi-io,iothread=io0"),
        *("-device", "nvme,id=controller,serial=c", "-device", "qemu-xhci,id=usb"),
    ]
    for number in range(4):
        line += ["-device", f"pcie-root-port,id=port{number},chassis={number + 1},slot={number + 1}"]
    for kind, how in KINDS:
        name = node(kind, how)
        if how == "hotplug":
            continue
        if how == "drive":
            line += ["-drive", f"if=none,id={name},format=raw,file={folder / name}"]
        else:
            line += ["-blockdev", f"driver=raw,node-name={name},file.driver=file,file.filename={folder / name}"]
        slot = 0 if how == "drive" else 1
        line += ["-device", DEVICES[kind].format(id=disk_id(kind, how), node=name, slot=slot)]
    for kind, how in EXTRA:
        name = node(kind, how)
        if how.startswith("if="):
            place = ",index=3" if kind == "ide" else ""
            line += ["-drive", f"{how},id={disk_id(kind, how)},format=raw,file={folder / name}{place}"]
        else:
            line += ["-blockdev", f"driver=raw,node-name={name},file.driver=file,file.filename={folder / name}"]
    line += ["-device", "nvme-ns,id=nvme-ns-blockdev,drive=n-nvme-ns-blockdev,bus=controller,nsid=1"]
    return [*line, "-device", "usb-storage,id=usb-blockdev,drive=n-usb-blockdev"]


@pytest.fixture(scope="module")
def monitor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of one QEMU with every kind of disk that can be there from the start."""
    folder = tmp_path_factory.mktemp("kinds")
    process = subprocess.Popen(command_line(folder))
    try:
        for _ in range(500):
            if (folder / "qmp").exists():
                break
            assert process.poll() is None
            time.sleep(0.02)
        yield folder / "qmp"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
async def edges(monitor: Path) -> AsyncIterator[Edges]:
    session = await Session.open(Address(str(monitor)), timeout_s=10)
    edges = Edges(session, None, 0)
    yield edges
    await edges.close()


@pytest.fixture
async def hotplugged(edges: Edges, monitor: Path) -> None:
    """The disks that are plugged into the running QEMU, once."""
    present = {block["qdev"] for block in await edges.session.execute("query-block")}
    if any("hotplug" in qdev for qdev in present):
        return
    port = 0
    for kind, how in KINDS:
        if how != "hotplug":
            continue
        name = f"n-{disk_id(kind, how)}"
        file = {"driver": "file", "filename": str(monitor.parent / name)}
        await edges.session.execute("blockdev-add", {"driver": "raw", "node-name": name, "file": file})
        driver, *options = DEVICES[kind].format(id=disk_id(kind, how), node=name, slot=0).split(",")
        arguments: dict[str, object] = {"driver": driver, **dict(option.split("=") for option in options)}
        if driver != "scsi-hd":
            arguments["bus"] = f"port{port}"
            port += 1
        await edges.session.execute("device_add", arguments)


async def set_all(edges: Edges, values: dict[str, Any]) -> list[Result]:
    return await changes.apply(edges, await changes.plan(edges, values), timeout_s=10)


async def swaps_live(edges: Edges) -> bool:
    """Whether this QEMU moves a running device to another block node: from 6.2 on."""
    version = (await edges.session.execute("query-version"))["qemu"]
    return bool((version["major"], version["minor"]) >= (6, 2))


def all_limits(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Totals exclude those of a direction, so two sets make all eighteen."""
    totals: dict[str, Any] = {}
    directions: dict[str, Any] = {}
    for kind in ("iops", "bps"):
        for number, (leaf, into) in enumerate((("", totals), (".read", directions), (".write", directions))):
            key = f"disk.{name}.{kind}{leaf}"
            into |= {key: 1000 + number, f"{key}.burst": 5000 + number, f"{key}.burst_length": 3 + number}
    both = {f"disk.{name}.io_size": 8192, f"disk.{name}.group": "kinds"}
    return totals | both, directions | both


@pytest.mark.parametrize(("kind", "how"), [*KINDS, *EXTRA])
async def test_all_limits_are_set_and_read_back(edges: Edges, hotplugged: None, kind: str, how: str) -> None:
    name = disk_id(kind, how)
    for wanted in all_limits(name):
        results = await set_all(edges, wanted)
        assert {r.verdict for r in results} == {Verdict.APPLIED}
        knob = DiskThrottle()
        parts = await run(knob.observe(), edges)
        (part,) = [part for part in parts if name in (part.name, *part.aliases)]
        leaves = [row.key.removeprefix("disk.<disk>.") for row in knob.rows]
        held = {
            f"disk.{name}.{leaf}": knob.observation(part, row).actual
            for row, leaf in zip(knob.rows, leaves, strict=True)
        }
        # Nobody else is in the group, and a group of one is shown by the name that was chosen for it.
        assert {key: value for key, value in held.items() if value is not None} == wanted
        lifted = dict.fromkeys((key for key in wanted if "burst" not in key), None)
        assert {r.verdict for r in await set_all(edges, lifted)} == {Verdict.APPLIED}


@pytest.mark.parametrize(("kind", "how"), [*KINDS, *EXTRA])
async def test_a_pool_is_joined_and_left_without_a_trace(
    edges: Edges, hotplugged: None, kind: str, how: str
) -> None:
    async def nodes() -> Any:
        return await edges.session.execute("query-named-block-nodes", {"flat": True})

    name, before = disk_id(kind, how), await nodes()
    join = {"pool.kinds.iops": 500, f"disk.{name}.pool": "kinds"}
    if "iothread" in kind:
        with pytest.raises(TenantError, match="QEMU crashes"):
            await set_all(edges, join)
    else:
        made, joined = await set_all(edges, join)
        assert made.verdict is Verdict.APPLIED
        if await swaps_live(edges):
            assert joined.verdict is Verdict.APPLIED
            (left,) = await set_all(edges, {f"disk.{name}.pool": None})
            assert left.verdict is Verdict.APPLIED
        else:
            assert (joined.verdict, joined.actual) == (Verdict.UNSUPPORTED, None)
    assert await nodes() == before
    assert not [o for o in await edges.session.execute("qom-list", {"path": "/objects"}) if "pool" in o["name"]]


async def test_a_disk_is_named_as_in_the_guest_only_where_that_is_certain(edges: Edges, hotplugged: None) -> None:
    parts = await run(DiskThrottle().observe(), edges)
    names = {name for part in parts for name in (part.name, *part.aliases)}
    assert {"vda", "vdb"} <= names
    assert not names & {"sda", "sdb", "nvme0n1", "nvme1n1"}


async def test_limits_hold_on_scsi_nvme_and_iothreads(
    lab_guest: Callable[..., Awaitable[Guest]], tmp_path: Path
) -> None:
    extra = ["-object", "iothread,id=io0", "-device", "virtio-scsi-pci,id=scsi,iothread=io0"]
    devices = (
        "virtio-blk-pci,id=blk0,iothread=io0,drive={0}",
        "scsi-hd,id=scsi0,bus=scsi.0,drive={0}",
        "nvme,id=nvme0,serial=n,drive={0}",
    )
    for number, device in enumerate(devices):
        file = tmp_path / f"{number}.raw"
        file.touch()
        os.truncate(file, 64 * MIB)
        extra += ["-blockdev", f"driver=raw,node-name=k{number},file.driver=file,file.filename={file}"]
        extra += ["-device", device.format(f"k{number}")]
    guest = await lab_guest(memory_bytes=256 * MIB, disks_bytes=(64 * MIB,), extra=extra)
    wanted = {"vdb": 100, "sda": 150, "nvme0n1": 200}
    async with ringfence.connect() as host:
        vm = await host.vm(guest.name)
        results = await vm.set({f"disk.{name}.iops": iops for name, iops in wanted.items()})
        assert [r.verdict for r in results] == [Verdict.APPLIED] * 3
    fio, *settings = FioJob(rw="randread", runtime_s=7).arguments()
    shared = [s for s in settings if not s.startswith(("--name", "--filename"))]
    jobs = [word for name in wanted for word in (f"--name={name}", f"--filename=/dev/{name}")]
    done = await guest.run([fio, *shared, *jobs], timeout_s=60)
    assert done.exit_code == 0, done.stderr
    text = done.stdout.decode()
    seen = {job["jobname"]: job["read"]["iops"] for job in json.loads(text[text.index("{") :])["jobs"]}
    assert seen == {name: pytest.approx(iops, rel=0.05) for name, iops in wanted.items()}
