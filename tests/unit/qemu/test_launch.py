from itertools import pairwise
from pathlib import Path

import pytest

from ringfence.errors import HostError, UsageError
from ringfence.qemu import launch
from ringfence.qemu.disks import Disk
from ringfence.qemu.files import Files
from ringfence.qemu.launch import VmOptions, command_line
from ringfence.units import GIB, MIB

BALLOON = frozenset({"deflate-on-oom", "free-page-reporting"})
FILES = Files(Path("/run/vm1"))


def options(**changes):
    base = VmOptions("vm1", FILES, memory_bytes=512 * MIB, memory_max_bytes=4 * GIB, qemu="qemu")
    return base._replace(**changes)


def build(*extra, **changes):
    return command_line(options(extra=extra, **changes), BALLOON)


def values(line, option):
    """The values of each `option`, in order."""
    return [value for name, value in pairwise(line) if name == option]


def test_all_that_later_changes_need_is_there():
    line = build()
    assert line[0] == "qemu"
    assert values(line, "-name") == ["guest=vm1,debug-threads=on"]
    assert values(line, "-qmp") == [
        "unix:/run/vm1/qmp.sock,server=on,wait=off",
        "unix:/run/vm1/qmp-tools.sock,server=on,wait=off",
    ]
    assert values(line, "-m") == ["size=512M,slots=8,maxmem=4096M"]
    assert values(line, "-pidfile") == ["/run/vm1/pid"]
    assert values(line, "-serial") == ["chardev:ringfence-console"]
    assert values(line, "-chardev") == [
        "ringbuf,id=ringfence-console,size=65536",
        "socket,id=ringfence-agent,path=/run/vm1/agent.sock,server=on,wait=off",
    ]
    devices = values(line, "-device")
    assert "virtio-balloon-pci,id=balloon0,deflate-on-oom=on,free-page-reporting=on" in devices
    assert "virtserialport,bus=ringfence-serial.0,chardev=ringfence-agent,name=org.qemu.guest_agent.0" in devices


def test_every_vcpu_is_a_core_of_its_own_so_that_it_can_go_alone():
    assert values(build(vcpus=3, vcpus_max=4), "-smp") == ["cpus=3,maxcpus=4,sockets=1,cores=4,threads=1"]


def test_without_room_for_more_memory_there_are_no_slots():
    assert values(build(memory_max_bytes=512 * MIB), "-m") == ["size=512M"]


def test_a_balloon_is_given_only_what_this_qemu_knows():
    line = command_line(options(), frozenset({"deflate-on-oom"}))
    assert "virtio-balloon-pci,id=balloon0,deflate-on-oom=on" in values(line, "-device")
    line = command_line(options(deflate_on_oom=False, free_page_reporting=False), BALLOON)
    assert "virtio-balloon-pci,id=balloon0,deflate-on-oom=off,free-page-reporting=off" in values(line, "-device")


def test_only_q35_needs_ports_for_hotplug():
    def ports(line):
        return [device for device in values(line, "-device") if device.startswith("pcie-root-port")]

    assert len(ports(build())) == launch.SPARE_PORTS
    assert len(set(ports(build()))) == launch.SPARE_PORTS
    assert ports(build(machine="pc")) == []
    assert ports(build("-M", "pc-i440fx-7.2")) == []
    assert len(ports(build("-machine", "type=pc-q35-7.2", machine="pc"))) == launch.SPARE_PORTS


def test_disks_are_numbered():
    line = build(disks=[Disk("/a,b.raw", direct=True), Disk("/c", "qcow2", readonly=True)])
    assert values(line, "-drive") == [
        "if=none,id=disk0,file=/a,,b.raw,format=raw,cache=none",
        "if=none,id=disk1,file=/c,format=qcow2,readonly=on",
    ]
    assert "virtio-blk-pci,id=disk1,drive=disk1" in values(line, "-device")


def test_commas_in_paths_are_doubled():
    line = command_line(options(files=Files(Path("/run/a,b"))), BALLOON)
    assert values(line, "-qmp")[0].startswith("unix:/run/a,,b/qmp.sock,")
    assert values(line, "-pidfile") == ["/run/a,b/pid"]  # the whole value is the path


@pytest.mark.parametrize(
    ("extra", "gone"),
    [
        (["-m", "2G"], "-m"),
        (["--m", "2G"], "-m"),
        (["-smp", "4"], "-smp"),
        (["-accel", "tcg,thread=single"], "-accel"),
        (["-enable-kvm"], "-accel"),
        (["-machine", "q35,accel=kvm"], "-accel"),
        (["-cpu", "qemu64"], "-cpu"),
        (["-display", "gtk"], "-display"),
        (["-nographic"], "-display"),
        (["-nographic"], "-serial"),
        (["-serial", "mon:stdio"], "-serial"),
        (["-name", "other"], "-name"),
        (["-pidfile", "/p"], "-pidfile"),
        (["-M", "pc"], "-machine"),
    ],
)
def test_the_users_options_win(extra, gone):
    line = build(*extra)
    assert line[-len(extra) :] == extra
    ours = line[: -len(extra)]
    assert gone in build()
    assert gone not in ours


def test_machine_options_without_a_type_are_added_to_ours():
    assert values(build("-machine", "usb=on"), "-machine") == ["q35", "usb=on"]
    assert values(build("-machine", "pc,usb=on"), "-machine") == ["pc,usb=on"]


def test_a_balloon_or_an_agent_of_the_users_takes_the_place_of_ours():
    line = build("-device", "virtio-balloon-pci,id=mine")
    assert [device for device in values(line, "-device") if "balloon" in device] == ["virtio-balloon-pci,id=mine"]
    line = build("-device", "virtserialport,chardev=c,name=org.qemu.guest_agent.0")
    assert sum("org.qemu.guest_agent.0" in argument for argument in line) == 1
    assert not [text for text in values(line, "-chardev") if text.startswith("socket")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vcpus": 0}, "vCPUs"),
        ({"vcpus": 5, "vcpus_max": 4}, "vCPUs"),
        ({"memory_bytes": 8 * GIB}, "more than the maximum"),
        ({"memory_bytes": MIB + 1}, "whole MiB"),
        ({"memory_bytes": 0}, "whole MiB"),
        ({"memory_max_bytes": 4 * GIB + 1}, "whole MiB"),
    ],
)
def test_what_contradicts_itself_is_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        build(**changes)


def test_properties_are_read_from_qemus_help(tmp_path):
    qemu = tmp_path / "qemu"
    qemu.write_text(
        "#!/bin/sh\n[ \"$*\" = '-device virtio-balloon-pci,help' ] && cat <<'EOF'\n"
        "virtio-balloon-pci options:\n"
        "  acpi-index=<uint32>    -  (default: 0)\n"
        "  deflate-on-oom=<bool>  - on/off (default: false)\n"
        "EOF\n"
    )
    qemu.chmod(0o755)
    assert launch.device_properties(str(qemu), "virtio-balloon-pci") == {"acpi-index", "deflate-on-oom"}
    assert launch.device_properties(str(qemu), "no-such-device") == frozenset()


def test_a_qemu_that_is_not_there_is_the_hosts_fault(tmp_path, monkeypatch):
    with pytest.raises(HostError, match="No such file") as caught:
        launch.device_properties(str(tmp_path / "qemu"), "virtio-balloon-pci")
    assert "qemu-system-x86" in caught.value.hint
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(launch, "_PROGRAMS", ("qemu-system-x86_64",))
    assert launch.find_qemu() is None
    with pytest.raises(HostError, match="no QEMU"):
        launch.installed_qemu()
