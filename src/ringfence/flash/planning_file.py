"""A file of tenants that want to share an SSD, as YAML or JSON.

    device: flashblox
    tenants:
      db: {capacity: 200GiB, bandwidth: {read: 400MB/s, write: 100MB/s}, class: channel}
      web: {capacity: 50GiB}

`class` is one of the classes of isolation or `auto`, which it is when left out. `bandwidth` may be one rate for
both. Units are those of `ringfence.units`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ringfence import units
from ringfence.core.spec_read import together
from ringfence.core.spec_yaml import Node, Pairs, Place, Scalar, SpecError, read
from ringfence.core.vocabulary import nearest
from ringfence.errors import UsageError
from ringfence.flash.planning import AUTO, Wanted
from ringfence.flash.vssd import Bandwidth, Isolation

MOST_TENANTS = 64
_FILE_KEYS = ("device", "tenants")
_TENANT_KEYS = ("capacity", "bandwidth", "class")
_RATE_KEYS = ("read", "write")
_CLASSES = (AUTO, *Isolation)
_LONGEST_NAME = 64


class TenantsFile(NamedTuple):
    """:param device: the SSD that the file names; empty where it names none."""

    device: str
    tenants: tuple[Wanted, ...]


def parse(data: bytes | str, file: str) -> TenantsFile:
    """Read a file of tenants.

    :raise SpecError: something is wrong with it; tells of every such thing, with its place.
    """
    reader = _Reader()
    found = reader.file(read(data, file), Place(file, 1, 1))
    if reader.problems:
        raise together(reader.problems)
    return found


class _Reader:
    """:ivar problems: everything that is wrong, in the order of the text."""

    def __init__(self) -> None:
        self.problems: list[SpecError] = []

    def file(self, root: Node | None, place: Place) -> TenantsFile:
        device, tenants = "", []
        for key, node in self._pairs(root, place, "the file", _FILE_KEYS):
            if key.text == "device":
                device = self._text(node, "device", "name a preset of `flash sim`, or a drive such as nvme0")
            else:
                tenants = [self._tenant(name, one) for name, one in self._pairs(node, node.place, "tenants")]
        if not self.problems and not tenants:
            self._problem(place, "it names no tenants", "write `tenants:`, and under it `NAME: {capacity: 64GiB}`")
        if len(tenants) > MOST_TENANTS:
            self._problem(place, f"it has {len(tenants)} tenants", f"at most {MOST_TENANTS} on one SSD")
        return TenantsFile(device, tuple(tenants))

    def _tenant(self, name: Scalar, node: Node) -> Wanted:
        if not 0 < len(name.text) <= _LONGEST_NAME or not name.text.isprintable():
            self._problem(name.place, f"{name.text[:60]!r} is no name", "letters and digits, at most 64")
        wanted = Wanted(name.text, 0)
        for key, value in self._pairs(node, node.place, name.text, _TENANT_KEYS):
            if key.text == "capacity":
                wanted = wanted._replace(capacity_bytes=self._capacity(value))
            elif key.text == "bandwidth":
                wanted = wanted._replace(bandwidth=self._bandwidth(value))
            else:
                wanted = wanted._replace(isolation=self._class(value))
        nothing = isinstance(node, Scalar) and node.is_null
        if nothing or (isinstance(node, Pairs) and "capacity" not in node.pairs):
            self._problem(name.place, f"{name.text[:60]} has no capacity", "such as `capacity: 64GiB`")
        return wanted

    def _capacity(self, node: Node) -> int:
        value = self._quantity(node, "capacity", units.BYTES)
        if value == 0:
            self._problem(node.place, "a capacity of 0 holds nothing", "such as 64GiB")
        return value or 1

    def _bandwidth(self, node: Node) -> Bandwidth:
        if isinstance(node, Scalar):
            rate = self._quantity(node, "bandwidth", units.BYTES_PER_S) or 0
            return Bandwidth(rate, rate)
        rates = {
            key.text: self._quantity(value, key.text, units.BYTES_PER_S) or 0
            for key, value in self._pairs(node, node.place, "bandwidth", _RATE_KEYS)
        }
        return Bandwidth(rates.get("read", 0), rates.get("write", 0))

    def _class(self, node: Node) -> Isolation | None:
        text = self._text(node, "class", f"one of {', '.join(_CLASSES)}")
        if text and text not in _CLASSES:
            hint = nearest(text, _CLASSES) or f"there are {', '.join(_CLASSES)}"
            self._problem(node.place, f"there is no class {text[:60]!r}", hint)
        return Isolation(text) if text in tuple(Isolation) else None

    def _quantity(self, node: Node, what: str, kind: str) -> int | None:
        """None when it is none; that is told."""
        text = self._text(node, what, "give a number with its unit, such as 64GiB or 100MB/s")
        try:
            return units.parse(kind, text) if text else None
        except UsageError as error:
            self._problem(node.place, f"{what}: {error.message}", error.hint)
            return None

    def _text(self, node: Node, what: str, hint: str) -> str:
        if isinstance(node, Scalar) and node.text and not node.is_null:
            return node.text
        self._problem(node.place, f"{what} takes one value", hint)
        return ""

    def _pairs(
        self, node: Node | None, place: Place, what: str, known: Iterable[str] = ()
    ) -> Iterator[tuple[Scalar, Node]]:
        """The keys of a group that are known; without `known` they are names."""
        if node is None or (isinstance(node, Scalar) and node.is_null):
            return
        if not isinstance(node, Pairs):
            keys = ", ".join(known) or "names"
            self._problem(
                place, f"{what[:60]} is no group of keys", f"in it are {keys}, each with a ':' behind it"
            )
            return
        for key, value in node.pairs.values():
            if known and key.text not in known:
                hint = nearest(key.text, known) or f"in {what[:60]} are {', '.join(known)}"
                self._problem(key.place, f"there is no key {key.text[:60]!r} in {what[:60]}", hint)
            else:
                yield key, value

    def _problem(self, place: Place, message: str, hint: str) -> None:
        self.problems.append(SpecError(place, message, hint=hint))
