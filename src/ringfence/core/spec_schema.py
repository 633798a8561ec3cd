"""PURE: the JSON Schema of a file of fences, for editors; from the same words that the program reads by.

It takes all that the program takes. What it cannot say (names of disks, units, what a VM can do) it leaves to
`ringfence plan`.
"""

from __future__ import annotations

from typing import Any

from ringfence import units
from ringfence.core.knob import Row
from ringfence.core.spec import DRIFT
from ringfence.core.vocabulary import LENGTH, Group, Vocabulary

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_NAMES = {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}


def schema(words: Vocabulary) -> dict[str, Any]:
    """The schema, as plain data."""
    fence = _group(words.root)
    fence["properties"]["drift"] = {"enum": list(DRIFT), "description": "what to do when it is not so any more"}
    pool = words.root.children["pool"].of_slot if "pool" in words.root.children else None
    sections: dict[str, Any] = {
        "version": {"enum": [1, "1"]},
        "include": _NAMES | {"description": "files and directories to read before this one"},
        "drift": {"enum": list(DRIFT), "description": "what to do when a tenant is not as fenced any more"},
        "labels": {"type": "object", "additionalProperties": _NAMES},
        "defaults": {"$ref": "#/$defs/fence"},
        "pools": {"type": "object", "additionalProperties": _group(pool or Group())},
        "fences": {
            "type": "object",
            "description": "by name, glob (`web-*`), `label:NAME`, `container:NAME` or `cgroup:/PATH`",
            "additionalProperties": {"$ref": "#/$defs/fence"},
        },
    }
    return {
        "$schema": _DIALECT,
        "title": "ringfence fences",
        "type": "object",
        "properties": sections,
        "patternProperties": {"^x-": True},
        "additionalProperties": False,
        "$defs": {"fence": fence},
    }


def _group(group: Group) -> dict[str, Any]:
    """What may stand in a group."""
    found: dict[str, Any] = {}
    for word, segments in group.words.items():
        if "." not in word:
            found[word] = _below(group.at(segments))
    made: dict[str, Any] = {"type": ["object", "null"], "properties": dict(sorted(found.items()))}
    made["patternProperties"] = {r"\.": True}  # dotted keys, which may lead through any name
    made["additionalProperties"] = False
    if group.of_slot is not None:
        made = {"type": ["object", "null"], "additionalProperties": _group(group.of_slot)}
        if found:
            made["properties"] = found
    return made


def _below(group: Group) -> dict[str, Any]:
    """What may stand at a word: a value, a group, or either."""
    values = [_value(group.row)] if group.row else []
    groups = [_group(group)] if group.children or group.of_slot else []
    ways = values + groups
    return ways[0] if len(ways) == 1 else {"anyOf": ways}


def _value(row: Row) -> dict[str, Any]:
    lifted = f"; `{row.lifted}` lifts it" if row.lifts else ""
    told = {"description": f"{row.help} ({row.mechanism}{lifted})"}
    if row.unit == units.SWITCH:
        return {"type": ["string", "boolean"], **told}
    single: list[str] = ["string", "number"]
    if row.unit != units.NAME or LENGTH in row.key:
        return {"type": single, **told}
    return {"anyOf": [{"type": single}, {"type": "array", "items": {"type": single}}], **told}
