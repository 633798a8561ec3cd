"""PURE: from the nodes of one file to its rules, telling of everything that is wrong with it at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from ringfence.core.knob import Value
from ringfence.core.spec import DRIFT, Pool, Rank, Rule, Selector, Setting, Spec, selector
from ringfence.core.spec_yaml import Items, Node, Pairs, Place, Scalar, SpecError, read
from ringfence.core.vocabulary import LENGTH, Group, Vocabulary, nearest
from ringfence.errors import UsageError

ReadValue: TypeAlias = Callable[[str, str], Value | None]
"""From a key and a value as it is written to the value; raises UsageError."""

SECTIONS = ("version", "include", "drift", "labels", "defaults", "pools", "fences")
_FOR = re.compile(r"(\S.*?)\s+for\s+(\S.*)")
_MOST_PROBLEMS = 20
_OWN = "x-"  # sections of the user's own, such as for anchors, as in compose files


class Include(NamedTuple):
    """Another file, or a directory of files, to be read before this one."""

    path: str
    place: Place


class Document(NamedTuple):
    """One file. :param drift: None where it says nothing of it."""

    rules: tuple[Rule, ...]
    labels: dict[str, tuple[Selector, ...]]
    pools: dict[str, Pool]
    includes: tuple[Include, ...]
    drift: str | None


def document(data: bytes | str, file: str, words: Vocabulary, read_value: ReadValue) -> Document:
    """Read one file.

    :raise SpecError: something is wrong with it; tells of every such thing, the first ones by their place.
    """
    root = read(data, file)
    reader = _Reader(words, read_value)
    found = reader.document(root)
    if reader.problems:
        raise together(reader.problems)
    return found


def together(problems: Sequence[SpecError]) -> SpecError:
    """One error of several, in the order of the text."""
    if len(problems) == 1:
        return problems[0]
    lines = [f"{e.message} ({e.hint})" if e.hint else e.message for e in problems[:_MOST_PROBLEMS]]
    more = len(problems) - len(lines)
    tail = [f"and {more} more"] if more else []
    error = SpecError(problems[0].place, "", hint="put them right, or leave them out")
    error.message = "\n  ".join((f"{len(problems)} things are wrong:", *lines, *tail))
    error.args = (error.message,)
    return error


def merged(documents: Sequence[tuple[str, Document]]) -> Spec:
    """One spec of files, as `(name, document)`: what a later one says goes before what an earlier one does.

    :raise SpecError: labels that are members of each other, or of no tenant's.
    """
    labels = {name: members for _, one in documents for name, members in one.labels.items()}
    pools = {name: pool for _, one in documents for name, pool in one.pools.items()}
    rules = tuple(rule for _, one in documents for rule in one.rules)
    drift = next((one.drift for _, one in reversed(documents) if one.drift), "repair")
    _check_labels(labels, rules)
    return Spec(rules, labels, pools, drift, tuple(file for file, _ in documents))


def _check_labels(labels: dict[str, tuple[Selector, ...]], rules: Sequence[Rule]) -> None:
    problems = [
        SpecError(
            rule.place,
            f"there is no label {rule.selector.pattern[:60]!r}",
            hint=nearest(rule.selector.pattern, labels),
        )
        for rule in rules
        if rule.selector.rank is Rank.LABEL and rule.selector.pattern not in labels
    ]
    done: set[str] = set()
    for start in labels:
        trail: list[str] = []
        _follow(start, labels, trail, done)
        if trail:
            where = next((rule.place for rule in rules), Place("labels", 1, 1))
            cycle = " -> ".join(trail)
            problems.append(SpecError(where, f"labels are members of each other: {cycle}"))
            break
    if problems:
        raise together(problems)


def _follow(start: str, labels: dict[str, tuple[Selector, ...]], trail: list[str], done: set[str]) -> None:
    """Leave in `trail` a way from a label back to itself, when there is one; without recursion."""
    stack: list[tuple[str, Iterator[str]]] = [(start, _label_members(labels, start))]
    while stack:
        name, members = stack[-1]
        member = next(members, None)
        path = [step for step, _ in stack]
        if member is None:
            done.add(name)
            stack.pop()
        elif member in path:
            trail += [*path[path.index(member) :], member]
            return
        elif member in labels and member not in done:
            stack.append((member, _label_members(labels, member)))


def _label_members(labels: dict[str, tuple[Selector, ...]], name: str) -> Iterator[str]:
    return (member.pattern for member in labels[name] if member.rank is Rank.LABEL)


class _Reader:
    """:ivar problems: everything that is wrong, in the order of the text."""

    def __init__(self, words: Vocabulary, read_value: ReadValue) -> None:
        self._words = words
        self._read_value = read_value
        self.problems: list[SpecError] = []

    def document(self, root: Node | None) -> Document:
        found = Document((), {}, {}, (), None)
        if root is None or (isinstance(root, Scalar) and root.is_null):
            return found
        for key, node in self._pairs(root, "the file"):
            if key.text == "fences":
                found = found._replace(rules=(*found.rules, *self._fences(node)))
            elif key.text == "defaults":
                default = Selector("defaults", Rank.DEFAULT, "", "")
                found = found._replace(rules=(self._rule(default, key, node), *found.rules))
            elif key.text == "labels":
                found.labels.update(self._labels(node))
            elif key.text == "pools":
                found.pools.update(self._pools(node))
            elif key.text == "include":
                found = found._replace(includes=self._includes(node))
            elif key.text == "drift":
                found = found._replace(drift=self._drift(node))
            elif key.text == "version":
                self._version(node)
            elif not key.text.startswith(_OWN):
                self._unknown(key, SECTIONS, "section")
        return found

    def _problem(self, place: Place, message: str, hint: str = "") -> None:
        self.problems.append(SpecError(place, message, hint=hint))

    def _unknown(self, key: Scalar, known: Sequence[str], noun: str) -> None:
        near = nearest(key.text, known)
        hint = near or (f"there are {', '.join(known)}" if len(known) <= 12 else "docs/fences.md lists them")
        self._problem(key.place, f"there is no {noun} {key.text[:60]!r}", hint)

    def _pairs(self, node: Node, what: str) -> list[tuple[Scalar, Node]]:
        if isinstance(node, Pairs):
            return list(node.pairs.values())
        if not (isinstance(node, Scalar) and node.is_null):
            self._problem(node.place, f"{what} is a group: NAME: VALUE, one a line")
        return []

    def _texts(self, node: Node, what: str) -> list[Scalar]:
        items = node.items if isinstance(node, Items) else [node]
        texts = [item for item in items if isinstance(item, Scalar) and item.text]
        if len(texts) < len(items):
            self._problem(node.place, f"{what} is a name, or a list of names")
        return texts

    def _version(self, node: Node) -> None:
        if not (isinstance(node, Scalar) and node.text == "1"):
            self._problem(node.place, "this version of the file's form is not known", "write 1, or leave it out")

    def _drift(self, node: Node) -> str | None:
        if isinstance(node, Scalar) and node.text in DRIFT:
            return node.text
        self._problem(node.place, "drift is one of repair, warn, off")
        return None

    def _includes(self, node: Node) -> tuple[Include, ...]:
        return tuple(Include(text.text, text.place) for text in self._texts(node, "include"))

    def _labels(self, node: Node) -> dict[str, tuple[Selector, ...]]:
        return {
            key.text: tuple(selector(text.text) for text in self._texts(members, "a label's members"))
            for key, members in self._pairs(node, "labels")
        }

    def _pools(self, node: Node) -> dict[str, Pool]:
        group = self._words.root.children.get("pool", Group()).of_slot or Group()
        found: dict[str, Pool] = {}
        for key, limits in self._pairs(node, "pools"):
            settings = self._settings(limits, group, ("pool", key.text), "pools")
            leaves = {setting.key.removeprefix(f"pool.{key.text}."): setting for setting in settings}
            found[key.text] = Pool(key.text, leaves, key.place)
        return found

    def _fences(self, node: Node) -> list[Rule]:
        rules = []
        for key, fence in self._pairs(node, "fences"):
            if not key.text:
                self._problem(key.place, "a fence needs the name of its tenant")
            rules.append(self._rule(selector(key.text), key, fence))
        return rules

    def _rule(self, whom: Selector, key: Scalar, node: Node) -> Rule:
        drift: str | None = None
        if isinstance(node, Pairs) and "drift" in node.pairs:
            drift = self._drift(node.pairs["drift"][1])
            node = node._replace(pairs={text: pair for text, pair in node.pairs.items() if text != "drift"})
        settings: dict[str, Setting] = {}
        for setting in self._settings(node, self._words.root, (), whom.text):
            if setting.key in settings:
                first = settings[setting.key].place
                self._problem(setting.place, f"{setting.key} is given twice, first in line {first.line}")
            settings[setting.key] = setting
        return Rule(whom, tuple(settings.values()), key.place, drift)

    def _settings(self, node: Node, group: Group, path: tuple[str, ...], rule: str) -> Iterator[Setting]:
        """What a group of the file sets; as deep as the text, whose depth is bounded."""
        for key, value in self._pairs(node, ".".join(path) or rule or "a fence"):
            below = self._below(group, key, isinstance(value, Pairs))
            if below is None:
                continue
            segments, found = below
            if isinstance(value, Pairs):
                if found.children or found.of_slot:
                    yield from self._settings(value, found, (*path, *segments), rule)
                else:
                    self._problem(value.place, f"{'.'.join((*path, *segments))} is a value, not a group")
            elif found.row is None:
                self._problem(key.place, f"{key.text[:60]!r} is a group", _inside(found))
            else:
                yield from self._values(".".join((*path, *segments)), found.row.key, value, rule)

    def _below(self, group: Group, key: Scalar, is_group: bool) -> tuple[tuple[str, ...], Group] | None:
        """What a key means within a group: its segments, and the group they lead to."""
        if group.of_slot is not None and key.text not in group.words:
            if key.text:
                return (key.text,), group.of_slot
            self._problem(key.place, f"a {group.slot} needs a name")
            return None
        segments = group.words.get(key.text)
        if segments is not None:
            return segments, group.at(segments)
        dotted = _dotted(group, key.text, is_group)
        if dotted is None:
            self._unknown(key, _shown(group), "knob")
        return dotted

    def _values(self, key: str, row_key: str, node: Node, rule: str) -> Iterator[Setting]:
        text = ",".join(item.text for item in self._texts(node, key)) if isinstance(node, Items) else ""
        if isinstance(node, Scalar):
            text = node.text
            if node.is_null:
                self._problem(node.place, f"{key} has no value", "give one, or `unlimited` to lift it")
                return
        split = _FOR.fullmatch(text)
        if split and row_key in self._words.lengths:
            pairs = [(key, split[1]), (key + LENGTH, split[2])]
        else:
            pairs = [(key, text)]
        for name, value in pairs:
            try:
                yield Setting(name, self._read_value(name, value), node.place, rule)
            except UsageError as error:
                self._problem(node.place, error.message, error.hint)


def _dotted(group: Group, text: str, is_group: bool) -> tuple[tuple[str, ...], Group] | None:
    """A key that leads through an instance's name, such as `disk.vda.iops`; the name may hold dots."""
    parts = text.split(".")[:64]
    for end in range(1, len(parts)):
        segments = group.words.get(".".join(parts[:end]))
        slot = group.at(segments).of_slot if segments else None
        if segments is None or slot is None:
            continue
        for middle in range(end + 1, len(parts)):
            leaf = slot.words.get(".".join(parts[middle:]))
            if leaf is not None:
                return (*segments, ".".join(parts[end:middle]), *leaf), slot.at(leaf)
        if is_group:
            return (*segments, ".".join(parts[end:])), slot
    return None


def _shown(group: Group) -> list[str]:
    """The words of a group that a person would write."""
    plural = [word for word, segments in group.words.items() if group.at(segments).of_slot and word.endswith("s")]
    return [*plural, *(word for word in group.words if f"{word}s" not in plural)]


def _inside(group: Group) -> str:
    words = [word for word in _shown(group) if "." not in word] if not group.of_slot else []
    if group.of_slot:
        return f"name a {group.slot} in it, and give that one values"
    return f"in it are {', '.join(words[:12])}"
