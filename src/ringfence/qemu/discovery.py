"""Which VMs run here? Every QEMU process the user may see, and how to name one of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ringfence.core.model import Address, Monitor, Vm
from ringfence.errors import UsageError
from ringfence.qemu import cmdline
from ringfence.qemu import proc as processes
from ringfence.qemu.managers import PLAIN
from ringfence.qemu.options import count

if TYPE_CHECKING:
    from pathlib import Path

_HOST_PORT = r"(\[[^\[\]/]+\]|[^:/\[\]]*):(\d+)"
_LOCAL = {"localhost": "127.0.0.1", "": "127.0.0.1"}
_PS_HINT = "`ringfence ps` lists the VMs of this host"
_ADDRESS_HINT = "write a path such as /run/web1.qmp, or HOST:PORT, or [IPV6]:PORT"


class _Candidate(NamedTuple):
    """A QEMU process, and what it is called: the rest of its command line is read for the one that is meant."""

    pid: int
    argv: list[str]
    executable: str
    name: str
    uuid: str


def find_vms(proc: Path | str = "/proc") -> list[Vm]:
    """Every QEMU process that this user may see, by pid. Never raises for what it cannot read."""
    found = sorted(processes.qemu_processes(str(proc)))
    return [_vm(str(proc), pid, argv, executable) for pid, argv, executable in found]


def find_vm(selector: str, proc: Path | str = "/proc") -> Vm:
    """The VM of that name, UUID, `pid:N`, or plain pid; a name goes before a pid that looks like it.

    :raise UsageError: no VM is called so, or several are; the hint names the near ones, or how to tell them apart.
    """
    root = str(proc)
    if selector.startswith("pid:"):
        return _by_pid(root, selector.removeprefix("pid:"))
    candidates = sorted(_candidates(root))
    found = (
        [c for c in candidates if c.name == selector]
        or [c for c in candidates if c.uuid and c.uuid == selector.lower()]
        or [c for c in candidates if str(c.pid) == selector]
    )
    if len(found) == 1:
        pid, argv, executable, _, _ = found[0]
        return _vm(root, pid, argv, executable)
    if found:
        raise _ambiguous(selector, [_vm(root, c.pid, c.argv, c.executable) for c in found])
    raise _unknown(selector, candidates)


def vm_at(address: Address, proc: Path | str = "/proc") -> Vm:
    """The VM behind a monitor's socket; that socket is the first of its monitors.

    When no process here shows it (a remote host, another user's), a VM of which only the socket is known: pid 0,
    sizes 0, named by the socket.
    """
    wanted = _canonical(address)
    asked = Monitor("qmp", address, str(address))
    for vm in find_vms(proc):
        others = tuple(m for m in vm.monitors if m.address is None or _canonical(m.address) != wanted)
        if len(others) < len(vm.monitors):
            mux = any(m.mux for m in vm.monitors if m not in others)
            return vm._replace(monitors=(asked._replace(mux=mux), *others))
    return Vm(
        name=str(address),
        pid=0,
        uuid="",
        machine="",
        accel="",
        memory_bytes=0,
        memory_max_bytes=0,
        vcpus=0,
        vcpus_max=0,
        monitors=(asked,),
        agent=None,
        drives=(),
        nics=(),
        manager=PLAIN,
        executable="",
        argv=(),
    )


def parse_address(text: str) -> Address:
    """A socket as people write it: `PATH`, `unix:PATH`, `HOST:PORT`, `tcp:HOST:PORT`, `[IPV6]:PORT`.

    :raise UsageError: it is none of these.
    """
    if text.startswith("unix:") or ("/" in text and not text.startswith("tcp:")):
        path = text.removeprefix("unix:")
        if not path:
            raise UsageError(f"{text!r} names no socket", hint=_ADDRESS_HINT)
        return Address(path=path)
    match = re.fullmatch(_HOST_PORT, text.removeprefix("tcp:"))
    port = count(match[2]) if match else None
    if match and port and port < 65536:
        return Address(host=match[1].strip("[]") or "127.0.0.1", port=port)
    if not text or ":" in text:
        raise UsageError(f"{text!r} is neither a path nor HOST:PORT", hint=_ADDRESS_HINT)
    return Address(path=text)


def _vm(proc: str, pid: int, argv: Sequence[str], executable: str) -> Vm:
    return cmdline.parse(
        argv, pid=pid, executable=executable, process=processes.LiveProcess(proc, pid, list(argv))
    )


def _candidates(proc: str) -> Iterator[_Candidate]:
    for pid, argv, executable in processes.qemu_processes(proc):
        options = cmdline.options_of(argv, processes.LiveProcess(proc, pid, list(argv)))
        yield _Candidate(pid, argv, executable, *cmdline.identity(options, pid))


def _by_pid(proc: str, pid: str) -> Vm:
    found = processes.qemu_process(proc, pid) if count(pid) else None
    if found is None:
        raise UsageError(f"process {pid} is no QEMU that this user may see", hint=_PS_HINT)
    return _vm(proc, *found)


def _canonical(address: Address) -> Address:
    if address.path:
        return Address(path=os.path.realpath(address.path))
    return Address(host=_LOCAL.get(address.host, address.host), port=address.port)


def _unknown(selector: str, candidates: Iterable[_Candidate]) -> UsageError:
    import difflib

    names = sorted({c.name for c in candidates})
    if not names:
        return UsageError(
            f"there is no VM {selector!r}: no QEMU process is visible to this user",
            hint="a VM of another host, or another user, is named by its socket: --qmp PATH or --qmp HOST:PORT",
        )
    near = difflib.get_close_matches(selector, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? {_PS_HINT}" if near else _PS_HINT
    return UsageError(f"there is no VM {selector!r}", hint=hint)


def _ambiguous(selector: str, vms: Sequence[Vm]) -> UsageError:
    each = "; ".join(f"pid {vm.pid} ({', '.join(map(str, vm.qmp_addresses)) or 'no QMP socket'})" for vm in vms)
    return UsageError(
        f"{len(vms)} VMs are called {selector!r}: {each}",
        hint=f"name one by its pid, such as pid:{vms[0].pid}, or by its socket with --qmp",
    )
