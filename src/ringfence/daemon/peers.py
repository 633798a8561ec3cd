"""Who is at the other end of a unix socket, by the kernel's word; and what they may ask for."""

from __future__ import annotations

import grp
import os
import socket
import struct
from typing import NamedTuple

from ringfence.errors import UsageError

GROUP = "ringfence"
"""Members may read everything. To change a tenant takes root, the daemon's own user, or the tenant's owner."""

_SO_PEERGROUPS = 59
_UCRED = struct.Struct("=iII")
_MOST_GROUPS = 256  # as many as Python's getsockopt takes


class Peer(NamedTuple):
    """A process that has connected, with its credentials of that moment."""

    pid: int
    uid: int
    groups: frozenset[int]

    def may_read(self, owner_uid: int | None = None) -> bool:
        """Whether it may see a tenant of this owner; with None, everything."""
        return self.may_change(owner_uid) or _group() in self.groups

    def may_change(self, owner_uid: int | None = None) -> bool:
        """Whether it may change a tenant of this owner; with None, what concerns all of them."""
        return self.uid in (0, os.getuid()) or (owner_uid is not None and self.uid == owner_uid)


def peer_of(connection: socket.socket) -> Peer:
    """The process at the other end. See unix(7), SO_PEERCRED and SO_PEERGROUPS."""
    pid, uid, gid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    try:
        data = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * _MOST_GROUPS)
    except OSError:  # it has more
        data = b""
    groups = struct.unpack(f"={len(data) // 4}I", data)
    return Peer(pid, uid, frozenset((gid, *groups)))


def refuse(peer: Peer, what: str) -> UsageError:
    """For a peer that may not do it."""
    return UsageError(
        f"user {peer.uid} may not {what}",
        hint=f"the group {GROUP} may look; root and a VM's owner may change it",
    )


def _group() -> int | None:
    try:
        return grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return None
