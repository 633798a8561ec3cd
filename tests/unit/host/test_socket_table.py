"""Who listens and who is served, from a /proc made of files; and the one question put to the real kernel."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from ringfence.core.model import Address
from ringfence.host.socket_table import BUSY, FREE, UNREACHABLE, SocketTable, unix_peer

UNIX = """\
Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 10 /run/free.qmp
0000000000000000: 00000002 00000000 00010000 0001 01 20 /run/busy one.qmp
0000000000000000: 00000003 00000000 00000000 0001 03 21 /run/busy one.qmp
0000000000000000: 00000003 00000000 00000000 0001 02 0 /run/busy one.qmp
0000000000000000: 00000003 00000000 00000000 0001 03 22
0000000000000000: 00000002 00000000 00010000 0001 01 30 @abstract
0000000000000000: 00000002 00000000 00010000 0001 01 40 own.qmp
0000000000000000: 00000002 00000000 00010000 0001 01 50 own.qmp
0000000000000000: 00000003 00000000 00000000 0001 03 51 own.qmp
"""
TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:115C 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 100 1 0 100 0 0 10 0
   1: 0100007F:115D 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 101 1 0 100 0 0 10 0
   2: 0100007F:115D 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 102 1 0 20 4 0 10 -1
   3: 0100007F:C350 0100007F:115D 01 00000000:00000000 00:00000000 00000000     0        0 103 1 0 20 4 0 10 -1
   4: 0100007F:C351 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 104 1 0 20 4 0 10 -1
"""


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "net").mkdir()
    (tmp_path / "net/unix").write_text(UNIX)
    (tmp_path / "net/tcp").write_text(TCP)
    for pid, name, inode in (
        (7, "libvirtd", 22),
        (8, "socat", 103),
        (9, "other", 104),
        (40, "q", 40),
        (50, "q", 50),
    ):
        (tmp_path / f"{pid}/fd").mkdir(parents=True)
        (tmp_path / f"{pid}/comm").write_text(f"{name}\n")
        (tmp_path / f"{pid}/fd/0").symlink_to("/dev/null")
        (tmp_path / f"{pid}/fd/3").symlink_to(f"socket:[{inode}]")
    (tmp_path / "50/fd/4").symlink_to("socket:[51]")
    (tmp_path / "6").mkdir()
    return tmp_path


@pytest.fixture
def table(proc: Path) -> SocketTable:
    return SocketTable(str(proc), {21: 22, 51: 22}.__getitem__)


@pytest.mark.parametrize(
    ("address", "state"),
    [
        (Address("/run/free.qmp"), FREE),
        (Address("/run/busy one.qmp"), BUSY),
        (Address("/nowhere/at/all.qmp"), UNREACHABLE),
        (Address("/dev/null"), None),
        (Address(host="127.0.0.1", port=4444), FREE),
        (Address(host="127.0.0.1", port=4445), BUSY),
        (Address(host="127.0.0.1", port=4446), None),
        (Address(host="127.0.0.1", port=8080), None),
    ],
)
def test_state(table: SocketTable, address: Address, state: str | None) -> None:
    assert table.state(address) == state


def test_holder(table: SocketTable) -> None:
    assert table.holder(Address("/run/busy one.qmp")) == (7, "libvirtd")
    assert table.holder(Address(host="127.0.0.1", port=4445)) == (8, "socat")


def test_sockets_bound_to_a_relative_path_are_told_apart_by_their_process(table: SocketTable) -> None:
    own = Address("/srv/vm/own.qmp")
    assert [table.state(own, pid) for pid in (40, 50, 7, 0)] == [FREE, BUSY, UNREACHABLE, UNREACHABLE]
    assert table.holder(own, 50) == (7, "libvirtd")
    assert table.holder(own, 40) is None


def test_nobody_holds_a_free_socket(table: SocketTable) -> None:
    assert table.holder(Address("/run/free.qmp")) is None
    assert table.holder(Address(host="127.0.0.1", port=4444)) is None


def test_a_holder_whose_descriptors_may_not_be_read_stays_unnamed(proc: Path) -> None:
    (proc / "7/fd/3").unlink()
    assert SocketTable(str(proc), {21: 22}.__getitem__).holder(Address("/run/busy one.qmp")) is None


def test_a_kernel_that_tells_nothing(tmp_path: Path) -> None:
    table = SocketTable(str(tmp_path))
    assert table.state(Address(host="127.0.0.1", port=4444)) is None
    assert table.state(Address("/dev/null")) is None


def test_the_real_kernel_knows_both_ends_of_a_connection() -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with left, right:
        assert unix_peer(os.fstat(left.fileno()).st_ino) == os.fstat(right.fileno()).st_ino
        gone = os.fstat(left.fileno()).st_ino
    assert unix_peer(gone) == 0


def test_the_real_tables(tmp_path: Path) -> None:
    path = Address(str(tmp_path / "s"))
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(path.path)
        server.listen(1)
        assert SocketTable().state(path) == FREE
        client.connect(path.path)
        served, _ = server.accept()
        with served:
            table = SocketTable()
            assert table.state(path) == BUSY
            holder = table.holder(path)
    assert holder is not None
    assert holder[0] == os.getpid()


@pytest.mark.parametrize(
    ("host", "state"),
    [("127.0.0.1", FREE), ("127.0.0.2", None), ("::1", BUSY), ("10.1.2.3", None), ("some.name", BUSY)],
)
def test_the_same_port_of_another_address_is_another_socket(tmp_path: Path, host: str, state: str | None) -> None:
    (tmp_path / "net").mkdir()
    here, there = "0100007F", "00000000000000000000000001000000"
    rest = "00000000:00000000 00:00000000 00000000     0        0"
    (tmp_path / "net/tcp").write_text(f"head\n   0: {here}:115C 00000000:0000 0A {rest} 100 1\n")
    (tmp_path / "net/tcp6").write_text(f"head\n   0: {there}:115C {there}:C350 01 {rest} 101 1\n")
    assert SocketTable(str(tmp_path)).state(Address(host=host, port=0x115C)) == state
