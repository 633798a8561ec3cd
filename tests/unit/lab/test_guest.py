"""Starting, finding and ending guests; QEMU is played by a script, so none of them boots."""

import fcntl
from pathlib import Path

import pytest

from ringfence.errors import GuestError, HostError, UsageError
from ringfence.lab import guest as lab
from ringfence.lab.guest import GuestSpec, find_guest, list_guests, up
from ringfence.lab.image import Image

IMAGE = Image(Path("/image/vmlinuz"), Path("/image/initrd.gz"), Path("/image/tools.ext4"), "key")


@pytest.fixture
def qemu(tmp_path, monkeypatch):
    """Gives a function that writes the script that plays QEMU; `line` holds the arguments of its last start."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(lab, "ensure_image", lambda say: IMAGE)

    def write(body: str) -> str:
        script = tmp_path / "qemu"
        script.write_text(
            '#!/bin/sh\ncase "$*" in *,help) echo "  deflate-on-oom=<bool>"; exit ;; esac\n'
            f'for word in "$@"; do echo "$word"; done >{tmp_path}/line\n{body}\n'
        )
        script.chmod(0o755)
        return str(script)

    return write


def line(tmp_path: Path) -> list[str]:
    return (tmp_path / "line").read_text().splitlines()


def left(tmp_path: Path) -> list[str]:
    """What there is of guests: directories of sockets, and of disks."""
    homes = (tmp_path / "ringfence" / "lab", tmp_path / "cache" / "ringfence" / "lab" / "disks")
    return [path.name for home in homes if home.exists() for path in home.iterdir()]


async def test_a_qemu_that_does_not_start_is_quoted_and_leaves_nothing(qemu, tmp_path):
    script = qemu("echo 'qemu: -m: too much' >&2; exit 1")
    with pytest.raises(HostError, match="-m: too much"):
        await up(GuestSpec("vm1", qemu=script, accel="tcg", disks_bytes=[4096]))
    assert left(tmp_path) == []


async def test_a_qemu_that_ends_at_once_leaves_its_console_and_nothing_else(qemu, tmp_path):
    console = tmp_path / "ringfence" / "lab" / "vm1" / "serial.log"
    script = qemu(f"printf 'booting\\r\\nKernel panic\\r\\n' >{console}")
    said = []
    with pytest.raises(GuestError, match="ended while the guest booted"):
        await up(GuestSpec("vm1", qemu=script, accel="tcg"), say=said.append)
    assert said[-1].endswith("booting\nKernel panic")
    assert left(tmp_path) == []


async def test_the_spec_becomes_a_command_line(qemu, tmp_path):
    spec = GuestSpec(
        "vm1", accel="tcg", vcpus=2, disks_bytes=[4096, 8192], kernel_options=["x=1"], extra=["-m", "64M"]
    )
    with pytest.raises(GuestError):
        await up(spec._replace(qemu=qemu("")))
    words = line(tmp_path)
    assert words[-2:] == ["-m", "64M"]
    assert words.count("-m") == 1
    assert words[words.index("-kernel") + 1] == "/image/vmlinuz"
    assert words[words.index("-append") + 1].endswith(" memhp_default_state=online_movable x=1")
    assert "-daemonize" in words
    disks = [word for word in words if word.startswith("if=none,id=disk")]
    assert len(disks) == 2
    assert any("serial=ringfence-tools" in word for word in words)


async def test_a_disk_beyond_the_file_system_is_refused(qemu, tmp_path, tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))  # in memory it would fit
    with pytest.raises(HostError, match="cannot make a disk"):
        await up(GuestSpec("vm1", qemu=qemu(""), accel="tcg", disks_bytes=[1 << 62]))
    assert left(tmp_path) == []


async def test_a_name_that_is_taken_stays_with_its_owner(qemu, tmp_path):
    taken = tmp_path / "ringfence" / "lab" / "vm1"
    taken.mkdir(parents=True, mode=0o700)
    (tmp_path / "ringfence").chmod(0o700)
    taken.parent.chmod(0o700)
    (taken / "qmp.sock").touch()
    with pytest.raises(UsageError, match="already") as caught:
        await up(GuestSpec("vm1", qemu=qemu(""), accel="tcg"))
    assert "lab down vm1" in caught.value.hint
    assert (taken / "qmp.sock").exists()


async def test_a_guest_that_ended_by_itself_is_listed_and_can_be_removed(qemu, tmp_path):
    directory = lab.files_of("lab", "vm1").directory
    disks = tmp_path / "cache" / "disks"
    disks.mkdir(parents=True)
    directory.mkdir()
    (directory / "guest.json").write_text(f'{{"accel": "tcg", "memory_bytes": 5, "disks": "{disks}"}}')
    (directory / "pid").write_text("1\n")
    (guest,) = list_guests()
    assert (guest.name, guest.pid, guest.accel, guest.memory_bytes) == ("vm1", None, "tcg", 5)
    await guest.down()
    assert list_guests() == ()
    assert not disks.exists()


async def test_a_start_that_was_killed_half_way_can_be_removed_too(qemu):
    directory = lab.files_of("lab", "vm1").directory
    directory.mkdir()
    (directory / "guest.json").write_text('{"accel": "tc')
    await find_guest("vm1").down()
    assert list_guests() == ()


async def test_a_process_that_cannot_be_ended_keeps_its_files(qemu, monkeypatch):
    directory = lab.files_of("lab", "vm1").directory
    directory.mkdir()
    monkeypatch.setattr(lab.running, "stop", lambda pidfile, grace_s: False)
    with pytest.raises(HostError, match="does not end"):
        await find_guest("vm1").down()
    assert directory.exists()


def test_a_guest_that_is_not_there(qemu):
    lab.files_of("lab", "vm2").directory.mkdir()
    with pytest.raises(UsageError, match="no lab guest 'vm1'") as caught:
        find_guest("vm1")
    assert "vm2" in caught.value.hint


def test_our_own_lock_is_not_taken_for_a_guest(qemu):
    """A process never sees its own record locks, so a guest cannot be ended through the lab itself."""
    directory = lab.files_of("lab", "vm1").directory
    directory.mkdir()
    with (directory / "pid").open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        assert find_guest("vm1").pid is None
