"""Which sockets are listened on, which are taken, and by whom: told by the kernel, without connecting to any.

Sources: proc(5) (/proc/net/unix, /proc/net/tcp), sock_diag(7).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from ringfence.core.model import Address

_MAPPED = b"\0" * 10 + b"\xff\xff"  # an IPv4 address in an IPv6 socket
FREE, BUSY, UNREACHABLE = "free", "busy", "unreachable"

_UNIX_CONNECTED, _TCP_ESTABLISHED, _TCP_LISTEN = "03", "01", "0A"
_SOCK_DIAG_BY_FAMILY, _UDIAG_SHOW_PEER, _UNIX_DIAG_PEER, _NO_COOKIE = 20, 4, 2, 0xFFFFFFFF


class _Unix(NamedTuple):
    path: str
    state: str
    inode: int


class _Tcp(NamedTuple):
    local_host: str
    local_port: int
    remote_port: int
    state: str
    inode: int


class SocketTable:
    """The sockets of this network namespace as they are now; who holds one is looked up when it is asked for.

    :param peer_of: gives the inode at the other end of a unix socket's connection, 0 when that is not known.
    """

    def __init__(self, proc: str = "/proc", peer_of: Callable[[int], int] | None = None) -> None:
        self._proc = proc
        self._peer_of = peer_of or unix_peer
        self._unix = _unix_sockets(proc)
        self._tcp: list[_Tcp] | None = None
        self._owners: dict[int, int] | None = None

    def state(self, address: Address, pid: int = 0) -> str | None:
        """`free`, `busy` (a client is served) or `unreachable` (nobody listens); None when it cannot be told.

        :param pid: the process that listens: without it a socket that was bound to a relative path is not found.
        """
        if address.path:
            rows = self._unix_sockets(address.path, pid)
            if rows:
                return BUSY if any(row.state == _UNIX_CONNECTED for row in rows) else FREE
            return None if os.path.exists(address.path) else UNREACHABLE
        states = {row.state for row in self._tcp_at(address)}
        if _TCP_ESTABLISHED in states:
            return BUSY
        return FREE if _TCP_LISTEN in states else None

    def holder(self, address: Address, pid: int = 0) -> tuple[int, str] | None:
        """Pid and name of the process that is being served; None when this user may not see it."""
        for inode in self._client_inodes(address, pid):
            owner = self._owner_of(inode)
            if owner:
                return owner, _text(f"{self._proc}/{owner}/comm").strip()
        return None

    def _client_inodes(self, address: Address, pid: int) -> list[int]:
        if address.path:
            served = [row.inode for row in self._unix_sockets(address.path, pid) if row.state == _UNIX_CONNECTED]
            return [self._peer_of(inode) for inode in served]
        rows = self._tcp_sockets()
        client_ports = {row.remote_port for row in self._tcp_at(address)}
        return [row.inode for row in rows if row.remote_port == address.port and row.local_port in client_ports]

    def _unix_sockets(self, path: str, pid: int) -> list[_Unix]:
        """The kernel knows a socket by the name it was bound to, relative perhaps to where the process was."""
        exact = [row for row in self._unix if row.path == path]
        if exact or not pid:
            return exact
        relative = [row for row in self._unix if row.path[0] not in "/@" and path.endswith(f"/{row.path}")]
        own = _socket_inodes(f"{self._proc}/{pid}/fd") if relative else []
        return [row for row in relative if row.inode in own]

    def _tcp_sockets(self) -> list[_Tcp]:
        if self._tcp is None:
            self._tcp = [row for name in ("tcp", "tcp6") for row in _tcp_sockets(f"{self._proc}/net/{name}")]
        return self._tcp

    def _tcp_at(self, address: Address) -> list[_Tcp]:
        """This end of what is at that port: another program may have the same port of another address."""
        return [row for row in self._tcp_sockets() if row.local_port == address.port and _is_at(row, address.host)]

    def _owner_of(self, inode: int) -> int:
        if self._owners is None:
            self._owners = _owners(self._proc)
        return self._owners.get(inode, 0)


def _unix_sockets(proc: str) -> list[_Unix]:
    """Every named unix socket: those that listen, and the served ends of their connections."""
    rows = [line.split(None, 7) for line in _text(f"{proc}/net/unix").splitlines()[1:]]
    return [_Unix(fields[7], fields[5], int(fields[6])) for fields in rows if len(fields) == 8]


def _tcp_sockets(path: str) -> list[_Tcp]:
    rows: list[_Tcp] = []
    for line in _text(path).splitlines()[1:]:
        fields = line.split(None, 10)
        if len(fields) > 9:
            local, remote = (int(fields[i].rpartition(":")[2], 16) for i in (1, 2))
            rows.append(_Tcp(fields[1].rpartition(":")[0], local, remote, fields[3], int(fields[9])))
    return rows


def _is_at(row: _Tcp, host: str) -> bool:
    """Whether a socket is at that address, or at all of them; a host's name cannot be told from here."""
    import socket

    words = bytes.fromhex(row.local_host)  # each word of four bytes in the machine's own order
    own = b"".join(int.from_bytes(words[i : i + 4]).to_bytes(4, sys.byteorder) for i in range(0, len(words), 4))
    if own.startswith(_MAPPED):
        own = own.removeprefix(_MAPPED)
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            return not any(own) or own == socket.inet_pton(family, host)
        except OSError:
            continue
    return True


def _owners(proc: str) -> dict[int, int]:
    """Inode of every socket to a process that has it open, of the processes this user may look into."""
    pids = filter(str.isdigit, os.listdir(proc))
    return {inode: int(pid) for pid in pids for inode in _socket_inodes(f"{proc}/{pid}/fd")}


def _socket_inodes(folder: str) -> list[int]:
    """The sockets among a process's open files; none when it is gone, or another user's."""
    try:
        fds = os.listdir(folder)
    except OSError:
        return []
    inodes: list[int] = []
    for fd in fds:
        with suppress(OSError):
            target = os.readlink(f"{folder}/{fd}")
            if target.startswith("socket:["):
                inodes.append(int(target[8:-1]))
    return inodes


def unix_peer(inode: int) -> int:
    """The inode at the other end of a connected unix socket; 0 when the kernel does not say."""
    import socket
    import struct

    request = struct.pack(
        "=BBHIIIII", socket.AF_UNIX, 0, 0, _NO_COOKIE, inode, _UDIAG_SHOW_PEER, _NO_COOKIE, _NO_COOKIE
    )
    header = struct.pack("=IHHII", 16 + len(request), _SOCK_DIAG_BY_FAMILY, 1, 1, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as diag:
            diag.settimeout(1)
            diag.send(header + request)
            answer = diag.recv(8192)
    except OSError:
        return 0
    length, kind = struct.unpack_from("=IH", answer)
    offset = 32 if kind == _SOCK_DIAG_BY_FAMILY else length
    while offset + 8 <= length:
        size, attribute = struct.unpack_from("=HH", answer, offset)
        if attribute == _UNIX_DIAG_PEER:
            return int(struct.unpack_from("=I", answer, offset + 4)[0])
        offset += max((size + 3) & ~3, 4)
    return 0


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""
