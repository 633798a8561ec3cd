"""The kernel's word whenever a process starts a program: the proc connector, narrowed in the kernel to that.

A library's socket (pyroute2 has one) hands over every fork, exit and thread of the host, each decoded field by
field: a compiler running beside the VMs would keep a core busy. Here a filter of four instructions leaves the rest
in the kernel, and what passes it is two numbers at a fixed place.

Sources: linux/cn_proc.h, linux/connector.h, Documentation/driver-api/connector.rst, networking/filter.rst.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct

from ringfence.errors import HostError

_NETLINK_CONNECTOR = 11
_CN_IDX_PROC = 1
_LISTEN = 1
_EXEC = 0x00000002
_SO_ATTACH_FILTER = 26
_WHAT_OFFSET = 36  # nlmsghdr is 16 bytes, cn_msg 20; proc_event begins with `what`
_TGID_OFFSET = 56  # proc_event: what, cpu, timestamp_ns, then pid and tgid of the process
_NLMSG_DONE = 3
_TO_KERNEL = struct.Struct("=IHHII IIIIHH I")
_LD_ABS, _JEQ, _RETURN = 0x20, 0x15, 0x06
_BUFFER_BYTES = 1 << 20


class ExecEvents:
    """Process ids, as programs are started. Needs CAP_NET_ADMIN in the first network and user namespace.

    :raise HostError: the kernel has no proc connector, or does not let this process listen.
    """

    def __init__(self) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_CONNECTOR)
        except OSError as error:
            raise _refused(error) from error
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
            self._attach_filter()
            self._socket.bind((0, _CN_IDX_PROC))
            body = (_CN_IDX_PROC, _CN_IDX_PROC, 0, 0, 4, 0, _LISTEN)
            self._socket.send(_TO_KERNEL.pack(_TO_KERNEL.size, _NLMSG_DONE, 0, 0, os.getpid(), *body))
        except OSError as error:
            self._socket.close()
            raise _refused(error) from error

    def _attach_filter(self) -> None:
        """Let through what is an exec. A filter reads numbers in network order, the kernel wrote its own."""
        wanted = int.from_bytes(struct.pack("=I", _EXEC), "big")
        code = ((_LD_ABS, 0, 0, _WHAT_OFFSET), (_JEQ, 0, 1, wanted), (_RETURN, 0, 0, 0xFFFF), (_RETURN, 0, 0, 0))
        program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in code))
        self._socket.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(code), ctypes.addressof(program))
        )

    def fileno(self) -> int:
        """Readable when a program was started."""
        return self._socket.fileno()

    def read(self) -> list[int] | None:
        """The processes that started a program since the last call; None when some were missed."""
        pids: list[int] = []
        while True:
            try:
                data, (port, _) = self._socket.recvfrom(4096)
            except BlockingIOError:
                return pids
            except OSError:  # ENOBUFS: the kernel dropped some
                return None
            if port == 0 and len(data) >= _TGID_OFFSET + 4:
                pids.append(struct.unpack_from("=I", data, _TGID_OFFSET)[0])

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


def _refused(error: OSError) -> HostError:
    return HostError(
        f"the kernel does not tell us when programs start: {error.strerror}",
        path="netlink connector",
        errno=error.errno or 0,
        hint="this needs root (CAP_NET_ADMIN); without it new VMs are looked for every two seconds",
    )
