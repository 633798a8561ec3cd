"""Real command lines, as people and managers write them, and what they say about a VM."""

from __future__ import annotations

import json
import random
import shlex

import pytest

from ringfence.core.model import Address, DriveOption, Monitor, Nic, Vm
from ringfence.qemu import cmdline
from ringfence.qemu.options import from_config, keyval, size_bytes, split
from ringfence.qemu.process import Process
from ringfence.units import GIB, MIB


class Told(Process):
    """A process that answers what a test says."""

    def __init__(self, cwd: str = "", sockets: dict[int, str] | None = None, **texts: str) -> None:
        self._cwd, self._sockets, self._texts = cwd, sockets or {}, texts

    def cwd(self) -> str:
        return self._cwd

    def socket_path(self, fd: int) -> str:
        return self._sockets.get(fd, "")

    def tap_name(self, fd: int) -> str:
        return self._texts.get(f"tap{fd}", "")

    def config(self, path: str) -> str:
        return self._texts.get("config", "")

    def cgroup(self) -> str:
        return self._texts.get("cgroup", "")


def read(line: str, process: Process | None = None, *, pid: int = 7) -> Vm:
    return cmdline.parse(shlex.split(line), pid=pid, process=process or Process())


PLAIN = """
qemu-system-x86_64 -name web1 -M q35 -enable-kvm -m 2G,slots=4,maxmem=8G -smp 2,maxcpus=4
  -qmp unix:/run/web1.qmp,server=on,wait=off -qmp unix:/run/web1.qmp2,server,nowait
  -monitor tcp:127.0.0.1:4444,server=on,wait=off
  -drive file=/img/web1.qcow2,if=virtio,format=qcow2 -drive file=/img/data.raw,if=virtio,id=data,format=raw
  -netdev tap,id=n0,ifname=tap0,script=no -device virtio-net-pci,netdev=n0,mac=52:54:00:12:34:56,id=net0
  -chardev socket,path=/run/web1.qga,server=on,wait=off,id=qga0 -device virtio-serial
  -device virtserialport,chardev=qga0,name=org.qemu.guest_agent.0 -display none
"""


def test_plain() -> None:
    vm = read(PLAIN)
    assert (vm.name, vm.pid, vm.uuid, vm.machine, vm.accel) == ("web1", 7, "", "q35", "kvm")
    assert (vm.memory_bytes, vm.memory_max_bytes, vm.vcpus, vm.vcpus_max) == (2 * GIB, 8 * GIB, 2, 4)
    assert vm.qmp_addresses == (Address("/run/web1.qmp"), Address("/run/web1.qmp2"))
    assert vm.hmp_addresses == (Address(host="127.0.0.1", port=4444),)
    assert vm.monitors[0].where == "unix:/run/web1.qmp,server=on,wait=off"
    assert vm.agent == Address("/run/web1.qga")
    assert vm.drives == (
        DriveOption("virtio0", "/img/web1.qcow2", "qcow2"),
        DriveOption("data", "/img/data.raw", "raw"),
    )
    assert vm.nics == (Nic("net0", "virtio-net-pci", "tap", "tap0", "52:54:00:12:34:56", "n0"),)
    assert (vm.manager, vm.executable, vm.argv[0]) == ("plain", "qemu-system-x86_64", "qemu-system-x86_64")


LIBVIRT = """
/usr/bin/qemu-system-x86_64 -name guest=db1,debug-threads=on -S
  -object '{"qom-type":"secret","id":"masterKey0","format":"raw",
            "file":"/var/lib/libvirt/qemu/domain-3-db1/master-key.aes"}'
  -machine pc-q35-7.2,usb=off,dump-guest-core=off,memory-backend=pc.ram -accel kvm -cpu host,migratable=on
  -m size=4194304k,slots=16,maxmem=16777216k
  -object '{"qom-type":"memory-backend-ram","id":"pc.ram","size":4294967296}'
  -overcommit mem-lock=off -smp 2,maxcpus=8,sockets=8,cores=1,threads=1
  -uuid D390F369-9847-4450-8892-140315754d65 -display none -no-user-config -nodefaults
  -chardev socket,id=charmonitor,fd=29,server=on,wait=off -mon chardev=charmonitor,id=monitor,mode=control
  -rtc base=utc,driftfix=slew -global kvm-pit.lost_tick_policy=delay -no-hpet -no-shutdown -boot strict=on
  -blockdev '{"driver":"file","filename":"/img/db1.qcow2","node-name":"libvirt-2-storage","discard":"unmap"}'
  -blockdev '{"node-name":"libvirt-2-format","read-only":false,"driver":"qcow2","file":"libvirt-2-storage"}'
  -device '{"driver":"virtio-blk-pci","bus":"pci.2","drive":"libvirt-2-format","id":"virtio-disk0"}'
  -device '{"driver":"ide-cd","bus":"ide.0","id":"sata0-0-0"}'
  -netdev '{"type":"tap","fd":"31","vhost":true,"vhostfd":"33","id":"hostnet0"}'
  -device '{"driver":"virtio-net-pci","netdev":"hostnet0","id":"net0","mac":"52:54:00:aa:bb:cc","bus":"pci.1"}'
  -chardev socket,id=charchannel0,fd=28,server=on,wait=off
  -device '{"driver":"virtserialport","bus":"virtio-serial0.0","nr":1,"chardev":"charchannel0","id":"channel0",
            "name":"org.qemu.guest_agent.0"}'
  -sandbox on,obsolete=deny,spawn=deny -msg timestamp=on
"""


def test_libvirt() -> None:
    vm = read(LIBVIRT, Told(sockets={29: "/run/a/monitor.sock", 28: "/run/a/agent"}, tap31="vnet4"))
    assert (vm.name, vm.manager, vm.accel) == ("db1", "libvirt", "kvm")
    assert vm.uuid == "d390f369-9847-4450-8892-140315754d65"
    assert (vm.memory_bytes, vm.memory_max_bytes, vm.vcpus, vm.vcpus_max) == (4 * GIB, 16 * GIB, 2, 8)
    assert vm.qmp_addresses == (Address("/run/a/monitor.sock"),)
    assert vm.agent == Address("/run/a/agent")
    assert vm.drives == (DriveOption("virtio-disk0", "/img/db1.qcow2", "qcow2"),)
    assert vm.nics == (Nic("net0", "virtio-net-pci", "tap", "vnet4", "52:54:00:aa:bb:cc", "hostnet0"),)


def test_libvirt_seen_by_a_user_who_may_not_look_behind_its_descriptors() -> None:
    vm = read(LIBVIRT)
    assert vm.qmp_addresses == (Address("/var/lib/libvirt/qemu/domain-3-db1/monitor.sock"),)
    assert vm.agent is None
    assert vm.nics[0].ifname == ""


PROXMOX = """
/usr/bin/kvm -id 100 -name web,debug-threads=on -no-shutdown
  -chardev socket,id=qmp,path=/var/run/qemu-server/100.qmp,server=on,wait=off -mon chardev=qmp,mode=control
  -chardev socket,id=qmp-event,path=/var/run/qmeventd.sock,reconnect-ms=5000 -mon chardev=qmp-event,mode=control
  -pidfile /var/run/qemu-server/100.pid -daemonize -smbios type=1,uuid=7b10d7af-b932-4c66-b2c3-3996152ec465
  -smp 3,sockets=1,cores=3,maxcpus=3 -nodefaults -vnc unix:/var/run/qemu-server/100.vnc,password=on
  -cpu kvm64,enforce,+lahf_lm -m 768
  -object '{"id":"throttle-drive-scsi0","limits":{},"qom-type":"throttle-group"}'
  -device virtio-balloon-pci,id=balloon0,bus=pci.0,addr=0x3 -device ide-cd,bus=ide.1,unit=0,id=ide2
  -chardev socket,path=/var/run/qemu-server/100.qga,server=on,wait=off,id=qga0
  -device virtio-serial,id=qga0,bus=pci.0,addr=0x8 -device virtserialport,chardev=qga0,name=org.qemu.guest_agent.0
  -blockdev '{"driver":"throttle","file":{"cache":{"direct":true},"driver":"qcow2","file":{"driver":"file",
    "filename":"/var/lib/vz/images/100/vm-100-disk-0.qcow2","node-name":"ec"},"node-name":"fc"},
    "node-name":"drive-scsi0","throttle-group":"throttle-drive-scsi0"}'
  -device scsi-hd,bus=scsihw0.0,scsi-id=0,drive=drive-scsi0,id=scsi0,write-cache=on
  -drive if=none,id=drive-ide2,media=cdrom,aio=io_uring -device ide-cd,bus=ide.1,unit=1,drive=drive-ide2,id=ide3
  -netdev type=tap,id=net0,ifname=tap100i0,script=/usr/libexec/qemu-server/pve-bridge,vhost=on
  -device virtio-net-pci,mac=A2:C0:43:77:08:A0,netdev=net0,bus=pci.0,addr=0x12,id=net0
  -machine hpet=off,type=pc+pve0
"""


def test_proxmox() -> None:
    vm = read(PROXMOX)
    assert (vm.name, vm.manager, vm.machine, vm.accel) == ("web", "proxmox", "pc+pve0", "kvm:tcg")
    assert vm.uuid == "7b10d7af-b932-4c66-b2c3-3996152ec465"
    assert (vm.memory_bytes, vm.vcpus, vm.vcpus_max) == (768 * MIB, 3, 3)
    assert vm.qmp_addresses == (Address("/var/run/qemu-server/100.qmp"),)
    assert vm.monitors[1] == Monitor(
        "qmp", None, "socket,id=qmp-event,path=/var/run/qmeventd.sock,reconnect-ms=5000"
    )
    assert vm.agent == Address("/var/run/qemu-server/100.qga")
    assert vm.drives == (DriveOption("scsi0", "/var/lib/vz/images/100/vm-100-disk-0.qcow2", "qcow2"),)
    assert vm.nics == (Nic("net0", "virtio-net-pci", "tap", "tap100i0", "A2:C0:43:77:08:A0", "net0"),)


INCUS = """
/opt/incus/bin/qemu-system-x86_64 -S -name u1 -uuid 5c1f3a6e-0000-4000-8000-000000000001 -daemonize -cpu host
  -nographic -serial chardev:console -nodefaults -no-user-config -sandbox on,obsolete=deny
  -readconfig /run/incus/u1/qemu.conf -spice unix=on,disable-ticketing=on,addr=/run/incus/u1/qemu.spice
  -pidfile /run/incus/u1/qemu.pid -D /var/log/incus/u1/qemu.log -runas nobody
"""
INCUS_CONFIG = """
# Machine
[machine]
graphics = "off"
type = "q35"
accel = "kvm"

[memory]
size = "2048M"

[smp-opts]
cpus = "2"
maxcpus = "8"

[chardev "monitor"]
backend = "socket"
path = "/run/incus/u1/qemu.monitor"
server = "on"
wait = "off"

[mon]
chardev = "monitor"
mode = "control"
"""


def test_incus_keeps_nearly_everything_in_a_file() -> None:
    vm = read(INCUS, Told(config=INCUS_CONFIG))
    assert (vm.name, vm.manager, vm.machine, vm.accel) == ("u1", "incus", "q35", "kvm")
    assert (vm.memory_bytes, vm.vcpus, vm.vcpus_max) == (2 * GIB, 2, 8)
    assert vm.qmp_addresses == (Address("/run/incus/u1/qemu.monitor"),)


def test_a_config_file_that_cannot_be_read_is_no_obstacle() -> None:
    vm = read(INCUS)
    assert (vm.name, vm.manager, vm.monitors, vm.memory_bytes) == ("u1", "incus", (), 128 * MIB)


def test_lxd() -> None:
    line = "qemu-system-x86_64 -name j -pidfile /var/snap/lxd/common/lxd/logs/j/qemu.pid -nodefaults"
    assert read(line).manager == "incus"


LAB = """
qemu-system-x86_64 -nodefaults -no-user-config -display none -machine q35 -accel tcg,thread=single -cpu max
  -m 256M,slots=4,maxmem=4G -smp 1,maxcpus=4 -qmp unix:D/qmp.sock,server=on,wait=off
  -chardev file,id=ser,path=D/serial.log -serial chardev:ser -kernel vmlinuz -initrd ga.img
  -append '-- console=ttyS0 quiet' -no-reboot
  -chardev socket,id=ga0,path=D/ga.sock,server=on,wait=off
  -device virtserialport,chardev=ga0,name=org.qemu.guest_agent.0
  -blockdev driver=raw,node-name=n2,file.driver=file,file.filename=d2.raw,file.cache.direct=on
  -device virtio-blk-pci,id=vd2,drive=n2 -blockdev driver=null-co,node-name=n3 -device virtio-blk-pci,drive=n3
"""


def test_relative_paths_start_from_the_process_own_directory() -> None:
    vm = read(LAB, Told(cwd="/home/me/lab"))
    assert vm.name == "pid-7"
    assert vm.qmp_addresses == (Address("/home/me/lab/D/qmp.sock"),)
    assert vm.agent == Address("/home/me/lab/D/ga.sock")
    assert (vm.accel, vm.memory_max_bytes, vm.vcpus_max) == ("tcg", 4 * GIB, 4)
    assert vm.drives == (DriveOption("vd2", "d2.raw", "raw"), DriveOption("n3", "", "null-co"))


def test_aarch64() -> None:
    vm = read(
        "/usr/bin/qemu-system-aarch64 -M virt,gic-version=3,accel=kvm -m 1.5G -smp sockets=2,cores=3,threads=1 "
        "-drive file=a.img -nic tap,ifname=tap9,model=virtio-net-pci,mac=52:54:00:00:00:09 "
        "-uuid 00000000-0000-0000-0000-00000000000A"
    )
    assert vm.name == vm.uuid == "00000000-0000-0000-0000-00000000000a"
    assert (vm.machine, vm.accel, vm.memory_bytes) == ("virt", "kvm", 3 * GIB // 2)
    assert (vm.vcpus, vm.vcpus_max) == (6, 6)
    assert vm.drives == (DriveOption("virtio0", "a.img", ""),)
    assert vm.nics == (Nic("", "virtio-net-pci", "tap", "tap9", "52:54:00:00:00:09"),)


def test_microvm() -> None:
    vm = read(
        "qemu-system-x86_64 -M microvm,x-option-roms=off,rtc=on --enable-kvm --m 512m -smp 2 -nodefaults "
        "-no-user-config -nographic -serial stdio --kernel vmlinux "
        "-drive id=test,file=test.img,format=raw,if=none -device virtio-blk-device,drive=test "
        "-netdev tap,id=tap0,script=no,downscript=no "
        "-device virtio-net-device,netdev=tap0"
    )
    assert (vm.machine, vm.accel, vm.memory_bytes, vm.vcpus) == ("microvm", "kvm", 512 * MIB, 2)
    assert vm.drives == (DriveOption("test", "test.img", "raw"),)
    assert vm.nics == (Nic("tap0", "virtio-net-device", "tap", "", "", "tap0"),)


@pytest.mark.parametrize(
    ("line", "size", "largest"),
    [
        ("", 128 * MIB, 128 * MIB),
        ("-m 1024", 1 * GIB, 1 * GIB),
        ("-m size=512", 512 * MIB, 512 * MIB),
        ("-m 256 -m slots=4,maxmem=1G", 256 * MIB, 1 * GIB),
        ("-m 1048576k", 1 * GIB, 1 * GIB),
        ("-m nonsense,maxmem=2G", 128 * MIB, 2 * GIB),
        ("-m 2G,maxmem=1G", 2 * GIB, 2 * GIB),
    ],
)
def test_memory(line: str, size: int, largest: int) -> None:
    vm = read(f"qemu-system-x86_64 {line}")
    assert (vm.memory_bytes, vm.memory_max_bytes) == (size, largest)


@pytest.mark.parametrize(
    ("line", "cpus", "most"),
    [
        ("", 1, 1),
        ("-smp 4", 4, 4),
        ("-smp cpus=2,maxcpus=6", 2, 6),
        ("-smp 2 -smp maxcpus=8", 2, 8),
        ("-smp maxcpus=6", 6, 6),
        ("-smp sockets=2,cores=3", 6, 6),
        ("-smp sockets=2,dies=2,clusters=2,cores=2,threads=2", 32, 32),
        ("-smp 2,sockets=2,cores=4,maxcpus=8", 2, 8),
        ("-smp x,maxcpus=y", 1, 1),
    ],
)
def test_vcpus(line: str, cpus: int, most: int) -> None:
    vm = read(f"qemu-system-x86_64 {line}")
    assert (vm.vcpus, vm.vcpus_max) == (cpus, most)


@pytest.mark.parametrize(
    ("line", "accel"),
    [
        ("qemu-system-x86_64", "tcg"),
        ("/usr/libexec/qemu-kvm", "kvm:tcg"),
        ("qemu-system-x86_64 -machine q35,accel=kvm:tcg", "kvm:tcg"),
        ("qemu-system-x86_64 -accel kvm -accel tcg,thread=multi", "kvm:tcg"),
        ("qemu-system-x86_64 -M accel=tcg -M type=pc -enable-kvm", "kvm"),
        ("qemu-system-x86_64 -accel accel=xen", "xen"),
    ],
)
def test_accel(line: str, accel: str) -> None:
    assert read(line).accel == accel


UNIX = Address("/m.sock")


@pytest.mark.parametrize(
    ("line", "kind", "address"),
    [
        ("-qmp unix:/m.sock,server=on,wait=off", "qmp", UNIX),
        ("--qmp unix:/m.sock,server,nowait", "qmp", UNIX),
        ("-qmp-pretty unix:/m.sock,server=on", "qmp", UNIX),
        ("-qmp unix:/a,,b.sock,server=on", "qmp", Address("/a,b.sock")),
        ("-monitor unix:/m.sock,server=on,wait=off", "hmp", UNIX),
        ("-monitor telnet:127.0.0.1:5555,server,nowait", "hmp", Address(host="127.0.0.1", port=5555)),
        ("-qmp tcp:localhost:4444,server=on,wait=off", "qmp", Address(host="localhost", port=4444)),
        ("-qmp tcp::4444,server=on", "qmp", Address(host="127.0.0.1", port=4444)),
        ("-qmp tcp:0.0.0.0:4444,server=on", "qmp", Address(host="127.0.0.1", port=4444)),
        ("-qmp tcp:[::1]:4444,server=on", "qmp", Address(host="::1", port=4444)),
        ("-qmp tcp:localhost:http,server=on", "qmp", None),
        ("-qmp tcp:localhost:99999,server=on", "qmp", None),
        ("-qmp unix:/m.sock", "qmp", None),
        ("-qmp unix:/m.sock,server=off", "qmp", None),
        ("-qmp stdio", "qmp", None),
        ("-monitor vc", "hmp", None),
        ("-monitor pty", "hmp", None),
        ("-serial mon:stdio", "hmp", None),
        ("-serial mon:unix:/m.sock,server=on", "hmp", UNIX),
        ("-chardev socket,id=c,path=/m.sock,server=on,wait=off -mon c,mode=control", "qmp", UNIX),
        ("-mon chardev=c,mode=readline -chardev socket,id=c,path=/m.sock,server=on", "hmp", UNIX),
        ("-chardev socket,id=c,path=/m.sock,server=on -mon id=m,chardev=c", "hmp", UNIX),
        ("-chardev socket,id=c,host=::,port=4,server=on -mon c", "hmp", Address(host="::1", port=4)),
        ("-chardev socket,id=c,path=/m.sock,server=on -qmp chardev:c", "qmp", UNIX),
        ("-chardev socket,id=c,path=/m.sock,server=on -object monitor-qmp,id=m,chardev=c", "qmp", UNIX),
        ("-chardev socket,id=c,path=/m.sock,server=on -object qom-type=monitor-hmp,id=m,chardev=c", "hmp", UNIX),
        (
            """-object '{"qom-type":"monitor-qmp","id":"m","chardev":"c"}'
               -chardev socket,id=c,path=/m.sock,server=on""",
            "qmp",
            UNIX,
        ),
        ("-chardev socket,id=c,fd=5,server=on -mon c,mode=control", "qmp", Address("/five.sock")),
        ("-chardev socket,id=c,fd=6,server=on -mon c,mode=control", "qmp", None),
        ("-chardev socket,id=c,path=m,abstract=on,server=on -mon c", "hmp", None),
        ("-chardev socket,id=c,host=h,port=1,server=on,tls-creds=t0 -mon c", "hmp", None),
        ("-chardev stdio,id=c,mux=on -mon c", "hmp", None),
        ("-mon chardev=gone,mode=control", "qmp", None),
    ],
)
def test_monitor(line: str, kind: str, address: Address | None) -> None:
    vm = read(f"qemu-system-x86_64 {line}", Told(sockets={5: "/five.sock"}))
    assert [(m.kind, m.address) for m in vm.monitors] == [(kind, address)]
    assert vm.monitors[0].where


def test_no_monitor_is_none() -> None:
    assert read("qemu-system-x86_64 -monitor none -object rng-random,id=r").monitors == ()


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("-M pc -drive file=a -drive file=b -drive file=c", ["ide0-hd0", "ide0-hd1", "ide1-hd0"]),
        (
            "-M q35 -drive file=a -drive file=b -cdrom c -drive file=d,if=virtio,index=3",
            [
                "ide0-hd0",
                "ide1-hd0",
                "ide2-cd0",
                "virtio3",
            ],
        ),
        ("disk.img", ["ide0-hd0"]),
        ("-enable-kvm disk.img", ["ide0-hd0"]),
        ("-snapshot -hdb b disk.img", ["ide0-hd1", "ide0-hd0"]),
        ("-drive file=x,if=none,id=d1 -device virtio-blk-pci,id=vd1,drive=d1", ["d1"]),
        ("-drive file=x,if=none,id=unused", []),
        ("-drive file=OVMF.fd,if=pflash,unit=0 -drive if=floppy,file=f", []),
        ("-drive driver=null-co,id=d", ["d"]),
        ("-blockdev driver=null-co,node-name=unused", []),
    ],
)
def test_drive_names_are_qemus(line: str, names: list[str]) -> None:
    assert [drive.name for drive in read(f"qemu-system-x86_64 {line}").drives] == names


def test_block_nodes_that_point_at_each_other_end() -> None:
    line = (
        "-blockdev driver=raw,node-name=a,file=b -blockdev driver=raw,node-name=b,file=a "
        "-device virtio-blk-pci,drive=a,id=v"
    )
    assert read(f"qemu-system-x86_64 {line}").drives == (DriveOption("v", "", "raw"),)


def test_legacy_net() -> None:
    vm = read("qemu-system-x86_64 -net nic,model=e1000,macaddr=52:54:00:00:00:01 -net tap,ifname=t3 -nic none")
    assert vm.nics == (Nic("", "e1000", "tap", "t3", "52:54:00:00:00:01"),)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("-name foo", "foo"),
        ("-name guest=foo,debug-threads=on", "foo"),
        ("-name foo,process=bar", "foo"),
        ("-name 'a,,b c'", "a,b c"),
        ("-name a,,b=c", "a,b=c"),
        ("-name -odd-", "-odd-"),
        ("-name ''", "pid-7"),
        ("-name debug-threads=on", "pid-7"),
    ],
)
def test_name(line: str, name: str) -> None:
    assert read(f"qemu-system-x86_64 {line}").name == name


@pytest.mark.parametrize(
    ("cgroup", "manager"),
    [
        ("0::/machine.slice/machine-qemu\\x2d1\\x2dlv.scope/libvirt/emulator\n", "libvirt"),
        ("5:cpu:/machine/qemu-1-lv.libvirt-qemu\n", "libvirt"),
        ("0::/user.slice/user-1000.slice/session-2.scope\n", "plain"),
        ("", "plain"),
    ],
)
def test_manager_by_cgroup(cgroup: str, manager: str) -> None:
    assert read("qemu-system-x86_64 -name x", Told(cgroup=cgroup)).manager == manager


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1024", 1024),
        ("4k", 4096),
        ("1.5G", 3 * GIB // 2),
        (".5m", MIB // 2),
        ("0x400", 1024),
        ("0x1b", 27),
        ("0x10M", 16 * MIB),
        ("1E", 1 << 60),
        ("", None),
        (".", None),
        ("k", None),
        ("-1", None),
        ("1e3", None),
        ("inf", None),
        ("1_000", None),
        ("0xzz", None),
        ("9" * 5000, None),
    ],
)
def test_size(text: str, size: int | None) -> None:
    assert size_bytes(text) == size


def test_keyval_flags_and_repeats() -> None:
    assert keyval("a=1,server,nowait,a=2,b=") == {"a": "2", "server": "on", "wait": "off", "b": ""}


def test_config_values_keep_their_commas() -> None:
    (option,) = from_config('[drive "d"]\n  file = "/a,b=c.img"\n')
    assert keyval(option.text) == {"id": "d", "file": "/a,b=c.img"}


ALPHABET = '-,=:{}[]".\\/ \x00\nabcdegimnoprstuvwx019é\udcff'
OPTIONS = [
    "name", "m", "smp", "M", "machine", "accel", "qmp", "monitor", "mon", "chardev", "object", "drive", "blockdev",
    "device", "netdev", "nic", "net", "uuid", "smbios", "serial", "readconfig", "hda", "cdrom", "id", "S", "D",
]  # fmt: skip


def _seeds() -> list[str]:
    lines = [shlex.split(line)[1:] for line in (PLAIN, LIBVIRT, PROXMOX, INCUS, LAB)]
    return [word for line in lines for word in line if not word.startswith("-")]


@pytest.mark.parametrize("seed", range(40))
def test_whatever_the_options_say_a_vm_comes_out(seed: int) -> None:
    rng = random.Random(seed)
    seeds = _seeds()
    config = "\n".join(rng.choice(['[mon "a"]', "[", "x = ", 'size = "9', '[drive "d"]', "]"]) for _ in range(9))
    for _ in range(25):
        argv = ["qemu-system-x86_64", "-name", "still-here"]
        for _ in range(rng.randrange(8)):
            value = list(rng.choice(seeds) if rng.random() < 0.7 else "")
            for _ in range(rng.randrange(6)):
                position = rng.randrange(len(value) + 1)
                value[position : position + rng.randrange(3)] = rng.choices(ALPHABET, k=rng.randrange(4))
            option = rng.choice(OPTIONS[1:])
            argv += [f"{'-' * rng.randrange(1, 3)}{option}", "".join(value)]
        vm = cmdline.parse(argv, pid=1, process=Told(config=config))
        assert vm.name == "still-here"
        assert vm.memory_bytes > 0
        assert vm.vcpus_max >= vm.vcpus > 0


@pytest.mark.parametrize("text", ["[" * 100000, '{"a":' * 100000, "{" + "9" * 5000, '{"a":' + "9" * 5000 + "}"])
def test_monstrous_json(text: str) -> None:
    assert cmdline.parse(["qemu-system-x86_64", "-device", text, "-blockdev", "{" + text]).vcpus == 1


def test_json_and_keyval_say_the_same() -> None:
    nested = {"driver": "raw", "file": {"driver": "file", "filename": "f"}, "read-only": True, "n": 1, "z": None}
    assert keyval(json.dumps(nested)) == keyval("driver=raw,file.driver=file,file.filename=f,read-only=on,n=1")


def test_an_option_of_tomorrow_takes_its_value_with_it() -> None:
    options = split(["-brand-new", "value", "-other-new", "-m", "1G"])
    assert [(o.name, o.text) for o in options] == [("brand-new", "value"), ("other-new", ""), ("m", "1G")]


def test_a_monitor_may_share_its_socket_with_a_serial_line() -> None:
    shared = ("-serial mon:unix:/m.sock,server=on", "-chardev socket,id=c,path=/m.sock,server=on,mux=on -mon c")
    assert all(read(f"qemu-system-x86_64 {line}").monitors[0].mux for line in shared)
    assert not read("qemu-system-x86_64 -monitor unix:/m.sock,server=on").monitors[0].mux
