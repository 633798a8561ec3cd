"""Turns a tree of unpacked packages into what a guest boots from: a kernel, an initramfs, and a disk of tools."""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from ringfence.errors import HostError
from ringfence.lab import elf
from ringfence.lab.cpio import CpioWriter

INIT = Path(__file__).with_name("init.sh")
AGENT = "usr/sbin/qemu-ga"
TOOLS = ("usr/bin/fio", "usr/bin/stress-ng")

REQUIRED_MODULES = ("virtio_pci", "virtio_console", "virtio_blk", "virtio_balloon", "ext4")
OPTIONAL_MODULES = ("virtio_mem", "virtio_net", "virtio_scsi", "sd_mod", "nvme")

_LIBRARY_ROOTS = ("usr/lib64", "lib64", "usr/lib", "lib")
_WRAPPER = '#!/bin/sh\nLD_LIBRARY_PATH=/tools/lib exec /tools/libexec/{name} "$@"\n'


class Tree:
    """A file system tree below a directory, links inside it followed as its own root would.

    :param root: where packages were unpacked.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._libraries = {path.name: path for path in self._library_files()}

    def read(self, path: str) -> bytes:
        """The content of the file that `path`, relative to the root, leads to.

        :raise HostError: there is none.
        """
        where = self._resolve(self._root / path)
        try:
            return where.read_bytes()
        except OSError as error:
            raise HostError(
                f"the packages hold no {path}", path=str(where), errno=error.errno or 0, hint="report this"
            ) from error

    def libraries(self, programs: Sequence[str]) -> dict[str, bytes]:
        """Every library that `programs` need, by soname, the loader among them.

        :raise HostError: one is in no package.
        """
        found: dict[str, bytes] = {}
        waiting = [name for program in programs for name in elf.needed_libraries(self.read(program))]
        while waiting:
            name = waiting.pop()
            if name in found:
                continue
            if name not in self._libraries:
                raise HostError(f"no package holds the library {name}", path=name, hint="report this")
            found[name] = self._resolve(self._libraries[name]).read_bytes()
            waiting += elf.needed_libraries(found[name])
        return found

    def kernel(self) -> Path:
        """The compressed kernel image.

        :raise HostError: there is none.
        """
        kernels = sorted((self._root / "boot").glob("vmlinuz-*"))
        if not kernels:
            raise HostError("the kernel's package holds no /boot/vmlinuz", hint="report this")
        return kernels[-1]

    def modules(
        self, required: Sequence[str] = REQUIRED_MODULES, optional: Sequence[str] = OPTIONAL_MODULES
    ) -> dict[str, bytes]:
        """Kernel modules, decompressed, each after those it depends on. Built-in ones are left out.

        :raise HostError: one of `required`, or one that another needs, is missing.
        """
        base = self._modules_dir()
        builtin = {_module_name(line) for line in (base / "modules.builtin").read_text().splitlines()}
        files = {_module_name(path.name): path for path in base.rglob("*.ko*")}
        ordered: dict[str, bytes] = {}

        def add(name: str) -> None:
            if name in ordered or name in builtin:
                return
            if name not in files:
                raise HostError(f"the kernel's packages hold no module {name}", path=str(base), hint="report this")
            content = _decompressed(files[name])
            for needed in elf.needed_modules(content):
                add(needed)
            ordered[name] = content

        for name in (*required, *(name for name in optional if name in files)):
            add(name)
        return ordered

    def _modules_dir(self) -> Path:
        version = self.kernel().name.removeprefix("vmlinuz-")
        for base in ("usr/lib/modules", "lib/modules"):
            if (self._root / base / version / "modules.builtin").exists():
                return self._root / base / version
        raise HostError(f"the packages hold no modules for the kernel {version}", hint="report this")

    def _library_files(self) -> Iterator[Path]:
        """Libraries, those in the directories that the loader searches last so that they win."""
        found = [path for root in _LIBRARY_ROOTS for path in (self._root / root).rglob("*.so*")]
        return iter(sorted(found, key=lambda path: -len(path.parts)))

    def _resolve(self, path: Path) -> Path:
        """Follow symbolic links, absolute ones from the tree's root."""
        for _ in range(40):
            if not path.is_symlink():
                return path
            target = os.readlink(path)
            path = self._root / target.lstrip("/") if target.startswith("/") else path.parent / target
        return path


def write_initramfs(tree: Tree, out: Path) -> None:
    """Write the guest's first root file system: busybox, the guest agent, kernel modules and `init.sh`."""
    archive = CpioWriter()
    for name in ("dev", "proc", "sys", "run", "tmp", "mnt", "tools", "var", "sbin"):
        archive.directory(name)
    archive.character_device("dev/console", 5, 1)
    archive.file("init", INIT.read_bytes(), 0o755)
    archive.file("bin/busybox", tree.read(_busybox(tree)), 0o755)
    archive.file("etc/passwd", b"root:x:0:0:root:/:/bin/sh\n")
    archive.file("etc/group", b"root:x:0:\n")
    archive.file(AGENT, tree.read(AGENT), 0o755)
    for soname, content in tree.libraries((AGENT,)).items():
        archive.file(f"{'lib64' if soname.startswith('ld-') else 'lib'}/{soname}", content, 0o755)
    modules = tree.modules()
    archive.file("lib/modules/order", "".join(f"{name}\n" for name in modules).encode())
    for name, content in modules.items():
        archive.file(f"lib/modules/{name}.ko", content)
    out.write_bytes(gzip.compress(archive.finish(), compresslevel=6, mtime=0))


def stage_tools(tree: Tree, into: Path) -> None:
    """Lay out the disk of tools: `bin` holds wrappers that know where `lib` is, `libexec` the programs."""
    libraries = tree.libraries(TOOLS)
    for name in ("bin", "lib", "libexec"):
        (into / name).mkdir(parents=True)
    for soname, content in libraries.items():
        (into / "lib" / soname).write_bytes(content)
        (into / "lib" / soname).chmod(0o755)
    for program in TOOLS:
        name = program.rpartition("/")[2]
        (into / "libexec" / name).write_bytes(tree.read(program))
        (into / "bin" / name).write_text(_WRAPPER.format(name=name))
        for path in (into / "libexec" / name, into / "bin" / name):
            path.chmod(0o755)


def write_ext4(content: Path, out: Path, *, spare_bytes: int = 0) -> None:
    """Write a file system of the smallest round size that holds `content` and as much more as `spare_bytes`.

    All in it belongs to root, also when another user writes it, where the kernel has user namespaces for all.

    :raise HostError: mke2fs is missing or failed.
    """
    import subprocess

    mke2fs = shutil.which("mke2fs", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if mke2fs is None:
        raise HostError("mke2fs is not installed", path="mke2fs", hint="apt install e2fsprogs")
    used_bytes = sum(path.lstat().st_size + 4096 for path in content.rglob("*"))
    size_mib = (used_bytes * 11 // 10 + spare_bytes >> 20) + 4
    options = ("-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d", str(content))
    line: tuple[str, ...] = (mke2fs, *options, str(out), f"{size_mib}M")
    as_root = ("unshare", "--map-root-user")
    if os.getuid() != 0 and subprocess.run((*as_root, "true"), capture_output=True, check=False).returncode == 0:
        line = (*as_root, *line)
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise HostError(f"mke2fs failed: {done.stderr.strip()}", path=mke2fs, hint="check the room on the disk")


def _busybox(tree: Tree) -> str:
    """Where the static busybox is: below /usr since Debian's merge of the two."""
    for path in ("bin/busybox", "usr/bin/busybox"):
        try:
            tree.read(path)
        except HostError:
            continue
        return path
    raise HostError("the packages hold no busybox", hint="report this")


def _module_name(path: str) -> str:
    """`kernel/drivers/char/hw_random/virtio-rng.ko.xz` is `virtio_rng`."""
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def _decompressed(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(data)
    if path.suffix == ".gz":
        return gzip.decompress(data)
    if path.suffix == ".zst":
        return _zstd(path)
    return data


def _zstd(path: Path) -> bytes:
    """Python has no zstd before 3.14; distributions that compress modules with it also ship the program."""
    import subprocess

    try:
        return subprocess.run(("zstd", "-dc", str(path)), capture_output=True, check=True).stdout
    except FileNotFoundError as error:
        raise HostError("zstd is not installed", path="zstd", hint="apt install zstd") from error
    except subprocess.CalledProcessError as error:
        raise HostError(f"{path.name} cannot be decompressed", path=str(path), hint="report this") from error
