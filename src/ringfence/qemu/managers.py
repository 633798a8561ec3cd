"""PURE: who manages a VM: it supervises what it started, and holds the monitor it made for itself."""

from __future__ import annotations

from collections.abc import Sequence

from ringfence.core.model import Address
from ringfence.qemu.options import Option, keyval

PLAIN, LIBVIRT, PROXMOX, INCUS = "plain", "libvirt", "proxmox", "incus"

_PATH_OPTIONS = {"pidfile", "readconfig", "D"}


def manager_of(options: Sequence[Option]) -> str:
    """The manager, by what only its command lines have; `plain` when there is no sign of one."""
    for option in options:
        if option.name == "id":
            return PROXMOX
        if option.name == "mon" and keyval(option.text, "chardev").get("chardev") == "charmonitor":
            return LIBVIRT
        if option.name == "chardev" and "/qemu-server/" in option.text:
            return PROXMOX
        if option.name in _PATH_OPTIONS and ("/incus/" in option.text or "/lxd/" in option.text):
            return INCUS
    return LIBVIRT if master_key_folder(options) else PLAIN


def manager_of_cgroup(cgroup: str) -> str:
    """The manager whose cgroup it is, for a command line that does not tell."""
    return LIBVIRT if "/machine-qemu" in cgroup or ".libvirt-qemu" in cgroup else PLAIN


def master_key_folder(options: Sequence[Option]) -> str:
    """libvirt's folder for one VM, where its secrets and its monitor's socket lie; empty when there is none."""
    for option in options:
        if option.name == "object" and "master-key.aes" in option.text:
            file = keyval(option.text, "qom-type").get("file", "")
            if file.endswith("/master-key.aes"):
                return file.removesuffix("/master-key.aes")
    return ""


def is_own_socket(address: Address) -> bool:
    """Whether a monitor's socket is the one that libvirt made for itself."""
    return "/libvirt/" in address.path and address.path.endswith("/monitor.sock")
