"""PURE: a QEMU process's command line, read into a `Vm`.

Whatever an option says, a VM comes out: what cannot be read is what QEMU would have without it.
Source: QEMU qemu-options.hx, hw/core/machine-smp.c, softmmu/vl.c.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ringfence.core.model import Address, Monitor, Vm
from ringfence.qemu import chardevs, devices, managers
from ringfence.qemu.options import Fields, Option, count, from_config, keyval, merged, size_bytes, split
from ringfence.qemu.process import Process
from ringfence.units import MIB

DEFAULT_MEMORY_BYTES = 128 * MIB
_TOPOLOGY = ("drawers", "books", "sockets", "dies", "clusters", "modules", "cores", "threads")
_NOTHING_KNOWN = Process()


def parse(argv: Sequence[str], *, pid: int = 0, executable: str = "", process: Process = _NOTHING_KNOWN) -> Vm:
    """Read a command line, QEMU's own program first.

    :param process: asked for what the command line leaves open; by default nothing is known of it.
    """
    options = options_of(argv, process)
    name, uuid = identity(options, pid)
    machine = merged(options, ("machine", "M"), "type")
    memory_bytes, memory_max_bytes = _memory(merged(options, ("m",), "size"))
    vcpus, vcpus_max = _vcpus(merged(options, ("smp",), "cpus"))
    manager = managers.manager_of(options)
    if manager == managers.PLAIN:
        manager = managers.manager_of_cgroup(process.cgroup())
    return Vm(
        name=name,
        pid=pid,
        uuid=uuid,
        machine=machine.get("type", ""),
        accel=_accel(options, machine, argv[0]),
        memory_bytes=memory_bytes,
        memory_max_bytes=memory_max_bytes,
        vcpus=vcpus,
        vcpus_max=vcpus_max,
        monitors=tuple(_with_libvirts(chardevs.monitors(options, process), managers.master_key_folder(options))),
        agent=chardevs.agent(options, process),
        drives=tuple(devices.drives(options, machine.get("type", ""))),
        nics=tuple(devices.nics(options, process)),
        manager=manager,
        executable=executable or argv[0],
        argv=tuple(argv),
    )


def options_of(argv: Sequence[str], process: Process) -> list[Option]:
    """The options of a command line, and of the configuration files that it names."""
    options = split(argv[1:])
    for option in [o for o in options if o.name == "readconfig"]:
        options += from_config(process.config(option.text))
    return options


def identity(options: Iterable[Option], pid: int) -> tuple[str, str]:
    """A VM's name and UUID: all that is needed to tell whether it is the one asked for."""
    names, uuid, smbios_uuid = Fields(), "", ""
    for option in options:
        if option.name == "name":
            names.update(keyval(option.text, "guest"))
        elif option.name == "uuid":
            uuid = option.text.lower()
        elif option.name == "smbios" and "uuid=" in option.text:
            smbios_uuid = keyval(option.text).get("uuid", "").lower()
    uuid = uuid or smbios_uuid
    return names.get("guest") or uuid or f"pid-{pid}", uuid


def _memory(fields: Fields) -> tuple[int, int]:
    size = size_bytes(fields.get("size", ""), "m") or DEFAULT_MEMORY_BYTES
    return size, max(size, size_bytes(fields.get("maxmem", "")) or 0)


def _vcpus(fields: Fields) -> tuple[int, int]:
    cpus, most = (count(fields.get(key, "")) for key in ("cpus", "maxcpus"))
    if not cpus and not most:
        most = 1
        for level in _TOPOLOGY:
            most *= count(fields.get(level, "")) or 1
    most = most or cpus or 1
    cpus = cpus or most
    return cpus, max(cpus, most)


def _accel(options: Sequence[Option], machine: Fields, program: str) -> str:
    """What QEMU was told to use, alternatives in order with a colon between, as `-machine accel=` writes them."""
    named = [keyval(option.text, "accel").get("accel", "") for option in options if option.name == "accel"]
    if any(named):
        return ":".join(name for name in named if name)
    if any(option.name == "enable-kvm" for option in options):
        return "kvm"
    return machine.get("accel") or ("kvm:tcg" if program.endswith("kvm") else "tcg")


def _with_libvirts(found: Iterable[Monitor], folder: str) -> Iterable[Monitor]:
    """libvirt passes its monitor as a file descriptor; a user who may not look behind it knows the path still."""
    for monitor in found:
        if monitor.address is None and folder and "id=charmonitor" in monitor.where:
            yield monitor._replace(address=Address(path=f"{folder}/monitor.sock"))
        else:
            yield monitor
