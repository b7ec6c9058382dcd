"""Which arguments of a tool its server wants repeated as `Mcp-Param-*` headers, and how. Pure.

An annotation (`x-mcp-header`) counts on a property of a primitive type that is reached from the schema's root through `properties` alone;
anywhere else, or with a name that is no header's, or twice, it makes the tool one that clients must not offer. `number` is let through:
the specification leaves it out, its conformance suite and the TypeScript SDK take it, and no server minds one header more.
Source: MCP 2026-07-28, Transports, "Custom headers from tool parameters".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hosting.dataplane.eras.modern import encode_value

ANNOTATION = "x-mcp-header"
MAX_HEADERS = 32  # of one tool
MAX_PATH = 32  # properties deep; a path is copied for every schema on it
Annotated = tuple[tuple[str, ...], str]  # the property's path, and the header's name

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}\Z")
_TYPES = frozenset({"string", "integer", "boolean", "number"})
# JSON Schema 2020-12: keywords that hold schemas, by the shape of their value. Others hold data, and are not looked into.
ONE_SCHEMA = frozenset(
    {
        "additionalProperties",
        "contains",
        "contentSchema",
        "else",
        "if",
        "items",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)
LISTED_SCHEMAS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems", "items"})
NAMED_SCHEMAS = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"})


class InvalidAnnotation(Exception):
    """The tool's schema asks for headers in a way that clients must refuse."""


def annotated(schema: object) -> tuple[Annotated, ...]:
    """Raises InvalidAnnotation."""
    found: dict[str, Annotated] = {}
    for path, at in _schemas(schema):
        if ANNOTATION not in at:
            continue
        name, kind = at[ANNOTATION], at.get("type")
        if not path:
            raise InvalidAnnotation("not reached through properties alone, or too deep")
        if not isinstance(name, str) or not _TOKEN.match(name):
            raise InvalidAnnotation("no header's name")
        if not isinstance(kind, str) or kind not in _TYPES:
            raise InvalidAnnotation("not of a primitive type")
        if name.lower() in found or len(found) >= MAX_HEADERS:
            raise InvalidAnnotation("a name stands twice, or there are too many")
        found[name.lower()] = (path, f"mcp-param-{name.lower()}")
    return tuple(found.values())


def headers_of(annotations: Sequence[Annotated], arguments: object) -> dict[str, str]:
    """For a call: an argument that is missing, null or no primitive has no header."""
    headers = {}
    for path, header in annotations:
        said = _said(_at(arguments, path))
        if said is not None:
            headers[header] = encode_value(said)
    return headers


def _schemas(root: object) -> Iterator[tuple[tuple[str, ...] | None, Mapping[str, Any]]]:
    """Every schema in a schema, with its path of properties; None once anything else lies on the way."""
    stack: list[tuple[tuple[str, ...] | None, object]] = [((), root)]
    while stack:
        path, at = stack.pop()
        if not isinstance(at, dict):
            continue
        yield path, at
        for keyword, value in at.items():
            if keyword in NAMED_SCHEMAS and isinstance(value, dict):
                stays = path is not None and len(path) < MAX_PATH and keyword == "properties"
                stack += [((*(path or ()), name) if stays else None, inner) for name, inner in value.items()]
            elif keyword in LISTED_SCHEMAS and isinstance(value, list):
                stack += [(None, inner) for inner in value]
            elif keyword in ONE_SCHEMA:
                stack.append((None, value))


def _at(value: object, path: Sequence[str]) -> object:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _said(value: object) -> str | None:
    match value:
        case bool():
            return "true" if value else "false"
        case float() if value.is_integer() and abs(value) < 2**53:
            return str(int(value))
        case str() | int() | float():
            return str(value)
    return None
