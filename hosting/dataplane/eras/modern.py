"""MCP 2026-07-28 and later: every request stands alone, its headers repeat what its body says, and closing it cancels it.

Checks in the order -32602, -32020, -32022; whether a method exists is the server's to say. Before a server that speaks only legacy
revisions, requests are bridged or declined, as the Environment's policy says: a client of both eras that is told what is spoken falls back.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

from hosting.dataplane.call import Call, Plan
from hosting.dataplane.contract import Route
from hosting.dataplane.facts.buckets import choose_target
from hosting.dataplane.protocol.era import (
    LEGACY_REVISIONS,
    LISTEN,
    META_CAPABILITIES,
    META_VERSION,
    MODERN_REVISIONS,
    PROBE_METHODS,
    PROTOCOL_VERSION_HEADER,
    bridges_modern,
    meta_of,
    supported_revisions,
)
from hosting.dataplane.protocol.errors import (
    HEADER_MISMATCH,
    INVALID_META,
    INVALID_REQUEST,
    METHOD_NOT_ALLOWED,
    PROBE_ONLY_LOOKS,
    UNSUPPORTED_VERSION,
    Refusal,
)
from hosting.dataplane.protocol.jsonrpc import Message

NAMED_BY = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "tasks/get": "taskId",
    "tasks/update": "taskId",
    "tasks/cancel": "taskId",
    "tasks/result": "taskId",
}
_SENTINEL = ("=?base64?", "?=")
_FORWARDED = ("mcp-method", "mcp-name")


def refuse_method() -> Refusal:
    return Refusal(METHOD_NOT_ALLOWED, headers=(("allow", "POST"),))


def plan_post(call: Call, parsed: Message | list[Message], body: bytes) -> Plan:
    """Raises Refusal."""
    if isinstance(parsed, list) or parsed.kind == "response":
        raise Refusal(INVALID_REQUEST, "this revision takes one request or notification at a time")
    if parsed.kind == "request":
        _check_request(parsed, call.headers, call.route)
    else:
        _check_notification(parsed, call.headers, call.route)
    if call.is_probe and parsed.method not in PROBE_METHODS:
        raise Refusal(PROBE_ONLY_LOOKS, request_id=parsed.id)
    target = choose_target(call.route, sticky=call.caller.sticky)
    if "modern" not in target.eras and not bridges_modern(call.route, target):
        raise _unsupported(call.headers[PROTOCOL_VERSION_HEADER], LEGACY_REVISIONS, parsed)
    forwarded = {
        name: value
        for name, value in call.headers.items()
        if name in _FORWARDED or name.startswith("mcp-param-")
    }
    headers = {
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        PROTOCOL_VERSION_HEADER: call.headers[PROTOCOL_VERSION_HEADER],
        **forwarded,
    }
    return Plan(
        target=target,
        method="POST",
        headers=headers,
        body=body,
        messages=[parsed],
        is_listening=parsed.method == LISTEN,
    )


def _check_request(message: Message, headers: Mapping[str, str], route: Route) -> None:
    meta = meta_of(message)
    version = meta.get(META_VERSION)
    if not isinstance(version, str) or not isinstance(meta.get(META_CAPABILITIES), dict):
        raise Refusal(
            INVALID_META,
            f"params._meta must hold {META_VERSION} (a string) and {META_CAPABILITIES} (an object)",
            request_id=message.id,
        )
    if headers.get(PROTOCOL_VERSION_HEADER) != version:
        raise _mismatch("MCP-Protocol-Version", f"params._meta[{META_VERSION!r}]", message)
    if headers.get("mcp-method") != message.method:
        raise _mismatch("Mcp-Method", "method", message)
    key = NAMED_BY.get(message.method)
    named = message.params.get(key) if key is not None else None
    if named is not None and decode_value(headers.get("mcp-name")) != named:
        raise _mismatch("Mcp-Name", f"params.{key}", message)
    _check_version(version, message, route)


def _check_notification(message: Message, headers: Mapping[str, str], route: Route) -> None:
    """The revision asks nothing of them but a version; a header that is there must still be true."""
    version = headers.get(PROTOCOL_VERSION_HEADER)
    if version is None or meta_of(message).get(META_VERSION, version) != version:
        raise _mismatch("MCP-Protocol-Version", f"params._meta[{META_VERSION!r}]", message)
    if headers.get("mcp-method", message.method) != message.method:
        raise _mismatch("Mcp-Method", "method", message)
    _check_version(version, message, route)


def _check_version(version: str, message: Message, route: Route) -> None:
    supported = supported_revisions(route)
    if version not in supported or version not in MODERN_REVISIONS:
        raise _unsupported(version, supported, message)


def _unsupported(version: str, supported: tuple[str, ...], message: Message) -> Refusal:
    data = {"supported": supported, "requested": version[:64]}
    return Refusal(UNSUPPORTED_VERSION, request_id=message.id, data=data)


def _mismatch(header: str, field: str, message: Message) -> Refusal:
    return Refusal(HEADER_MISMATCH, f"the header {header} does not agree with {field}", request_id=message.id)


def decode_value(value: str | None) -> str | None:
    """A header's value as its writer meant it: `=?base64?…?=` holds UTF-8. None for a malformed or missing one."""
    if value is None or not (value.startswith(_SENTINEL[0]) and value.endswith(_SENTINEL[1])):
        return value
    encoded = value[len(_SENTINEL[0]) : -len(_SENTINEL[1])]
    try:
        raw = base64.b64decode(encoded, validate=True)
        return raw.decode() if base64.b64encode(raw).decode() == encoded else None
    except (binascii.Error, ValueError):
        return None


def encode_value(value: str) -> str:
    """A text as a header's value: as it is where a header can carry it unchanged, else `=?base64?…?=` of its UTF-8."""
    is_plain = value.isascii() and value.isprintable() and value == value.strip()
    if is_plain and not (value.startswith(_SENTINEL[0]) and value.endswith(_SENTINEL[1])):
        return value
    return f"{_SENTINEL[0]}{base64.b64encode(value.encode()).decode()}{_SENTINEL[1]}"
