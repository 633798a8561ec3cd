"""A host's kernel as a directory: cgroup hierarchies and /proc made of files, and an edge that obeys as a kernel.

tree = FakeTree(tmp_path, version=1)
tree.process(100, "qemu-system-x86", threads={101: "CPU 0/KVM"})
host = tree.edge(pid=100, name="web1")
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ringfence.core import host_requests as ask
from ringfence.errors import HostError
from ringfence.host.edge import HostEdge

V1_FILES: Mapping[str, Mapping[str, str]] = {
    "cpu": {
        "cpu.cfs_quota_us": "-1",
        "cpu.cfs_period_us": "100000",
        "cpu.shares": "1024",
        "cpu.cfs_burst_us": "0",
    },
    "cpuset": {"cpuset.cpus": "", "cpuset.mems": ""},
    "memory": {
        "memory.limit_in_bytes": "9223372036854771712",
        "memory.soft_limit_in_bytes": "9223372036854771712",
        "memory.usage_in_bytes": "0",
    },
    "pids": {"pids.max": "max", "pids.current": "0"},
    "blkio": {f"blkio.throttle.{way}_{kind}_device": "" for way in ("read", "write") for kind in ("bps", "iops")},
}
V2_FILES: Mapping[str, Mapping[str, str]] = {
    "cpu": {"cpu.max": "max 100000", "cpu.weight": "100", "cpu.max.burst": "0"},
    "cpuset": {"cpuset.cpus": "", "cpuset.mems": "", "cpuset.cpus.effective": "0-3"},
    "memory": {
        "memory.max": "max",
        "memory.high": "max",
        "memory.low": "0",
        "memory.min": "0",
        "memory.swap.max": "max",
        "memory.current": "0",
    },
    "pids": {"pids.max": "max", "pids.current": "0"},
    "io": {"io.max": "", "io.weight": "default 100", "io.latency": ""},
}
"""What the kernel puts into a new group, by controller."""

_PRESSURE = "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"


class FakeTree:
    """A machine below a folder.

    :param version: 1 for a hierarchy for each controller, 2 for one with all of them.
    :ivar refusals: errno by the end of a path: what is written there is refused.
    :ivar affinity: CPUs by thread.
    :ivar systemd: every call to systemd, in order.
    """

    def __init__(self, root: Path, *, version: int = 2, systemd: bool = False, cpus: int = 4) -> None:
        self.root = root
        self.version = version
        self.refusals: dict[str, int] = {}
        self.affinity: dict[int, frozenset[int]] = {}
        self.systemd: list[ask.Systemd] = []
        self.cpus = cpus
        self._files = V2_FILES if version == 2 else V1_FILES
        (root / "proc/self").mkdir(parents=True)
        mounts = ["cgroup"] if version == 2 else [f"cgroup/{name}" for name in V1_FILES]
        lines = []
        for number, mount in enumerate(mounts):
            controller = mount.rpartition("/")[2]
            kind = "cgroup2 cgroup2 rw" if version == 2 else f"cgroup cgroup rw,{controller}"
            lines.append(f"{30 + number} 1 0:{number} / /sys/fs/{mount} rw,relatime - {kind}\n")
            self.group("/", mount)
        (root / "proc/self/mountinfo").write_text("".join(lines))
        if version == 1:
            self.write("sys/fs/cgroup/cpuset/cpuset.cpus", f"0-{cpus - 1}")
            self.write("sys/fs/cgroup/cpuset/cpuset.mems", "0")
        self.write("sys/devices/system/cpu/online", f"0-{cpus - 1}\n")
        if systemd:
            (root / "run/systemd/system").mkdir(parents=True)

    def write(self, path: str, text: str) -> None:
        """A file of the machine."""
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def read(self, path: str) -> str:
        """A file of the machine, without its last newline."""
        return (self.root / path).read_text().rstrip("\n")

    def group(self, path: str, mount: str = "") -> None:
        """A group in one hierarchy, or, without `mount`, in all of them; with those above it."""
        mounts = [mount] if mount else ["cgroup"] if self.version == 2 else [f"cgroup/{name}" for name in V1_FILES]
        for each in mounts:
            folder = self.root / f"sys/fs/{each}"
            for part in ("", *filter(None, path.split("/"))):
                folder = folder / part
                if not (folder / "cgroup.procs").exists():
                    folder.mkdir(parents=True, exist_ok=True)
                    self.fill(folder)

    def fill(self, folder: Path) -> None:
        """The files that the kernel puts into a new group."""
        relative = folder.relative_to(self.root / "sys/fs/cgroup")
        names = list(self._files) if self.version == 2 else [relative.parts[0]]
        content = {"cgroup.procs": "", "cgroup.threads" if self.version == 2 else "tasks": ""}
        for name in names:
            content |= self._files[name]
        if self.version == 2:
            content |= {
                "cgroup.controllers": " ".join(names),
                "cgroup.subtree_control": "",
                "cgroup.type": "domain",
            }
            content |= {f"{kind}.pressure": _PRESSURE for kind in ("cpu", "memory", "io")}
        for name, text in content.items():
            (folder / name).write_text(text + "\n" if text else "")

    def process(
        self, pid: int, name: str, *, group: str = "/", threads: Mapping[int, str] | None = None, parent: int = 1
    ) -> None:
        """A process with its threads, in that group of every hierarchy."""
        self.write(f"proc/{pid}/stat", f"{pid} ({name}) S {parent} {pid} {pid} 0")
        self.write(f"proc/{pid}/comm", f"{name}\n")
        for tid, comm in {pid: name, **(threads or {})}.items():
            self.write(f"proc/{pid}/task/{tid}/comm", f"{comm}\n")
            self.affinity[tid] = frozenset(range(self.cpus))
        self.group(group)
        for mount in self.mounts():
            self.move(mount, mount / group.strip("/"), pid, whole=True)

    def mounts(self) -> list[Path]:
        """Where the hierarchies are mounted."""
        top = self.root / "sys/fs/cgroup"
        return [top] if self.version == 2 else [top / name for name in V1_FILES]

    def move(self, mount: Path, folder: Path, tid: int, *, whole: bool) -> None:
        """A thread, or a whole process, into a group of a hierarchy."""
        pid = self._pid_of(tid)
        tids = self._threads(pid) if whole else [tid]
        list_ = "cgroup.threads" if self.version == 2 else "tasks"
        for each in list(mount.rglob(list_)):
            _remove(each, tids)
            if whole or self.version == 1:
                _remove(each.parent / "cgroup.procs", [pid] if whole else [])
        _add(folder / list_, tids)
        if whole:
            _add(folder / "cgroup.procs", [pid])
        place = f"/{folder.relative_to(mount)}".removesuffix("/.").removesuffix(".") or "/"
        for each_tid in tids:
            self._tell(pid, each_tid, mount, place)

    def _pid_of(self, tid: int) -> int:
        found = next((self.root / "proc").glob(f"*/task/{tid}"), None)
        if found is None:
            raise HostError(f"no process {tid}", errno=errno.ESRCH)
        return int(found.parts[-3])

    def _threads(self, pid: int) -> list[int]:
        return [int(path.name) for path in (self.root / f"proc/{pid}/task").iterdir()]

    def _tell(self, pid: int, tid: int, mount: Path, place: str) -> None:
        name = "" if self.version == 2 else mount.name
        number = 0 if self.version == 2 else list(V1_FILES).index(name) + 1
        files = [self.root / f"proc/{pid}/task/{tid}/cgroup", self.root / f"proc/{tid}/cgroup"]
        for file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
            lines = file.read_text().splitlines() if file.exists() else []
            kept = [line for line in lines if line.split(":")[1] != name]
            file.write_text("\n".join([*kept, f"{number}:{name}:{place}"]) + "\n")

    def edge(self, *, pid: int = 0, name: str = "web1", group: str = "") -> FakeEdge:
        """The kernel of this machine for one tenant."""
        return FakeEdge(self, pid=pid, name=name, group=group)


class FakeEdge(HostEdge):
    """The readers of the real edge, over a directory; what is changed is changed as the kernel would."""

    same_s = 0.0

    def __init__(self, tree: FakeTree, *, pid: int, name: str, group: str) -> None:
        super().__init__(str(tree.root), pid=pid, name=name, group=group)
        self.tree = tree
        self.sent: list[Any] = []
        own: dict[type, Callable[[Any], Any]] = {
            ask.WriteFile: self._written,
            ask.MakeDir: self._made,
            ask.RemoveDir: self._removed,
            ask.GetAffinity: lambda request: tree.affinity[request.tid],
            ask.SetAffinity: self._pinned,
            ask.Systemd: self._told,
        }
        self._handlers |= own

    async def answer(self, request: Any) -> Any:
        """As of the real one; systemd obeys at once."""
        return [self.answer_now(one) for one in request] if isinstance(request, list) else self.answer_now(request)

    def _written(self, request: ask.WriteFile) -> None:
        self.sent.append(request)
        path = Path(self._at(request.path))
        for end, number in self.tree.refusals.items():
            if str(path).endswith(end):
                raise HostError(f"{path}: {os.strerror(number)}", path=str(path), errno=number)
        if not path.exists():
            raise HostError(f"{path}: {os.strerror(errno.ENOENT)}", path=str(path), errno=errno.ENOENT)
        mount = next((each for each in self.tree.mounts() if path.is_relative_to(each)), self.tree.root)
        if path.name in ("cgroup.procs", "cgroup.threads", "tasks"):
            self.tree.move(mount, path.parent, int(request.text), whole=path.name == "cgroup.procs")
        elif path.name == "cgroup.subtree_control":
            now = set(path.read_text().split())
            words = request.text.split()
            now |= {word[1:] for word in words if word[0] == "+"}
            path.write_text(" ".join(sorted(now - {word[1:] for word in words if word[0] == "-"})) + "\n")
        elif path.name.startswith(("blkio.throttle.", "io.")):
            path.write_text(_by_device(path.read_text(), request.text))
        else:
            path.write_text(request.text.strip() + "\n")

    def _made(self, request: ask.MakeDir) -> bool:
        self.sent.append(request)
        folder = Path(self._at(request.path))
        if folder.exists():
            return False
        folder.mkdir()
        self.tree.fill(folder)
        return True

    def _removed(self, request: ask.RemoveDir) -> None:
        self.sent.append(request)
        folder = Path(self._at(request.path))
        list_ = folder / ("cgroup.threads" if self.tree.version == 2 else "tasks")
        if list_.exists() and list_.read_text().strip():
            raise HostError(f"{folder}: busy", path=str(folder), errno=errno.EBUSY)
        for file in folder.iterdir() if folder.exists() else ():
            file.unlink()
        folder.rmdir()

    def _pinned(self, request: ask.SetAffinity) -> None:
        self.sent.append(request)
        self.tree.affinity[request.tid] = request.cpus

    def _told(self, request: ask.Systemd) -> None:
        self.sent.append(request)
        self.tree.systemd.append(request)


def _by_device(text: str, line: str) -> str:
    """Lines of `MAJOR:MINOR ...`, with that of one device replaced; all of v1's zero is no line."""
    device, _, rest = line.strip().partition(" ")
    lines = {row.split()[0]: row for row in text.splitlines()}
    if "=" in rest:
        keys = dict(word.split("=") for word in lines.get(device, "x").split()[1:])
        keys = {"rbps": "max", "wbps": "max", "riops": "max", "wiops": "max"} | keys
        keys |= dict(word.split("=") for word in rest.split())
        rest = "" if set(keys.values()) == {"max"} else " ".join(f"{key}={value}" for key, value in keys.items())
    lines.pop(device, None)
    if rest not in ("", "0"):
        lines[device] = f"{device} {rest}"
    return "".join(f"{row}\n" for row in lines.values())


def _remove(path: Path, ids: list[int]) -> None:
    if path.exists():
        now = [word for word in path.read_text().split() if int(word) not in ids]
        path.write_text("".join(f"{word}\n" for word in now))


def _add(path: Path, ids: list[int]) -> None:
    now = {int(word) for word in path.read_text().split()} | set(ids)
    path.write_text("".join(f"{number}\n" for number in sorted(now)))
