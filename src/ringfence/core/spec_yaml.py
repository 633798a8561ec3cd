"""PURE: YAML to plain nodes that know where they stand, built so that no text can hurt.

Only YAML's events are taken from the library, and the tree is built here without recursion: a text may be nested
without end, refer to itself, or unfold to more than memory holds. Scalars stay as they are written: YAML 1.1 would
make `on` a boolean and `1:30` a number of seconds; what a value means is for the knob to say.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

from ringfence.errors import UsageError

MAX_BYTES = 8 * 1024**2
"""Fences of 10,000 tenants are about one MiB."""
MAX_DEPTH = 24
"""The deepest key of a fence stands at 8."""
MAX_NODES = 500_000
_STRING_TAG = "tag:yaml.org,2002:str"


class Place(NamedTuple):
    """Where something is written; lines and columns count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class Scalar(NamedTuple):
    """:param text: as it is written, less quotes. :param plain: without quotes."""

    text: str
    plain: bool
    place: Place

    @property
    def is_null(self) -> bool:
        """No value, or one of YAML's words for none."""
        return self.plain and self.text in ("", "~", "null", "Null", "NULL")


class Items(NamedTuple):
    """A sequence."""

    items: list[Node]
    place: Place


class Pairs(NamedTuple):
    """A mapping, in the order of the text; no key twice."""

    pairs: dict[str, tuple[Scalar, Node]]
    place: Place


Node: TypeAlias = Scalar | Items | Pairs


class SpecError(UsageError):
    """A text that cannot be meant as fences. Nothing was changed.

    :param place: where.
    """

    def __init__(self, place: Place, message: str, *, hint: str = "") -> None:
        super().__init__(f"{place}: {message}", hint=hint)
        self.place = place


class _Open:
    """A collection that is not ended yet."""

    def __init__(self, node: Items | Pairs, anchor: str | None) -> None:
        self.node = node
        self.anchor = anchor
        self.key: Scalar | None = None


def read(data: bytes | str, file: str) -> Node | None:
    """The root node of a text; None for a text with nothing in it.

    :raise SpecError: it is no UTF-8, no YAML, more than one document, or more than anybody means.
    """
    text = _decoded(data, file)
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    builder = _Builder(file)
    try:
        for event in yaml.parse(text, Loader=loader):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = builder.at(mark) if mark else Place(file, 1, 1)
        raise SpecError(place, _why(error), hint=_TAB if "\\t" in _why(error) else "") from None
    except (yaml.YAMLError, ValueError) as error:
        first = next(iter(str(error).splitlines()), "it cannot be read")
        raise SpecError(Place(file, 1, 1), f"this is no YAML: {first}") from None
    return builder.root


_TAB = "indent with spaces: YAML takes no tabs there"


def _decoded(data: bytes | str, file: str) -> str:
    if len(data) > MAX_BYTES:
        raise SpecError(Place(file, 1, 1), f"it is larger than {MAX_BYTES // 1024**2} MiB")
    try:
        if isinstance(data, str):
            data.encode()
            return data
        return data.decode("utf-8-sig")
    except UnicodeError as error:
        before = error.object[: error.start] if isinstance(error, UnicodeDecodeError) else b""
        line = before.count(b"\n") + 1
        column = len(before) - (before.rfind(b"\n") + 1) + 1
        raise SpecError(Place(file, line, column), "it is not UTF-8", hint="save it as UTF-8") from None


def _why(error: Any) -> str:
    """The library's words for what is wrong, in one line."""
    context = f"{error.context}: " if error.context else ""
    return f"this is no YAML: {context}{error.problem}"


class _Builder:
    """Takes events one by one; `root` is the tree after the last."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.root: Node | None = None
        self._stack: list[_Open] = []
        self._anchors: dict[str, Node] = {}
        self._documents = 0
        self._nodes = 0

    def at(self, mark: Any) -> Place:
        """The place of a library's mark."""
        return Place(self.file, mark.line + 1, mark.column + 1)

    def take(self, event: Any) -> None:
        """One event of the library."""
        name = type(event).__name__
        place = self.at(event.start_mark)
        if name == "DocumentStartEvent":
            self._documents += 1
            if self._documents > 1:
                raise SpecError(place, "a second document begins here", hint="a file holds one: remove the `---`")
        elif name == "AliasEvent":
            self._put(self._aliased(event.anchor, place), place)
        elif name == "ScalarEvent":
            self._refuse_tag(event, place)
            node = Scalar(event.value, not event.style and event.implicit[0], place)
            self._remember(event.anchor, node)
            self._put(node, place)
        elif name in ("MappingStartEvent", "SequenceStartEvent"):
            self._refuse_tag(event, place)
            self._open(Pairs({}, place) if name[0] == "M" else Items([], place), event.anchor, place)
        elif name in ("MappingEndEvent", "SequenceEndEvent"):
            closed = self._stack.pop()
            self._remember(closed.anchor, closed.node)
            self._put(closed.node, closed.node.place)

    def _open(self, node: Items | Pairs, anchor: str | None, place: Place) -> None:
        if len(self._stack) >= MAX_DEPTH:
            raise SpecError(place, f"it is nested deeper than {MAX_DEPTH} levels")
        if anchor:  # its old meaning ends here, and its new one begins where it is closed
            self._anchors.pop(anchor, None)
        self._stack.append(_Open(node, anchor))

    def _remember(self, anchor: str | None, node: Node) -> None:
        if anchor:
            self._anchors[anchor] = node

    def _aliased(self, anchor: str, place: Place) -> Node:
        if anchor in self._anchors:
            return self._anchors[anchor]
        if any(open_.anchor == anchor for open_ in self._stack):
            raise SpecError(place, f"*{anchor} stands within itself")
        raise SpecError(place, f"there is no &{anchor} before this *{anchor}")

    def _refuse_tag(self, event: Any, place: Place) -> None:
        if event.tag not in (None, "!", _STRING_TAG):
            raise SpecError(place, f"the tag {event.tag} means nothing here", hint="leave it out")

    def _put(self, node: Node, place: Place) -> None:
        """A finished node into what is open around it."""
        self._count(place)
        if not self._stack:
            self.root = node
            return
        around = self._stack[-1]
        if isinstance(around.node, Items):
            around.node.items.append(node)
        elif around.key is None:
            if not isinstance(node, Scalar):
                raise SpecError(place, "a list or a group cannot be a key", hint="a ':' may stand too early")
            around.key = node
        else:
            key, around.key = around.key, None
            self._pair(around.node, key, node)

    def _pair(self, into: Pairs, key: Scalar, node: Node) -> None:
        if key.plain and key.text == "<<":
            self._merge(into, key, node)
            return
        if key.text in into.pairs:
            first = into.pairs[key.text][0].place
            if first != key.place and not self._merged(into, key.text):
                raise SpecError(key.place, f"{key.text[:60]!r} is given twice, first in line {first.line}")
        into.pairs[key.text] = (key, node)

    @staticmethod
    def _merged(into: Pairs, text: str) -> bool:
        """Whether the key came from elsewhere by `<<`: then what is written here goes before it."""
        place = into.pairs[text][0].place
        return (place.line, place.column) < (into.place.line, into.place.column)

    def _merge(self, into: Pairs, key: Scalar, node: Node) -> None:
        for other in node.items if isinstance(node, Items) else [node]:
            if not isinstance(other, Pairs):
                raise SpecError(key.place, "<< takes a group, or a list of groups, by its *name")
            for text, pair in other.pairs.items():
                self._count(key.place)
                into.pairs.setdefault(text, pair)

    def _count(self, place: Place) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise SpecError(place, f"it has more than {MAX_NODES} parts")
