"""Finding VMs in a /proc made of files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ringfence.core.model import Address
from ringfence.errors import UsageError
from ringfence.qemu import discovery

QEMU = "/usr/bin/qemu-system-x86_64"


class FakeProc:
    """A directory that looks like /proc to discovery."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "net").mkdir()
        (root / "net/unix").write_text("Num       RefCount Protocol Flags    Type St Inode Path\n")
        for other in ("self", "sys", "uptime"):
            (root / other).mkdir()

    def add(self, pid: int, argv: str | list[str], *, exe: str | None = QEMU, cwd: str = "/") -> Path:
        """A process. :param exe: None: the link cannot be read."""
        folder = self.root / str(pid)
        (folder / "fd").mkdir(parents=True)
        (folder / "fdinfo").mkdir()
        words = argv.split() if isinstance(argv, str) else argv
        (folder / "cmdline").write_text("".join(f"{word}\0" for word in words))
        (folder / "cgroup").write_text("0::/user.slice\n")
        (folder / "cwd").symlink_to(cwd)
        if exe:
            (folder / "exe").symlink_to(exe)
        return folder

    def listen(self, pid: int, fd: int, inode: int, path: str) -> None:
        """A unix socket that the process was handed."""
        (self.root / str(pid) / "fd" / str(fd)).symlink_to(f"socket:[{inode}]")
        with (self.root / "net/unix").open("a") as file:
            file.write(f"0000000000000000: 00000002 00000000 00010000 0001 01 {inode} {path}\n")


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    return FakeProc(tmp_path)


def pids(proc: FakeProc) -> list[int]:
    return [vm.pid for vm in discovery.find_vms(proc.root)]


@pytest.mark.parametrize(
    ("argv", "exe"),
    [
        (f"{QEMU} -name a", QEMU),
        ("qemu-system-aarch64 -M virt", "/opt/q/bin/qemu-system-aarch64"),
        ("/usr/bin/kvm -id 100", QEMU),
        ("/usr/bin/kvm -id 100", None),
        ("/usr/libexec/qemu-kvm -name a", "/usr/libexec/qemu-kvm"),
        (f"{QEMU} -name a", None),
        (f"{QEMU} -name a", f"{QEMU} (deleted)"),
        ("qemu-system-x86_64 -m 1", "/nix/store/x/bin/.qemu-system-x86_64-wrapped"),
        ("web1 -accel kvm -m 1G", QEMU),
        (f"/q/lib64/ld-linux-x86-64.so.2 --library-path /q/lib {QEMU} -m 1", "/q/lib64/ld-linux-x86-64.so.2"),
        (f"/lib/ld-2.31.so --inhibit-cache --preload x.so {QEMU} -m 1", None),
        (f"/lib/ld-musl-x86_64.so.1 -- {QEMU} -m 1", None),
        (f"qemu-system-x86_64 {QEMU} -m 1", "/lib/ld-2.31.so"),
    ],
)
def test_is_a_vm(proc: FakeProc, argv: str, exe: str | None) -> None:
    proc.add(10, argv, exe=exe)
    assert pids(proc) == [10]


@pytest.mark.parametrize(
    ("argv", "exe"),
    [
        ("qemu-img create a.img 1G", "/usr/bin/qemu-img"),
        ("qemu-nbd -c /dev/nbd0 a.img", "/usr/bin/qemu-nbd"),
        ("/usr/sbin/qemu-ga -m virtio-serial", None),
        ("/usr/sbin/virtqemud --timeout 120", "/usr/sbin/virtqemud"),
        ("qemu-x86_64 ./a.out", "/usr/bin/qemu-x86_64"),
        (["bash", "-c", "qemu-system-x86_64 -qmp unix:a"], "/usr/bin/bash"),
        ("grep qemu", "/usr/bin/grep"),
        (f"sudo {QEMU} -accel kvm", None),
        (f"strace -f {QEMU} -accel kvm", "/usr/bin/strace"),
        (f"gdb --args {QEMU} -accel kvm", "/usr/bin/gdb"),
        ("/bin/sh /usr/bin/kvm -m 1G", "/usr/bin/dash"),
        ("qemu-system-x86_64 100", "/usr/bin/sleep"),
        ("python3 /opt/qemu-system-tool -qmp x", "/usr/bin/python3"),
        ("/lib64/ld-linux-x86-64.so.2 /bin/bash qemu-system-x86_64", "/lib64/ld-linux-x86-64.so.2"),
        ("/lib64/ld-linux-x86-64.so.2 --list qemu", "/lib64/ld-linux-x86-64.so.2"),
        ("/lib64/ld-2.31.so --audit qemu", "/lib64/ld-2.31.so"),
        ([], None),
    ],
)
def test_is_no_vm(proc: FakeProc, argv: str | list[str], exe: str | None) -> None:
    proc.add(10, argv, exe=exe)
    assert pids(proc) == []


def test_what_is_told_of_a_vm(proc: FakeProc) -> None:
    loader = "/q/ld-linux-x86-64.so.2"
    proc.add(12, f"{loader} --library-path /q {QEMU} -name b -m 64", exe=loader)
    proc.add(9, f"{QEMU} -name a -qmp unix:a.sock,server=on", exe=f"{QEMU} (deleted)", cwd="/home/me")
    first, second = discovery.find_vms(proc.root)
    assert (first.pid, first.name, first.executable) == (9, "a", QEMU)
    assert first.qmp_addresses == (Address("/home/me/a.sock"),)
    assert (second.pid, second.name, second.executable) == (12, "b", QEMU)
    assert second.argv == (QEMU, "-name", "b", "-m", "64")


def test_a_daemon_went_to_the_root_after_it_opened_its_sockets(proc: FakeProc) -> None:
    folder = proc.add(9, f"{QEMU} -daemonize -name a -qmp unix:a.sock,server=on", cwd="/")
    (folder / "environ").write_text("HOME=/root\0OLDPWD=/x\0PWD=/srv/vms\0")
    assert discovery.find_vm("a", proc.root).qmp_addresses == (Address("/srv/vms/a.sock"),)


def test_a_socket_passed_as_a_descriptor_is_found_by_its_inode(proc: FakeProc) -> None:
    proc.add(9, f"{QEMU} -chardev socket,id=charmonitor,fd=29,server=on,wait=off -mon charmonitor,mode=control")
    proc.listen(9, 28, 4, "/other.sock")
    proc.listen(9, 29, 12959, "/var/lib/libvirt/qemu/a b/monitor.sock")
    (vm,) = discovery.find_vms(proc.root)
    assert vm.qmp_addresses == (Address("/var/lib/libvirt/qemu/a b/monitor.sock"),)
    assert vm.manager == "libvirt"


def test_a_tap_passed_as_a_descriptor_is_found_by_its_fdinfo(proc: FakeProc) -> None:
    folder = proc.add(9, f"{QEMU} -netdev tap,fds=31:32,id=n -device e1000,netdev=n")
    (folder / "fdinfo/31").write_text("pos:\t0\nflags:\t0104002\niff:\tvnet7\n")
    assert discovery.find_vms(proc.root)[0].nics[0].ifname == "vnet7"


def test_a_config_file_is_read_from_where_the_process_was(proc: FakeProc, tmp_path: Path) -> None:
    (tmp_path / "vm.conf").write_text('[memory]\nsize = "3G"\n')
    proc.add(9, f"{QEMU} -name a -readconfig vm.conf", cwd=str(tmp_path))
    assert discovery.find_vm("a", proc.root).memory_bytes == 3 << 30


def test_manager_by_cgroup(proc: FakeProc) -> None:
    folder = proc.add(9, f"{QEMU} -name a")
    (folder / "cgroup").write_text("0::/machine.slice/machine-qemu\\x2d1\\x2da.scope\n")
    assert discovery.find_vm("a", proc.root).manager == "libvirt"


def test_what_cannot_be_read_is_passed_over(proc: FakeProc) -> None:
    (proc.root / "11").mkdir()
    (proc.root / "12" / "cmdline").mkdir(parents=True)
    bare = proc.root / "13"
    bare.mkdir()
    (bare / "cmdline").write_bytes(
        b"qemu-system-x86_64\0-qmp\0unix:a,server\0-readconfig\0c\0-chardev\0socket,fd=3"
    )
    proc.add(14, f"{QEMU} -name a")
    assert pids(proc) == [13, 14]


@pytest.mark.parametrize("padding", [0, 4096, 40000, 300000])
def test_long_command_lines_are_read_whole(proc: FakeProc, padding: int) -> None:
    head = f"{QEMU}\0-append\0"
    filler = "x" * max(padding - len(head) - 1, 0)
    proc.add(9, [QEMU, "-append", filler, "-name", "tail"])
    assert discovery.find_vm("tail", proc.root).pid == 9


def test_names_need_not_be_utf8(proc: FakeProc) -> None:
    (proc.add(9, "x") / "cmdline").write_bytes(b"qemu-system-x86_64\0-name\0caf\xe9\0")
    assert discovery.find_vms(proc.root)[0].name == "caf\udce9"


UUID = "d390f369-9847-4450-8892-140315754d65"


@pytest.fixture
def three(proc: FakeProc) -> FakeProc:
    proc.add(100, f"{QEMU} -name web1 -uuid {UUID} -qmp unix:/run/web1.qmp,server=on")
    proc.add(200, f"{QEMU} -name twin -qmp unix:/run/t1.qmp,server=on")
    proc.add(300, f"{QEMU} -name twin")
    proc.add(400, f"{QEMU} -name 100")
    proc.add(500, f"{QEMU} -m 64")
    return proc


@pytest.mark.parametrize(
    ("selector", "pid"),
    [
        ("web1", 100),
        (UUID, 100),
        (UUID.upper(), 100),
        ("pid:100", 100),
        ("pid:300", 300),
        ("200", 200),
        ("100", 400),
        ("pid-500", 500),
    ],
)
def test_find_vm(three: FakeProc, selector: str, pid: int) -> None:
    assert discovery.find_vm(selector, three.root).pid == pid


def test_an_unknown_name_is_met_with_near_ones(three: FakeProc) -> None:
    with pytest.raises(UsageError, match="no VM 'wbe1'") as caught:
        discovery.find_vm("wbe1", three.root)
    assert "web1" in caught.value.hint


def test_an_unknown_name_near_nothing(three: FakeProc) -> None:
    with pytest.raises(UsageError) as caught:
        discovery.find_vm("zzzzzzzz", three.root)
    assert "ringfence ps" in caught.value.hint


def test_no_vm_at_all(proc: FakeProc) -> None:
    with pytest.raises(UsageError, match="no QEMU process"):
        discovery.find_vm("web1", proc.root)


def test_two_of_one_name(three: FakeProc) -> None:
    with pytest.raises(UsageError) as caught:
        discovery.find_vm("twin", three.root)
    assert caught.value.message == "2 VMs are called 'twin': pid 200 (/run/t1.qmp); pid 300 (no QMP socket)"
    assert "pid:200" in caught.value.hint
    assert "--qmp" in caught.value.hint


@pytest.mark.parametrize("selector", ["pid:999", "pid:", "pid:x", "pid:0", "pid:-1", "pid:../1"])
def test_a_pid_that_is_no_vm(three: FakeProc, selector: str) -> None:
    with pytest.raises(UsageError, match="no QEMU"):
        discovery.find_vm(selector, three.root)


def test_vm_at_a_socket(three: FakeProc) -> None:
    vm = discovery.vm_at(Address("/run/../run/t1.qmp"), three.root)
    assert (vm.pid, vm.name) == (200, "twin")
    assert vm.qmp_addresses[0] == Address("/run/../run/t1.qmp")


def test_vm_at_its_second_socket_uses_that_first(proc: FakeProc) -> None:
    proc.add(9, f"{QEMU} -name a -qmp tcp:127.0.0.1:4444,server=on -qmp tcp:127.0.0.1:5555,server=on")
    vm = discovery.vm_at(Address(host="localhost", port=5555), proc.root)
    assert [a.port for a in vm.qmp_addresses] == [5555, 4444]
    assert vm.pid == 9


def test_vm_at_a_socket_of_another_host(three: FakeProc) -> None:
    address = Address(host="10.0.0.9", port=4444)
    vm = discovery.vm_at(address, three.root)
    assert (vm.name, vm.pid, vm.qmp_addresses) == ("10.0.0.9:4444", 0, (address,))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("/run/a.qmp", Address("/run/a.qmp")),
        ("a.qmp", Address("a.qmp")),
        ("./a:1", Address("./a:1")),
        ("unix:a:1", Address("a:1")),
        ("unix:/run/a", Address("/run/a")),
        ("localhost:4444", Address(host="localhost", port=4444)),
        ("tcp:10.0.0.1:4444", Address(host="10.0.0.1", port=4444)),
        (":4444", Address(host="127.0.0.1", port=4444)),
        ("[::1]:4444", Address(host="::1", port=4444)),
        ("tcp:[fe80::1%eth0]:4444", Address(host="fe80::1%eth0", port=4444)),
    ],
)
def test_parse_address(text: str, address: Address) -> None:
    assert discovery.parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["", "unix:", "tcp:", "tcp:host", "host:", "host:qmp", "host:0", "host:65536", "::1:4444", "tcp:a/b:1"]
)
def test_parse_address_refuses(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        discovery.parse_address(text)
    assert "HOST:PORT" in caught.value.hint


def test_a_name_in_a_config_file_counts_when_a_vm_is_looked_for(proc: FakeProc, tmp_path: Path) -> None:
    (tmp_path / "vm.conf").write_text('[name]\nguest = "twin"\n')
    proc.add(9, f"{QEMU} -readconfig vm.conf", cwd=str(tmp_path))
    assert discovery.find_vm("twin", proc.root).pid == 9
    proc.add(10, f"{QEMU} -name twin")
    with pytest.raises(UsageError, match="2 VMs"):
        discovery.find_vm("twin", proc.root)


@pytest.mark.parametrize("path", ["pipe", "/dev/zero", "/dev/stdin", "."])
def test_a_config_file_that_is_none_is_not_waited_for(proc: FakeProc, tmp_path: Path, path: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    proc.add(9, f"{QEMU} -name a -readconfig {path}", cwd=str(tmp_path))
    assert [vm.name for vm in discovery.find_vms(proc.root)] == ["a"]
