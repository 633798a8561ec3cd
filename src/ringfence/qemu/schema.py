"""PURE: what a QEMU's QMP knows, from the answer to `query-qmp-schema` (see QEMU's docs/devel/qapi-code-gen)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ringfence.errors import UsageError

_Entity = Mapping[str, Any]


class Argument(NamedTuple):
    """One argument of a command.

    :param type: QAPI's word: `str`, `int`, `number`, `bool`, `null`, `any`, `enum`, `object`; `[T]` is a list of
        T, `T|U` takes either.
    :param values: what an enum may be, also inside a list; empty for other types.
    :param members: what an object holds, one level of it, also inside a list; empty for other types.
    """

    name: str
    type: str
    optional: bool
    deprecated: bool
    values: tuple[str, ...] = ()
    members: tuple[Argument, ...] = ()


class Schema:
    """Ask this, not the version: distributions backport, and builds differ in what they leave out."""

    def __init__(self, entities: Iterable[_Entity]) -> None:
        """:param entities: the answer of `query-qmp-schema`, as it is."""
        self._entities: dict[str, _Entity] = {entity["name"]: entity for entity in entities}

    def has_command(self, name: str) -> bool:
        """Whether this QEMU has the command."""
        return self._is(name, "command")

    def has_event(self, name: str) -> bool:
        """Whether this QEMU may send the event."""
        return self._is(name, "event")

    def commands(self) -> list[str]:
        """The names of all commands, sorted."""
        return sorted(name for name in self._entities if self._is(name, "command"))

    def arguments(self, command: str) -> Mapping[str, Argument]:
        """The command's arguments by name, in QEMU's order.

        Those that depend on the value of another one, such as the options of each driver in `blockdev-add`, are
        not among them.

        :raise UsageError: this QEMU has no such command.
        """
        if not self.has_command(command):
            raise UsageError(f"this QEMU has no command {command}", hint="Names are case-sensitive.")
        found = self._members(self._entities[command]["arg-type"], depth=1)
        return {argument.name: argument for argument in found}

    def _is(self, name: str, meta_type: str) -> bool:
        entity = self._entities.get(name)
        return entity is not None and entity["meta-type"] == meta_type

    def _members(self, type_name: str, depth: int) -> tuple[Argument, ...]:
        """Of an object, or of the one object among an alternate's branches, or of a list's elements."""
        entity = self._entities[type_name]
        match entity["meta-type"]:
            case "object":
                return tuple(self._argument(member, depth) for member in entity["members"])
            case "array":
                return self._members(entity["element-type"], depth)
            case "alternate":
                branches = (self._members(branch["type"], depth) for branch in entity["members"])
                return next((members for members in branches if members), ())
        return ()

    def _argument(self, member: Mapping[str, Any], depth: int) -> Argument:
        type_name = member["type"]
        return Argument(
            name=member["name"],
            type=self._type_text(type_name),
            optional="default" in member,
            deprecated="deprecated" in member.get("features", ()),
            values=self._values(type_name),
            members=self._members(type_name, depth - 1) if depth else (),
        )

    def _type_text(self, type_name: str) -> str:
        entity = self._entities[type_name]
        match entity["meta-type"]:
            case "builtin":
                return type_name
            case "array":
                return f"[{self._type_text(entity['element-type'])}]"
            case "alternate":
                return "|".join(self._type_text(branch["type"]) for branch in entity["members"])
        return str(entity["meta-type"])

    def _values(self, type_name: str) -> tuple[str, ...]:
        entity = self._entities[type_name]
        match entity["meta-type"]:
            case "enum":
                # `members` came with QEMU 6.2; `values` is deprecated since.
                return (
                    tuple(m["name"] for m in entity["members"]) if "members" in entity else tuple(entity["values"])
                )
            case "array":
                return self._values(entity["element-type"])
            case "alternate":
                return tuple(value for branch in entity["members"] for value in self._values(branch["type"]))
        return ()
