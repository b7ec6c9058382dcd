"""The headers `Mcp-Param-*`, which repeat arguments of a tool as its inputSchema says (`x-mcp-header`): true, or -32020.

A legacy server does not check them, and whoever stands between the client and us may have routed by them. Source: MCP 2026-07-28,
Transports, Custom Headers. Nothing here does I/O.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from hosting.dataplane.bridges.to_legacy.answers import needs_task
from hosting.dataplane.bridges.to_legacy.requests import RawObject
from hosting.dataplane.eras.modern import decode_value
from hosting.dataplane.protocol.errors import HEADER_MISMATCH, Refusal

PREFIX = "mcp-param-"
MARK = "x-mcp-header"
MARKABLE = frozenset({"string", "integer", "boolean"})
MAX_MARKS = 64  # of one tool: more headers no request can have
MAX_PATH = 32  # properties deep; a path is copied for every schema on it
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_DECIMAL = re.compile(r"-?[0-9]{1,400}(\.0{1,20})?\Z")
_object = msgspec.json.Decoder(RawObject)


@dataclass(frozen=True, slots=True)
class Mark:
    """One argument that a header repeats. `path` leads to it through the arguments."""

    path: tuple[str, ...]
    header: str  # lower case, with its prefix
    kind: str  # one of MARKABLE


@dataclass(frozen=True, slots=True)
class ToolRule:
    """What must be known of a tool before it is called."""

    needs_task: bool = False
    marks: tuple[Mark, ...] = ()

    @property
    def size(self) -> int:
        """Characters of its names."""
        return sum(len(mark.header) + sum(map(len, mark.path)) for mark in self.marks)


def rule_of(tool: RawObject) -> tuple[str, ToolRule] | None:
    """The tool's name and rule; None for a tool that has none."""
    try:
        name = msgspec.json.decode(tool["name"], type=str)
        schema = tool.get("inputSchema")
        has_marks = schema is not None and MARK.encode() in bytes(schema)
        marks = marks_in(msgspec.json.decode(schema)) if has_marks and schema is not None else ()
    except (msgspec.MsgspecError, KeyError, RecursionError):
        return None
    rule = ToolRule(needs_task(tool), marks)
    return (name, rule) if rule != ToolRule() else None


def marks_in(schema: Any) -> tuple[Mark, ...]:
    """None at all if one of them is invalid: clients then drop the tool, and send no headers for it."""
    marks: dict[str, Mark] = {}
    for path, found in _schemas(schema):
        if MARK not in found:
            continue
        name, kind = found[MARK], found.get("type")
        is_valid = bool(path) and isinstance(name, str) and _TOKEN.match(name) and kind in _markable(kind)
        header = f"{PREFIX}{name}".lower()
        if not is_valid or path is None or header in marks or len(marks) >= MAX_MARKS:
            return ()
        marks[header] = Mark(path, header, str(kind))
    return tuple(marks.values())


def _markable(kind: Any) -> frozenset[str]:
    return MARKABLE if isinstance(kind, str) else frozenset()


def _schemas(root: Any) -> Iterator[tuple[tuple[str, ...] | None, dict[str, Any]]]:
    """Every object of a schema, with its path where only `properties` lead to it (None: something else does).

    What is data and not a schema (`default`, `examples`, `const`, `enum`) is passed over.
    """
    waiting: list[tuple[tuple[str, ...] | None, Any]] = [((), root)]
    while waiting:
        path, found = waiting.pop()
        if isinstance(found, list):
            waiting.extend((None, item) for item in found)
        if not isinstance(found, dict):
            continue
        yield path, found
        for word, inside in found.items():
            if word == "properties" and isinstance(inside, dict):
                stays = path is not None and len(path) < MAX_PATH
                waiting.extend(
                    ((*(path or ()), name) if stays else None, sub) for name, sub in inside.items()
                )
            elif word in {"patternProperties", "dependentSchemas", "$defs", "definitions"}:
                if isinstance(inside, dict):
                    waiting.extend((None, sub) for sub in inside.values())
            elif word not in {"default", "examples", "const", "enum", MARK}:
                waiting.append((None, inside))


def check_headers(rule: ToolRule, arguments: msgspec.Raw | None, headers: Mapping[str, str]) -> None:
    """Each marked argument and its header say the same, or both are missing (null is missing). Raises Refusal."""
    for mark in rule.marks:
        value, told = _value_at(arguments, mark.path), headers.get(mark.header)
        if value is None and told is None:
            continue
        decoded = decode_value(told)
        if value is None or decoded is None or not _agrees(mark.kind, value, decoded):
            raise Refusal(
                HEADER_MISMATCH,
                f"the header {mark.header} does not agree with params.arguments.{'.'.join(mark.path)}",
            )


def _value_at(arguments: msgspec.Raw | None, path: tuple[str, ...]) -> Any:
    found = arguments
    try:
        for name in path:
            found = _object.decode(found).get(name) if found is not None else None
        return None if found is None else msgspec.json.decode(found)
    except (msgspec.MsgspecError, RecursionError):
        return None


def _agrees(kind: str, value: Any, told: str) -> bool:
    if isinstance(value, bool):
        return told == ("true" if value else "false")
    if isinstance(value, str):
        return told == value
    if not isinstance(value, int | float):
        return False
    is_whole = isinstance(value, int) or value.is_integer()
    if kind == "integer" and is_whole and _DECIMAL.match(told):
        return int(told.partition(".")[0]) == int(value)
    return told == str(value)
