"""PURE: what a command line leaves open, and the process it belongs to can tell."""

from __future__ import annotations


class Process:
    """A QEMU process of which nothing is known but its command line.

    `ringfence.qemu.discovery` has one that looks into /proc. Each method says nothing (an empty string) rather
    than raise.
    """

    def cwd(self) -> str:
        """The directory that relative paths on the command line start from."""
        return ""

    def socket_path(self, fd: int) -> str:  # noqa: ARG002 - for those who know
        """The path of the unix socket behind a file descriptor that QEMU was started with."""
        return ""

    def tap_name(self, fd: int) -> str:  # noqa: ARG002 - for those who know
        """The network interface behind a file descriptor that QEMU was started with."""
        return ""

    def config(self, path: str) -> str:  # noqa: ARG002 - for those who know
        """The text of a `-readconfig` file."""
        return ""

    def cgroup(self) -> str:
        """The text of /proc/PID/cgroup."""
        return ""
