"""Connecting to a monitor's or agent's socket without ever waiting for a full backlog.

asyncio's own connectors are not used: they take EAGAIN from a unix socket, which means that the backlog is full,
for a connection in progress, and hand out a socket that is not connected. It is imported late: who needs no event
loop needs a fifth of the time to start.
"""

from __future__ import annotations

import os
import socket
import stat
from typing import TYPE_CHECKING

from ringfence.errors import MonitorBusyError, MonitorError, MonitorGoneError

if TYPE_CHECKING:
    from ringfence.core.model import Address

BUSY_HINT = (
    "A monitor serves one client at a time: close the other (libvirt, a shell, another tool), or start QEMU "
    "with a second socket, such as -qmp unix:PATH,server=on,wait=off."
)
GONE_HINT = (
    "See whether QEMU still runs, and was started with this socket: `ringfence ps` lists the VMs of this host."
)
PERMISSION_HINT = "Run as the user that runs QEMU, or as root: connecting needs write permission on the socket."

_BACKLOG_PAUSE_S = 0.01  # clients that hold a monitor for a burst of commands are gone by then
_SUN_PATH_BYTES = 107  # struct sockaddr_un, less the closing NUL


async def connect(address: Address) -> socket.socket:
    """A connected, non-blocking socket.

    Waits for a place in a unix socket's backlog, and for the network: give it a deadline.

    :raise OSError: as connect(2) says; for TCP the error of the last address tried.

    After an error, or when cancelled, nothing is left open.
    """
    if not address.path:
        return await _connect_tcp(address.host, address.port)
    while True:
        try:
            return connect_unix(address.path)
        except BlockingIOError:
            import asyncio

            await asyncio.sleep(_BACKLOG_PAUSE_S)


def connect_unix(path: str) -> socket.socket:
    """A connected, non-blocking unix socket.

    :raise OSError: as connect(2) says; BlockingIOError while the backlog is full.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        if len(os.fsencode(path)) <= _SUN_PATH_BYTES:
            sock.connect(path)
        else:
            _connect_long_path(sock, path)
    except BaseException:
        sock.close()
        raise
    return sock


def _connect_long_path(sock: socket.socket, path: str) -> None:
    """QEMU may have been given a relative path whose absolute form does not fit into an address."""
    folder, name = os.path.split(path)
    handle = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        sock.connect(f"/proc/self/fd/{handle}/{name}")
    finally:
        os.close(handle)


async def _connect_tcp(host: str, port: int) -> socket.socket:
    import asyncio

    loop = asyncio.get_running_loop()
    try:
        try:
            found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        except socket.gaierror:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise OSError(f"{host!r} cannot be the name of a host") from None
    refused = OSError(f"no address for {host}")
    for family, kind, protocol, _, target in found:
        sock = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
        try:
            await loop.sock_connect(sock, target)
        except OSError as error:
            sock.close()
            refused = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise refused


def monitor_error(address: Address, error: OSError) -> MonitorError:
    """What a failed `connect` means where a monitor was expected."""
    if isinstance(error, PermissionError):
        return MonitorError(f"{address}: permission denied", hint=PERMISSION_HINT)
    if address.path and os.path.exists(address.path) and not stat.S_ISSOCK(os.stat(address.path).st_mode):
        kind = "a directory" if os.path.isdir(address.path) else "a file"
        return MonitorGoneError(f"{address}: this is {kind}, not a socket", hint=GONE_HINT)
    reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)
    return MonitorGoneError(f"{address}: nobody listens there ({reason})", hint=GONE_HINT)


def late_connect(address: Address, timeout_s: float) -> MonitorError:
    """What a `connect` that did not end in time means where a monitor was expected."""
    if address.path:
        return MonitorBusyError(f"{address}: too many clients are queued for this monitor", hint=BUSY_HINT)
    return MonitorGoneError(f"{address}: no connection within {timeout_s:g} s", hint=GONE_HINT)
