"""Results that are no objects, for clients to whom every structured result is one. Pure.

A tool's outputSchema that is not of type object becomes `{"type": "object", "properties": {"result": <it>}, "required": ["result"]}`,
and its results `{"result": <value>}`, with the value as text beside it. References inside are moved along: `#/…` pointed at the
root, which is now a level higher. Source: MCP 2025-11-25 and 2026-07-28, Tools, "Output schema", "Structured content".
"""

from __future__ import annotations

from typing import Any

import msgspec

from hosting.dataplane.bridges.to_modern.asked import Fields, decode_or_none
from hosting.dataplane.bridges.to_modern.param_headers import LISTED_SCHEMAS, NAMED_SCHEMAS, ONE_SCHEMA

PLACE = "#/properties/result"
_REFERENCES = frozenset({"$ref", "$dynamicRef"})
_encode = msgspec.json.Encoder().encode


def is_of_objects(schema: msgspec.Raw) -> bool:
    try:
        return bool(_types.decode(schema).type == "object")
    except msgspec.MsgspecError:
        return False


def wrapped_schema(schema: Any) -> dict[str, Any]:
    """`schema` is any JSON Schema, also `true`."""
    outer: dict[str, Any] = {"type": "object", "properties": {"result": schema}, "required": ["result"]}
    if not isinstance(schema, dict):
        return outer
    inner = dict(schema)
    if "$schema" in inner:
        outer = {"$schema": inner.pop("$schema"), **outer}
    outer["properties"] = {"result": inner if "$id" in inner else _moved(inner)}
    return outer


def _moved(schema: Any) -> Any:
    """With its references a level deeper. A schema with an `$id` is a document of its own: what it refers to moves with it."""
    if not isinstance(schema, dict) or "$id" in schema:
        return schema
    moved: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword in _REFERENCES and isinstance(value, str):
            moved[keyword] = PLACE + value[1:] if value == "#" or value.startswith("#/") else value
        elif keyword in NAMED_SCHEMAS and isinstance(value, dict):
            moved[keyword] = {name: _moved(inner) for name, inner in value.items()}
        elif keyword in LISTED_SCHEMAS and isinstance(value, list):
            moved[keyword] = [_moved(inner) for inner in value]
        else:
            moved[keyword] = _moved(value) if keyword in ONE_SCHEMA else value
    return moved


def wrapped_result(result: Fields) -> Fields:
    """A call's result whose structured content is wrapped, with its text added where no text stands beside it."""
    value = result["structuredContent"]
    wrapped = {**result, "structuredContent": msgspec.Raw(_encode({"result": value}))}
    blocks = decode_or_none(result["content"]) if "content" in result else []
    blocks = blocks if isinstance(blocks, list) else []
    if not any(isinstance(block, dict) and block.get("type") == "text" for block in blocks):
        text = {"type": "text", "text": bytes(value).decode()}
        wrapped["content"] = msgspec.Raw(_encode([*blocks, text]))
    return wrapped


class _Type(msgspec.Struct):
    type: Any = None


_types = msgspec.json.Decoder(_Type)
