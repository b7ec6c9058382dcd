"""What a modern client asks, as a legacy server understands it: without what only modern revisions know, under an id of ours.

Values go on as they were written, byte by byte: only the objects around them are made anew. Nothing here does I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from hosting.dataplane.protocol.era import META_CAPABILITIES, META_LEVEL, META_PREFIX
from hosting.dataplane.protocol.errors import INVALID_META, INVALID_PARAMS, PARSE_ERROR, JsonRpcId, Refusal
from hosting.dataplane.protocol.jsonrpc import Message
from hosting.dataplane.sessions.session import CAPABILITIES, capability_bits

RawObject = dict[str, msgspec.Raw]

# From the one a client hears least of to the one it hears all of (RFC 5424, as MCP names them).
LEVELS = ("emergency", "alert", "critical", "error", "warning", "notice", "info", "debug")
REMOVED = frozenset(
    {
        "initialize",
        "ping",
        "logging/setLevel",
        "resources/subscribe",
        "resources/unsubscribe",
        "tasks/get",
        "tasks/list",
        "tasks/result",
        "tasks/update",
        "tasks/cancel",
    }
)  # the first five by the modern revisions themselves; tasks cannot exist across the bridge
MAY_ASK = frozenset({"tools/call", "prompts/get", "resources/read"})  # in the midst of which a server may ask
MAX_CAPABILITIES_BYTES = 64 * 1024
_CARRIED = sum(
    1 << bit
    for bit, name in enumerate(CAPABILITIES)
    if name in {"roots", "sampling", "elicitation", "elicitation.url", "elicitation.form", "sampling.tools"}
)  # what can be asked across the bridge
_NOT_SENT = frozenset({"inputResponses", "requestState", "task", "_meta"})

_object = msgspec.json.Decoder(RawObject)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of a modern client."""

    id: JsonRpcId
    method: str
    name: str  # of the tool or prompt, or the resource's URI; empty for other methods
    params: RawObject
    meta: RawObject
    bits: int  # of the client's capabilities, those that matter to a server (`capability_bits`)
    level: str  # the least serious message it wants to hear; empty: none
    token: bytes | None  # its progress token, as JSON

    @property
    def state(self) -> str | None:
        """The requestState it brings back. Raises Refusal."""
        raw = self.params.get("requestState")
        if raw is None or self.method not in MAY_ASK:
            return None
        state: str = _decoded(raw, str, "requestState")
        return state

    @property
    def responses(self) -> RawObject:
        """Its inputResponses. Raises Refusal."""
        raw = self.params.get("inputResponses")
        responses: RawObject = {} if raw is None else _decoded(raw, RawObject, "inputResponses")
        return responses


class _Body(msgspec.Struct):
    params: RawObject = {}


_body = msgspec.json.Decoder(_Body)


def read_request(message: Message, body: bytes) -> Asked:
    """`body` holds `message`, which was checked; what is looked at here is checked too. Raises Refusal."""
    try:
        params = _body.decode(body).params
        meta = _object.decode(params["_meta"])
        declared = meta[META_CAPABILITIES]
        if len(bytes(declared)) > MAX_CAPABILITIES_BYTES:
            raise Refusal(INVALID_META, "the client's capabilities are too large", request_id=message.id)
        bits = capability_bits(msgspec.json.decode(declared, type=dict[str, Any])) & _CARRIED
    except (msgspec.MsgspecError, KeyError, RecursionError):
        raise Refusal(PARSE_ERROR, request_id=message.id) from None
    key = "uri" if message.method == "resources/read" else "name"
    named = params.get(key) if message.method in MAY_ASK else None
    token = meta.get("progressToken")
    return Asked(
        id=message.id,
        method=message.method,
        name=_decoded(named, str, key) if named is not None else "",
        params=params,
        meta=meta,
        bits=bits,
        level=_level_in(meta),
        token=bytes(token) if token is not None else None,
    )


def _level_in(meta: RawObject) -> str:
    raw = meta.get(META_LEVEL)
    if raw is None:
        return ""
    level: str = _decoded(raw, str, META_LEVEL)
    if level not in LEVELS:
        raise Refusal(INVALID_META, f"params._meta[{META_LEVEL!r}] is no level")
    return level


def _decoded(raw: msgspec.Raw, kind: Any, name: str) -> Any:
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.MsgspecError:
        raise Refusal(INVALID_PARAMS, f"params.{name} is not what it should be") from None


def legacy_request(asked: Asked, number: int) -> bytes:
    """`number` is unique in the server's session: its request id, and its progress token where the client wants progress."""
    params = {name: value for name, value in asked.params.items() if name not in _NOT_SENT}
    meta: dict[str, Any] = {
        name: value for name, value in asked.meta.items() if not name.startswith(META_PREFIX)
    }
    if asked.token is not None:
        meta["progressToken"] = number
    if meta:
        params["_meta"] = msgspec.Raw(msgspec.json.encode(meta))
    return request_body(asked.method, params, number)


def request_body(method: str, params: Any, number: int) -> bytes:
    return msgspec.json.encode({"jsonrpc": "2.0", "id": number, "method": method, "params": params})


def notification_body(method: str, params: Any = None) -> bytes:
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    return msgspec.json.encode(message if params is None else {**message, "params": params})


def wants_message(level: str, wanted: str) -> bool:
    """Whether who wants to hear `wanted` and worse hears `level`. What has no known level is heard by those who hear all."""
    if not wanted:
        return False
    return LEVELS.index(level if level in LEVELS else "debug") <= LEVELS.index(wanted)


def lowest_of(levels: list[str]) -> str:
    """The level at which all of them hear what they want; empty when nobody wants to hear anything."""
    return max(levels, key=LEVELS.index) if levels else ""
