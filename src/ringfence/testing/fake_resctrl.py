"""The kernel's resctrl on paper: its files, its refusals and its `last_cmd_status`, as Linux 6.1 and 6.12 have it.

A model without a mount; `ringfence.testing.resctrl_fuse` shows it as a file system. What it does is replayed
against transcripts of the real kernel (tests/golden/resctrl-*.txt), all but lists of CPUs, pseudo-locking, renames
and the configuration of events.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from ringfence.testing.rdt_processors import ICELAKE, Kind

_TASK = re.compile(r"-?\d+")
_WIDTH = 6  # of the names in a schemata file
_FILES = ("cpus", "cpus_list", "mode", "schemata", "size", "tasks")


@dataclass
class _Group:
    values: dict[str, dict[int, int]]
    mode: str = "shareable"
    monitors: dict[str, set[int]] = field(default_factory=dict)


class FakeResctrl:
    """One machine's resctrl, mounted.

    :param kinds: its resources, in the order of a schemata file; `domains` how many caches there are.
    :param task_lists: whether `tasks` takes a list with commas, and says more of what is wrong, as from 6.4 or so.
    :param exists: whether there is a task of that number.
    :ivar tasks: group of each task that is not in the default one; `counters` text by path below the root.
    """

    def __init__(
        self,
        kinds: tuple[Kind, ...] = ICELAKE,
        *,
        domains: int = 2,
        rmids: int = 64,
        task_lists: bool = True,
        exists: Callable[[int], bool] = lambda pid: pid < 900_000,
    ) -> None:
        self.kinds = {kind.name: kind for kind in kinds}
        self.tasks: dict[int, str] = {}
        self.counters: dict[str, str] = {}
        self.status: list[str] = []
        self._domains = range(domains)
        self._rmids = rmids
        self._task_lists = task_lists
        self._exists = exists
        values = {kind.name: dict.fromkeys(self._domains, kind.default) for kind in kinds}
        self._groups: dict[str, _Group] = {"": _Group(values)}

    def names(self, path: str) -> list[str]:
        """Names in a folder.

        :raise OSError: there is no such folder.
        """
        parts = _parts(path)
        if parts[:1] == ["info"]:
            found = sorted({p.split("/")[len(parts)] for p in self._info() if p.startswith("/".join(parts) + "/")})
            if not found:
                _fail(errno.ENOENT)
            return found
        group, rest = self._of(parts)
        if not rest:
            here = [*_FILES, "mon_data", "mon_groups"]
            return [*here, "info", *(name for name in self._groups if name)] if not group else here
        if rest == ["mon_groups"]:
            return list(self._groups[group].monitors)
        if rest[:1] == ["mon_groups"] and rest[1:2] and rest[1] in self._groups[group].monitors:
            rest = rest[2:]
            if not rest:
                return ["cpus", "cpus_list", "mon_data", "tasks"]
        if rest == ["mon_data"]:
            return [f"mon_L3_{domain:02}" for domain in self._domains]
        if len(rest) == 2 and rest[0] == "mon_data" and rest[1] in self.names(f"{group}/mon_data"):
            return ["llc_occupancy", "mbm_local_bytes", "mbm_total_bytes"]
        raise _error(errno.ENOENT)

    def is_folder(self, path: str) -> bool:
        """Whether it is one; False also for what is not there."""
        try:
            self.names(path)
        except OSError:
            return False
        return True

    def read(self, path: str) -> str:
        """The text of a file.

        :raise OSError: there is no such file.
        """
        parts = _parts(path)
        if parts[:1] == ["info"]:
            files = self._info()
            if "/".join(parts) not in files:
                _fail(errno.ENOENT)
            return files["/".join(parts)]
        group, rest = self._of(parts)
        if rest[-1:] and rest[-1] in ("llc_occupancy", "mbm_local_bytes", "mbm_total_bytes"):
            return self.counters.get("/".join(parts), "0\n")
        match rest:
            case ["schemata"]:
                return self._schemata(self._groups[group])
            case ["size"]:
                return self._size(self._groups[group])
            case ["mode"]:
                return f"{self._groups[group].mode}\n"
            case ["tasks"]:
                return "".join(f"{tid}\n" for tid, name in sorted(self.tasks.items()) if group and name == group)
            case ["mon_groups", name, "tasks"] if name in self._groups[group].monitors:
                return "".join(f"{tid}\n" for tid in sorted(self._groups[group].monitors[name]))
            case ["cpus"]:
                return "0\n"
            case ["cpus_list"]:
                return "\n"
        raise _error(errno.ENOENT)

    def write(self, path: str, text: str, *, writer: int = 1) -> None:
        """One write(2), which is one command.

        :raise OSError: refused; nothing is changed then, but for `info/last_cmd_status`.
        """
        group, rest = self._of(_parts(path))
        match rest:
            case ["schemata"]:
                self._write_schemata(group, text)
            case ["mode"]:
                self._write_mode(group, text)
            case ["tasks"]:
                self._write_tasks(text, writer, lambda tid: self._move(tid, group))
            case ["mon_groups", name, "tasks"] if name in self._groups[group].monitors:
                self._write_tasks(text, writer, lambda tid: self._watch(tid, group, name))
            case _:
                _fail(errno.EACCES)

    def mkdir(self, path: str) -> None:
        """A control group below the root, a monitoring group below `mon_groups`.

        :raise OSError: it cannot be there, or the processor has no more.
        """
        *above, name = _parts(path)
        if not above:
            self._make_group(name)
            return
        group, rest = self._of(above)
        if not self.is_folder("/".join(above)):
            _fail(errno.ENOENT)
        if rest != ["mon_groups"]:
            _fail(errno.EPERM)
        if name in self._groups[group].monitors:
            _fail(errno.EEXIST)
        self._take_rmid()
        self._groups[group].monitors[name] = set()

    def rmdir(self, path: str) -> None:
        """Remove a group of either kind; its tasks go to the default one, or stay in the one it was in.

        :raise OSError: it is no group.
        """
        parts = _parts(path)
        group, rest = self._of(parts)
        if len(rest) == 2 and rest[0] == "mon_groups" and rest[1] in self._groups[group].monitors:
            del self._groups[group].monitors[rest[1]]
        elif group and not rest:
            del self._groups[group]
            self.tasks = {tid: name for tid, name in self.tasks.items() if name != group}
        else:
            _fail(errno.EPERM if self.is_folder(path) else errno.ENOENT)

    def _of(self, parts: list[str]) -> tuple[str, list[str]]:
        if parts and parts[0] in self._groups:
            return parts[0], parts[1:]
        return "", parts

    def _make_group(self, name: str) -> None:
        if name in self._groups or name in self.names(""):
            _fail(errno.EEXIST)
        if len(self._groups) >= min(kind.closids for kind in self.kinds.values()):
            self.status.append("Out of CLOSIDs")
            _fail(errno.ENOSPC)
        self._take_rmid()
        values = {
            kind.name: {domain: self._free(kind, domain) for domain in self._domains}
            for kind in self.kinds.values()
        }
        self._groups[name] = _Group(values)

    def _take_rmid(self) -> None:
        used = sum(1 + len(group.monitors) for group in self._groups.values())
        if used >= self._rmids:
            self.status.append("Out of RMIDs")
            _fail(errno.ENOSPC)

    def _free(self, kind: Kind, domain: int) -> int:
        """What a new group gets: everything that is not somebody's alone, its first run where gaps cannot be."""
        if not kind.bits:
            return kind.default
        mask = kind.default
        for group in self._groups.values():
            if group.mode == "exclusive":
                mask &= ~group.values[kind.name][domain]
        low = mask & -mask
        return mask if kind.sparse else mask & ~(mask + low)

    def _write_schemata(self, group: str, text: str) -> None:
        if not text.endswith("\n"):
            _fail(errno.EINVAL)
        self.status.clear()
        staged: dict[str, dict[int, int]] = {}
        for line in text[:-1].split("\n"):
            name, colon, rest = line.partition(":")
            name = name.strip()
            if not colon:
                self._refuse("Missing ':'")
            if not rest:
                self._refuse(f"Missing '{name}' value")
            if name not in self.kinds:
                self._refuse(f"Unknown or unsupported resource name '{name}'")
            self._parse_line(group, self.kinds[name], rest, staged.setdefault(name, {}))
        for name, values in staged.items():
            self._groups[group].values[name].update(values)

    def _parse_line(self, group: str, kind: Kind, rest: str, staged: dict[int, int]) -> None:
        for item in filter(None, rest.split(";")):
            number, equals, value = item.partition("=")
            if not equals or not number.isdigit():
                self._refuse("Missing '=' or non-numeric domain")
            domain = int(number)
            if domain not in self._domains:
                _fail(errno.EINVAL)  # and not a word
            if domain in staged:
                self._refuse(f"Duplicate domain {domain}")
            parse = self._mask if kind.bits else self._bandwidth
            staged[domain] = parse(group, kind, domain, value.strip())

    def _mask(self, group: str, kind: Kind, domain: int, text: str) -> int:
        if not re.fullmatch(r"(0[xX])?[0-9a-fA-F]+", text):
            self._refuse(f"Non-hex character in the mask {text}")
        mask = int(text, 16)
        if (not mask and kind.min_bits) or mask > kind.default:
            self._refuse("Mask out of range")
        if not kind.sparse and (mask + (mask & -mask)) & mask:
            self._refuse(f"The mask {mask:x} has non-consecutive 1-bits")
        if mask.bit_count() < kind.min_bits:
            self._refuse(f"Need at least {kind.min_bits} bits in the mask")
        if self._overlaps(group, kind, domain, mask, only_exclusive=True):
            self._refuse("Overlaps with exclusive group")
        if self._groups[group].mode == "exclusive" and self._overlaps(group, kind, domain, mask):
            self._refuse("Overlaps with other group")
        return mask

    def _bandwidth(self, _group: str, kind: Kind, _domain: int, text: str) -> int:
        if not text.isdigit():
            self._refuse(f"Invalid {kind.name} value {text}")
        value = int(text)
        if not kind.minimum <= value <= kind.maximum and kind.maximum < 2**32 - 1:
            self._refuse(f"{kind.name} value {value} out of range [{kind.minimum},{kind.maximum}]")
        return -(-value // kind.step) * kind.step

    def _overlaps(self, own: str, kind: Kind, domain: int, mask: int, *, only_exclusive: bool = False) -> bool:
        if not only_exclusive and mask & kind.hardware:
            return True
        return any(
            mask & group.values[kind.name][domain]
            for name, group in self._groups.items()
            if name != own and (not only_exclusive or group.mode == "exclusive")
        )

    def _write_mode(self, name: str, text: str) -> None:
        if not text.endswith("\n"):
            _fail(errno.EINVAL)
        self.status.clear()
        group, mode = self._groups[name], text.strip()
        if mode == "exclusive" != group.mode:
            for kind in filter(lambda kind: kind.bits, self.kinds.values()):
                if any(
                    self._overlaps(name, kind, domain, mask) for domain, mask in group.values[kind.name].items()
                ):
                    self._refuse("Schemata overlaps")
        elif mode == "pseudo-locksetup":
            self._refuse("Pseudo-locking not supported")
        elif mode not in ("shareable", "exclusive"):
            self._refuse("Unknown or unsupported mode")
        group.mode = mode

    def _write_tasks(self, text: str, writer: int, move: Callable[[int], None]) -> None:
        words = text.strip().split(",") if self._task_lists else [text.strip()]
        if not self._task_lists and not words[0].isdigit():
            _fail(errno.EINVAL)  # and the old text stays
        self.status.clear()
        for word in words:
            if not _TASK.fullmatch(word.strip()):
                self._refuse(f"Task list parsing error pid {word}")
            tid = int(word)
            if tid < 0:
                self._refuse(f"Invalid pid {tid}")
            try:
                if not self._exists(tid):
                    self._refuse(f"No task {tid}", errno.ESRCH)
                move(tid or writer)
            except OSError:
                if self._task_lists:
                    self.status.append(f"Error while processing task {tid}")
                raise

    def _move(self, tid: int, group: str) -> None:
        self._unwatch(tid)
        if group:
            self.tasks[tid] = group
        else:
            self.tasks.pop(tid, None)

    def _watch(self, tid: int, group: str, monitor: str) -> None:
        if self.tasks.get(tid, "") != group:
            self._refuse("Can't move task to different control group")
        self._unwatch(tid)
        self._groups[group].monitors[monitor].add(tid)

    def _unwatch(self, tid: int) -> None:
        for group in self._groups.values():
            for watched in group.monitors.values():
                watched.discard(tid)

    def _refuse(self, text: str, number: int = errno.EINVAL) -> None:
        self.status.append(text)
        _fail(number)

    def _schemata(self, group: _Group) -> str:
        width = max(
            len(f"{k.default:x}" if k.bits else str(k.maximum if k.maximum <= 2048 else 100))
            for k in self.kinds.values()
        )
        lines = []
        for kind in self.kinds.values():
            form = f"0{width}x" if kind.bits else f"{width}d"
            held = ";".join(f"{d}={value:{form}}" for d, value in group.values[kind.name].items())
            lines.append(f"{kind.name:>{_WIDTH}}:{held}\n")
        return "".join(lines)

    def _size(self, group: _Group) -> str:
        lines = []
        for kind in self.kinds.values():
            way = kind.cache_bytes // kind.bits if kind.bits else 0
            sizes = (
                f"{d}={way * value.bit_count() if way else value}" for d, value in group.values[kind.name].items()
            )
            lines.append(f"{kind.name:>{_WIDTH}}:{';'.join(sizes)}\n")
        return "".join(lines)

    def _info(self) -> Mapping[str, str]:
        files = {
            "info/last_cmd_status": "".join(f"{line}\n" for line in self.status) or "ok\n",
            "info/L3_MON/mon_features": "llc_occupancy\nmbm_total_bytes\nmbm_local_bytes\n",
            "info/L3_MON/num_rmids": f"{self._rmids}\n",
        }
        for kind in self.kinds.values():
            values = (
                {
                    "cbm_mask": f"{kind.default:x}",
                    "min_cbm_bits": kind.min_bits,
                    "shareable_bits": f"{kind.hardware:x}",
                    "sparse_masks": int(kind.sparse),
                }
                if kind.bits
                else {
                    "bandwidth_gran": kind.step,
                    "min_bandwidth": kind.minimum,
                    "delay_linear": int(kind.step > 1),
                }
            )
            for name, value in {**values, "num_closids": kind.closids}.items():
                files[f"info/{kind.name}/{name}"] = f"{value}\n"
        return files


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part]


def _fail(number: int) -> NoReturn:
    raise _error(number)


def _error(number: int) -> OSError:
    return OSError(number, errno.errorcode[number])
