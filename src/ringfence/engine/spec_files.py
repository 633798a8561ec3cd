"""Reads files of fences, and those that they include.

The order that counts: what a file includes comes before the file itself, in the order it is named; the files of a
directory come in the order of their names (`10-pools.yaml` before `20-web.yaml`). What comes later goes before.
"""

from __future__ import annotations

from pathlib import Path

from ringfence.core.spec import Spec
from ringfence.core.spec_read import Document, document, merged
from ringfence.core.spec_yaml import MAX_BYTES, Place, SpecError
from ringfence.engine import fences
from ringfence.errors import HostError, UsageError

DEFAULT_PATH = Path("/etc/ringfence/fences.d")
SUFFIXES = (".yaml", ".yml")
_MOST_FILES = 1000
_DEEPEST = 16


def load(path: str | Path) -> Spec:
    """The spec of a file, or of a directory of files, `-` being standard input.

    :raise SpecError: something is wrong in a file, or files include each other.
    :raise UsageError: there is no such file.
    :raise HostError: it cannot be read.
    """
    if str(path) == "-":
        return _Loader().load_stdin()
    return _Loader().load(Path(path))


class _Loader:
    def __init__(self) -> None:
        self._documents: list[tuple[str, Document]] = []
        self._done: set[Path] = set()
        self._open: list[Path] = []

    def load(self, path: Path) -> Spec:
        if not path.exists():
            hint = "name a file, or a directory with files that end in .yaml"
            raise UsageError(f"there is no file of fences {str(path)!r}", hint=hint)
        self._add(path, Place(str(path), 1, 1))
        return merged(self._documents)

    def load_stdin(self) -> Spec:
        import sys

        self._read(sys.stdin.buffer.read(MAX_BYTES + 1), Path("standard input"))
        return merged(self._documents)

    def _add(self, path: Path, named_at: Place) -> None:
        real = path.resolve()
        if real in self._open:
            ring = " -> ".join(map(str, [*self._open[self._open.index(real) :], real]))
            raise SpecError(named_at, f"files include each other: {ring}")
        if real in self._done:
            return
        if len(self._open) > _DEEPEST:
            raise SpecError(named_at, f"files include files more than {_DEEPEST} deep")
        if len(self._done) >= _MOST_FILES:
            raise SpecError(named_at, f"it includes more than {_MOST_FILES} files")
        self._open.append(real)
        try:
            if path.is_dir():
                for file in sorted(p for p in path.iterdir() if _counts(p)):
                    self._add(file, named_at)
            else:
                self._read(_bytes(path), path)
        except OSError as error:
            raise _unreadable(path, error) from error
        self._open.pop()
        self._done.add(real)

    def _read(self, data: bytes, path: Path) -> None:
        found = document(data, str(path), fences.words(), fences.read_value)
        for include in found.includes:
            inner = path.parent / Path(include.path).expanduser()
            if "\0" in include.path or not inner.exists():
                raise SpecError(include.place, f"there is no file {include.path!r} to include")
            self._add(inner, include.place)
        self._documents.append((str(path), found))


def _counts(path: Path) -> bool:
    return path.suffix in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _bytes(path: Path) -> bytes:
    """A device or a pipe has no end: no more is read than a file may have."""
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _unreadable(path: Path, error: OSError) -> HostError:
    return HostError(
        f"cannot read {path}: {error.strerror}",
        path=str(path),
        errno=error.errno or 0,
        hint="see its permissions, or run this as its owner",
    )
