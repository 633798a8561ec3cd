"""Debian packages as a source of files: fetched and unpacked without root, nothing is installed on the host.

apt runs with a state, a cache and a list of installed packages of its own (an empty one), and with the host's own
sources, keyrings, proxies and preferences; or with another suite of the same distribution, from the same mirror.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ringfence.errors import HostError, UsageError

if TYPE_CHECKING:
    from subprocess import CompletedProcess

_PLANNED = re.compile(r"^Inst (?P<name>\S+) (?:\[\S+\] )?\((?P<version>\S+) ", re.MULTILINE)

_CONFIG = """\
APT::Architecture "amd64";
#clear APT::Architectures;
APT::Architectures {{ "amd64"; }};
APT::Sandbox::User "root";
APT::Install-Recommends "false";
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
Acquire::IndexTargets::deb-src::Sources::DefaultEnabled "false";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
#clear DPkg::Pre-Install-Pkgs;
Dir::State "{root}/state";
Dir::State::status "{root}/state/status";
Dir::Cache "{root}/cache";
Dir::Cache::pkgcache "pkgcache.bin";
Dir::Cache::srcpkgcache "srcpkgcache.bin";
Dir::Log "{root}/log";
"""
# The sandbox user is what apt becomes when it runs as root: its usual `_apt` could not enter a private directory.
# The hooks belong to the host's own state (one of them empties the host's cache of packages).

_OTHER_SUITE = """\
Dir::Etc::sourcelist "{root}/sources.list";
Dir::Etc::sourceparts "-";
Dir::Etc::preferences "-";
Dir::Etc::preferencesparts "-";
"""
_OTHER_SOURCE = "deb [check-valid-until=no check-date=no{keyring}] {mirror} {suite} main\n"
# An old suite is not signed anew, and a machine's clock may be off: what is signed stays checked.

_SUITE = re.compile(r"[a-z][a-z0-9.-]*")
_INDEX = re.compile(r"^'(?P<mirror>\S+?)/?/dists/(?P<suite>[^/\s]+)/InRelease' ", re.MULTILINE)
_ALIASES = ("stable", "oldstable", "oldoldstable", "testing", "unstable", "sid")


class Package(NamedTuple):
    """One version of one package."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}={self.version}"


class Archive:
    """The distribution's packages, seen through a private apt below `root`.

    :param root: a directory that exists; apt's lists and the downloads go there.
    :param suite: this suite of the host's distribution alone, such as `trixie`; empty for the host's own sources.
    """

    def __init__(self, root: Path, suite: str = "") -> None:
        self._root = root
        self._suite = suite
        self._config = root / "apt.conf"

    def refresh(self) -> None:
        """Fetch the lists of packages (about 10 MB).

        A source that fails while others answer is passed over: what is missing shows in `closure`.

        :raise HostError: apt is not there, or not one list could be fetched.
        """
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            raise HostError(
                "the lab builds its guests from Debian or Ubuntu packages, and apt-get is not here",
                path="apt-get",
                hint="run the lab on Debian or Ubuntu, or in a container of one of them",
            )
        for name in ("state/lists/partial", "cache/archives/partial", "log"):
            (self._root / name).mkdir(parents=True, exist_ok=True)
        (self._root / "state/status").touch()
        self._config.write_text(_CONFIG.format(root=self._root))
        if self._suite:
            self._turn_to(self._suite)
        done = self._apt("update", check=False)
        if not any("_Packages" in entry.name for entry in (self._root / "state/lists").iterdir()):
            what = f"of {self._suite}" if self._suite else "of packages"
            where = f"whether their mirror has {self._suite}" if self._suite else "`apt-get update` as root"
            raise HostError(
                f"apt could not fetch the lists {what}: {_complaint(done)}",
                path="apt-get",
                hint=f"check the network, the sources below /etc/apt, and {where}",
            )

    def _turn_to(self, suite: str) -> None:
        """Leave the host's sources for `suite` on the mirror that they name.

        :raise HostError: they name none of the distribution's own suites.
        """
        system = _os_release()
        indexes = _INDEX.findall(self._apt("--print-uris", "update").stdout)
        own = (system.get("VERSION_CODENAME", ""), *_ALIASES)
        mirrors = dict.fromkeys(mirror for name in own for mirror, found in indexes if found == name)
        if not mirrors:
            raise HostError(
                f"the sources below /etc/apt name no mirror that could have {suite}",
                path="/etc/apt/sources.list",
                hint=f"add a source with the suite {own[0] or 'stable'} of this distribution",
            )
        keyring = Path(f"/usr/share/keyrings/{system.get('ID', '')}-archive-keyring.gpg")
        signed = f" signed-by={keyring}" if keyring.exists() else ""
        # Others name their suites likewise; what is not there, or not signed by the distribution, is passed over.
        sources = [_OTHER_SOURCE.format(keyring=signed, mirror=mirror, suite=suite) for mirror in mirrors]
        (self._root / "sources.list").write_text("".join(sources))
        with self._config.open("a") as config:
            config.write(_OTHER_SUITE.format(root=self._root))

    def closure(self, names: Sequence[str]) -> tuple[Package, ...]:
        """`names` and all they depend on, as a system with nothing installed would need them.

        :raise HostError: a name is unknown here, or its dependencies cannot be met.
        """
        return _planned(self._apt("-s", "install", *names))

    def first_closure(self, candidates: Sequence[str]) -> tuple[str, tuple[Package, ...]]:
        """The first of `candidates` that this distribution has, and its closure.

        :raise HostError: it has none of them.
        """
        for name in candidates:
            done = self._apt("-s", "install", name, check=False)
            if done.returncode == 0:
                return name, _planned(done)
        raise HostError(
            f"none of these packages is known here: {', '.join(candidates)}",
            path="apt-get",
            hint="check that the distribution's main section is among the sources below /etc/apt",
        )

    def download(self, packages: Iterable[Package]) -> tuple[Path, ...]:
        """Fetch `packages` and give their files, in no order; those that are there already are not fetched again.

        :raise HostError: the network, the archive or the disk failed. What was fetched stays.
        """
        into = self._root / "packages"
        into.mkdir(exist_ok=True)
        self._apt("download", *map(str, packages), cwd=into)
        return tuple(into.glob("*.deb"))

    def size_bytes(self, packages: Iterable[Package]) -> int:
        """Bytes that `download` would fetch."""
        done = self._apt("--print-uris", "download", *map(str, packages))
        return sum(int(line.split()[2]) for line in done.stdout.splitlines() if line.startswith("'"))

    def _apt(self, *arguments: str, cwd: Path | None = None, check: bool = True) -> CompletedProcess[str]:
        """Run apt-get with the private configuration, read after the host's own so that it wins."""
        return _run(("apt-get", "-q", "-c", str(self._config), *arguments), cwd=cwd or self._root, check=check)


def check_suite(name: str) -> None:
    """:raise UsageError: no suite can be called so."""
    if not _SUITE.fullmatch(name):
        raise UsageError(f"{name!r} is no name of a suite", hint="name one, such as trixie or sid")


def unpack(debs: Iterable[Path], into: Path) -> None:
    """Unpack packages' files below `into`, without their scripts.

    :raise HostError: a package is damaged, or the disk is full.
    """
    into.mkdir(exist_ok=True)
    for deb in sorted(debs):
        _run(("dpkg-deb", "-x", str(deb), str(into)), cwd=into)


def check_space(path: Path, needed_bytes: int) -> None:
    """Refuse to begin what the file system at `path` has no room for.

    :raise HostError: less than `needed_bytes` are free.
    """
    free_bytes = shutil.disk_usage(path).free
    if free_bytes < needed_bytes:
        raise HostError(
            f"{path} has {free_bytes >> 20} MiB free, {needed_bytes >> 20} MiB are needed",
            path=str(path),
            hint="make room, or set XDG_CACHE_HOME to a directory with more of it",
        )


def _run(argv: Sequence[str], *, cwd: Path, check: bool = True) -> CompletedProcess[str]:
    import subprocess

    environment = os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            argv, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise HostError(f"{argv[0]} is not installed", path=argv[0], hint=f"install {argv[0]}") from error
    if check and done.returncode != 0:
        raise HostError(
            f"{argv[0]} failed: {_complaint(done)}",
            path=argv[0],
            hint="check the network, the room on the disk, and the sources below /etc/apt",
        )
    return done


def _os_release() -> dict[str, str]:
    import platform

    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def _planned(simulated: CompletedProcess[str]) -> tuple[Package, ...]:
    return tuple(Package(match["name"], match["version"]) for match in _PLANNED.finditer(simulated.stdout))


def _complaint(done: CompletedProcess[str]) -> str:
    """The line of a program's output that says what went wrong."""
    lines = [line for line in (done.stderr + "\n" + done.stdout).splitlines() if line.strip()]
    telling = [line for mark in ("E: ", "W: ") for line in lines if line.startswith(mark)]
    return (telling or lines or [f"exit code {done.returncode}"])[0].strip()


Say = Callable[[str], None]
"""Takes one line about a long step, for people."""
