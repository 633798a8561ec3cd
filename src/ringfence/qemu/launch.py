"""The command line of a VM that can be fenced: what must be there from the start so that limits can change later.

What the user passes to QEMU wins over what is built here: an option of ours that theirs contradicts is left out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from ringfence.errors import HostError, UsageError
from ringfence.qemu.disks import Disk
from ringfence.qemu.files import Files
from ringfence.units import MIB

AGENT_CHANNEL = "org.qemu.guest_agent.0"
BALLOON = "virtio-balloon-pci"
CONSOLE = "ringfence-console"
"""Keeps the end of what the guest writes to its serial port: by a file it could fill the host's memory or disk."""

_CONSOLE_BYTES = 64 * 1024
SPARE_PORTS = 4
"""Places for devices that are plugged later: q35's own bus takes none while the VM runs."""

_PROGRAMS = ("qemu-system-x86_64", "qemu-kvm", "/usr/libexec/qemu-kvm")  # the latter two: the Red Hat family
_INSTALL = "apt install qemu-system-x86, or name the program with --qemu"
_REPLACED_BY = {
    "name": ("name",),
    "accel": ("accel", "enable-kvm"),
    "cpu": ("cpu",),
    "m": ("m",),
    "smp": ("smp",),
    "display": ("display", "nographic", "curses", "sdl", "spice"),
    "serial": ("serial", "nographic"),
    "pidfile": ("pidfile",),
}


class VmOptions(NamedTuple):
    """What a VM shall have.

    :param qemu: the QEMU program.
    :param vcpus: at the start, one core each; all but the first can be unplugged.
    :param memory_max_bytes: with plugged memory; equal to `memory_bytes` when there shall be no room for any.
    :param extra: QEMU arguments of the user's, which win.
    """

    name: str
    files: Files
    memory_bytes: int
    memory_max_bytes: int
    qemu: str
    machine: str = "q35"
    accel: str = "tcg"
    vcpus: int = 1
    vcpus_max: int = 1
    memory_slots: int = 8
    disks: Sequence[Disk] = ()
    deflate_on_oom: bool = True
    free_page_reporting: bool = True
    extra: Sequence[str] = ()


class _Extra(NamedTuple):
    """What the user's own arguments settle already."""

    options: frozenset[str]
    arguments: Sequence[str]

    @classmethod
    def of(cls, arguments: Sequence[str]) -> _Extra:
        names = (text.removeprefix("-").removeprefix("-") for text in arguments if text.startswith("-"))
        return cls(frozenset(names), arguments)

    def replaces(self, option: str) -> bool:
        if option == "accel" and any("accel=" in value for value in self.values("machine", "M")):
            return True
        return any(name in self.options for name in _REPLACED_BY[option])

    def values(self, *names: str) -> Iterator[str]:
        """The values given to options of these names, in order."""
        dashed = {f"{dashes}{name}" for name in names for dashes in ("-", "--")}
        for option, value in pairwise(self.arguments):
            if option in dashed:
                yield value

    def machine(self) -> str:
        """The machine type, empty when the user leaves it to us."""
        chosen = ""
        for value in self.values("machine", "M"):
            for part in value.split(","):
                key, equals, text = part.rpartition("=")
                if key == "type" or not equals:
                    chosen = text
        return chosen

    def has_device(self, prefix: str) -> bool:
        return any(value.startswith(prefix) for value in self.values("device"))

    def mentions(self, text: str) -> bool:
        return any(text in argument for argument in self.arguments)


def command_line(options: VmOptions, balloon_properties: Collection[str]) -> list[str]:
    """The whole command line, the program first.

    :param balloon_properties: what this QEMU's balloon has, see `device_properties`; others are left out.
    :raise UsageError: the options contradict each other.
    """
    _check(options)
    extra = _Extra.of(options.extra)
    line = [options.qemu]
    for option, value in _settings(options):
        if not extra.replaces(option):
            line += [f"-{option}", value]
    machine = extra.machine() or options.machine
    if not extra.machine():
        line += ["-machine", options.machine]
    for address in (options.files.qmp, options.files.qmp_tools):
        line += ["-qmp", f"unix:{_escape(address.path)},server=on,wait=off"]
    if not extra.replaces("serial"):
        line += ["-chardev", f"ringbuf,id={CONSOLE},size={_CONSOLE_BYTES}"]
    line += _agent(options, extra)
    if not extra.has_device("virtio-balloon"):
        line += ["-device", _balloon(options, balloon_properties)]
    if "q35" in machine:
        for number in range(SPARE_PORTS):
            line += ["-device", f"pcie-root-port,id=spare{number},chassis={number + 1},slot={number + 1}"]
    for number, disk in enumerate(options.disks):
        line += _disk(f"disk{number}", disk)
    return [*line, *options.extra]


def find_qemu() -> str | None:
    """The QEMU program for x86-64 guests on this host, None when there is none."""
    import shutil

    return next(filter(None, map(shutil.which, _PROGRAMS)), None)


def installed_qemu() -> str:
    """As `find_qemu`.

    :raise HostError: there is none.
    """
    found = find_qemu()
    if found is None:
        raise HostError("no QEMU for x86-64 guests is installed", path=_PROGRAMS[0], hint=_INSTALL)
    return found


def device_properties(qemu: str, device: str) -> frozenset[str]:
    """The names of the properties that this QEMU's `device` has; empty when it has no such device.

    :raise HostError: the program cannot be run.
    """
    import subprocess

    try:
        done = subprocess.run(
            (qemu, "-device", f"{device},help"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        raise missing_qemu(qemu, error) from error
    return frozenset(line.split("=")[0].strip() for line in done.stdout.splitlines() if "=<" in line)


def missing_qemu(qemu: str, error: OSError) -> HostError:
    """What to raise when the QEMU program could not be started at all."""
    return HostError(
        f"cannot run {qemu}: {error.strerror}",
        path=qemu,
        errno=error.errno or 0,
        hint=_INSTALL,
    )


def _check(options: VmOptions) -> None:
    if not 1 <= options.vcpus <= options.vcpus_max:
        raise UsageError(
            f"{options.vcpus} vCPUs with at most {options.vcpus_max} cannot be",
            hint="choose at least one, and no more than the maximum",
        )
    if options.memory_bytes > options.memory_max_bytes:
        raise UsageError(
            "the memory at the start is more than the maximum", hint="raise the maximum, or leave it out"
        )
    if options.memory_bytes < MIB or options.memory_bytes % MIB or options.memory_max_bytes % MIB:
        raise UsageError("memory comes in whole MiB", hint="write 512MiB or 2GiB")


def _settings(options: VmOptions) -> Iterator[tuple[str, str]]:
    """Options that the user's replace as a whole."""
    yield "name", f"guest={_escape(options.name)},debug-threads=on"
    yield "accel", options.accel
    yield "cpu", "max"
    memory = f"size={options.memory_bytes // MIB}M"
    if options.memory_max_bytes > options.memory_bytes:
        memory += f",slots={options.memory_slots},maxmem={options.memory_max_bytes // MIB}M"
    yield "m", memory
    yield "smp", f"cpus={options.vcpus},maxcpus={options.vcpus_max},sockets=1,cores={options.vcpus_max},threads=1"
    yield "display", "none"
    yield "serial", f"chardev:{CONSOLE}"
    yield "pidfile", str(options.files.pidfile)


def _agent(options: VmOptions, extra: _Extra) -> list[str]:
    if extra.mentions(AGENT_CHANNEL):
        return []
    return [
        *("-device", "virtio-serial-pci,id=ringfence-serial"),
        *("-chardev", f"socket,id=ringfence-agent,path={_escape(options.files.agent.path)},server=on,wait=off"),
        *("-device", f"virtserialport,bus=ringfence-serial.0,chardev=ringfence-agent,name={AGENT_CHANNEL}"),
    ]


def _balloon(options: VmOptions, properties: Collection[str]) -> str:
    wanted = {"deflate-on-oom": options.deflate_on_oom, "free-page-reporting": options.free_page_reporting}
    switches = "".join(f",{name}={'on' if on else 'off'}" for name, on in wanted.items() if name in properties)
    return f"{BALLOON},id=balloon0{switches}"


def _disk(name: str, disk: Disk) -> list[str]:
    cache = ",cache=none" if disk.direct else ""
    readonly = ",readonly=on" if disk.readonly else ""
    return [
        *("-drive", f"if=none,id={name},file={_escape(disk.file)},format={disk.format}{cache}{readonly}"),
        *("-device", f"virtio-blk-pci,id={name},drive={name}"),
    ]


def _escape(text: str) -> str:
    """A value inside one of QEMU's comma-separated options."""
    return text.replace(",", ",,")
