"""`ringfence run` with a real QEMU: what it starts can be changed while it runs."""

import asyncio
import os
import subprocess
import sys

import pytest

from ringfence.qemu.files import files_of
from ringfence.qemu.launch import CONSOLE
from ringfence.qemu.running import holder, stop
from ringfence.qemu.session import Session


@pytest.fixture
def vm(image):
    """A VM of `ringfence run`, in the background; gives its files."""
    name = f"run-{os.getpid()}"
    files = files_of("vm", name)
    guest = ["-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", "console=ttyS0 quiet"]
    command = ["run", name, "--memory", "256MiB", "--vcpus", "2", "--max-vcpus", "4", "--", *guest, "-daemonize"]
    started = subprocess.run((sys.executable, "-m", "ringfence", *command), capture_output=True, text=True)
    assert started.returncode == 0, started.stderr
    yield files
    assert stop(files.pidfile, grace_s=5)


async def booted(files) -> None:
    """The end of what the guest has written stays in QEMU; reading takes it out."""
    read = {"device": CONSOLE, "size": 65536}
    said = ""
    async with asyncio.timeout(60), await Session.open(files.qmp) as qmp:
        while "guest is up" not in said:
            said += await qmp.execute("ringbuf-read", read)
            await asyncio.sleep(0.1)


async def test_both_monitors_serve_at_once(vm):
    async with await Session.open(vm.qmp) as people, await Session.open(vm.qmp_tools) as tools:
        assert (await people.execute("query-name"))["name"].startswith("run-")
        assert (await tools.execute("query-status"))["running"]


async def test_memory_cpus_and_devices_can_be_plugged(vm):
    await booted(vm)
    async with await Session.open(vm.qmp_tools) as qmp:
        await qmp.execute("object-add", {"qom-type": "memory-backend-ram", "id": "m1", "size": 128 << 20})
        await qmp.execute("device_add", {"driver": "pc-dimm", "id": "dimm1", "memdev": "m1"})
        assert (await qmp.execute("query-memory-size-summary"))["plugged-memory"] == 128 << 20
        slots = await qmp.execute("query-hotpluggable-cpus")
        assert len(slots) == 4
        free = [slot for slot in slots if "qom-path" not in slot][-1]
        await qmp.execute("device_add", {"driver": free["type"], "id": "cpu2", **free["props"]})
        assert len(await qmp.execute("query-cpus-fast")) == 3
        await qmp.execute("device_add", {"driver": "virtio-rng-pci", "id": "rng1", "bus": "spare0"})
        assert any(d["qdev_id"] == "rng1" for bus in await qmp.execute("query-pci") for d in devices(bus))


def devices(bus):
    """Every PCI device on the bus and on those behind its bridges."""
    for device in bus["devices"]:
        yield device
        yield from devices(device["pci_bridge"]) if device.get("pci_bridge", {}).get("devices") else ()


async def test_the_balloon_has_what_this_qemu_can(vm):
    async with await Session.open(vm.qmp) as qmp:
        for name in ("deflate-on-oom", "free-page-reporting"):
            path = {"path": "/machine/peripheral/balloon0", "property": name}
            assert await qmp.execute("qom-get", path) is True


def test_a_second_vm_of_this_name_is_refused(vm):
    again = subprocess.run(
        (sys.executable, "-m", "ringfence", "run", vm.directory.name), capture_output=True, text=True
    )
    assert again.returncode == 2
    assert str(holder(vm.pidfile)) in again.stderr
