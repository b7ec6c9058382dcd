"""What a legacy server answers and tells, as a modern client understands it. Nothing here does I/O."""

from __future__ import annotations

from typing import Any

import msgspec

from hosting.dataplane.bridges.to_legacy.requests import Asked, RawObject, notification_body
from hosting.dataplane.protocol.era import LIST_METHODS, META_SERVER, META_SUBSCRIPTION
from hosting.dataplane.protocol.errors import BROKEN_ANSWER, JsonRpcId, Refusal

CACHEABLE = LIST_METHODS | {"resources/read", "server/discover"}
METHOD_NOT_FOUND = -32601
INVALID = -32602
RESOURCE_NOT_FOUND = -32002  # legacy only; never used again
URL_REQUIRED = -32042  # legacy only; never used again
_BAD_REQUEST = frozenset((-32700, -32600, *range(-32029, -32019)))

_object = msgspec.json.Decoder(RawObject)
_objects = msgspec.json.Decoder(list[RawObject])


class ServerError(msgspec.Struct):
    """A JSON-RPC error."""

    code: int
    message: str = ""
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Execution(msgspec.Struct):
    taskSupport: str = ""  # noqa: N815 - the protocol's spelling


def modern_result(asked: Asked, result: bytes, server: msgspec.Raw | None) -> bytes:
    """The whole answer. `server` is the serverInfo of `initialize`. Raises Refusal for a result that is no object."""
    try:
        told: dict[str, Any] = dict(_object.decode(result))
        if asked.method == "tools/list" and "tools" in told:
            told["tools"] = [without_execution(tool) for tool in visible_tools(told["tools"])]
        return complete(asked.id, asked.method, told, server)
    except (msgspec.MsgspecError, RecursionError):
        raise Refusal(BROKEN_ANSWER, request_id=asked.id) from None


def complete(request_id: JsonRpcId, method: str, told: dict[str, Any], server: msgspec.Raw | None) -> bytes:
    """Raises msgspec.MsgspecError for a `_meta` that is no object."""
    if server is not None:
        meta: dict[str, Any] = dict(_object.decode(told["_meta"])) if "_meta" in told else {}
        told["_meta"] = {**meta, META_SERVER: server}
    told["resultType"] = "complete"
    if method in CACHEABLE:
        told["ttlMs"], told["cacheScope"] = 0, "private"
    return msgspec.json.encode({"jsonrpc": "2.0", "id": request_id, "result": told})


def visible_tools(raw: msgspec.Raw) -> list[RawObject]:
    """Without those that can be called as tasks only. Raises msgspec.MsgspecError."""
    return [tool for tool in _objects.decode(raw) if not needs_task(tool)]


def needs_task(tool: RawObject) -> bool:
    try:
        return (
            "execution" in tool
            and msgspec.json.decode(tool["execution"], type=_Execution).taskSupport == "required"
        )
    except msgspec.MsgspecError:
        return False


def without_execution(tool: RawObject) -> RawObject:
    return {name: value for name, value in tool.items() if name != "execution"}


def read_error(raw: bytes, request_id: JsonRpcId) -> ServerError:
    """Raises Refusal."""
    try:
        return msgspec.json.decode(raw, type=ServerError)
    except msgspec.MsgspecError:
        raise Refusal(BROKEN_ANSWER, request_id=request_id) from None


def modern_error(asked: Asked, error: ServerError) -> tuple[bytes, int]:
    """The whole answer, and its HTTP status."""
    code, data = error.code, error.data
    if code == RESOURCE_NOT_FOUND:
        code = INVALID
        if asked.method == "resources/read":
            data = msgspec.Raw(msgspec.json.encode({"uri": asked.name}))
    told = {"code": code, "message": error.message}
    if data is not msgspec.UNSET:
        told["data"] = data
    body = msgspec.json.encode({"jsonrpc": "2.0", "id": asked.id, "error": told})
    return body, status_of(code)


def status_of(code: int) -> int:
    """The HTTP status that modern revisions give a JSON-RPC error."""
    if code == METHOD_NOT_FOUND:
        return 404
    return 400 if code in _BAD_REQUEST else 200


class _Params(msgspec.Struct):
    params: RawObject = {}


def params_in(raw: bytes) -> RawObject:
    """The params of a server's message; empty where it has none that are an object."""
    try:
        return msgspec.json.decode(raw, type=_Params).params
    except msgspec.MsgspecError:
        return {}


def text_in(params: RawObject, name: str) -> str:
    """Empty when there is no such text."""
    try:
        return msgspec.json.decode(params[name], type=str) if name in params else ""
    except msgspec.MsgspecError:
        return ""


def progress(raw: bytes, number: int, token: bytes) -> bytes | None:
    """The server's progress under the client's own token; None when it is not of request `number`."""
    params = params_in(raw)
    if bytes(params.get("progressToken", b"")) != str(number).encode():
        return None
    return notification_body("notifications/progress", {**params, "progressToken": msgspec.Raw(token)})


def tagged(raw: bytes, method: str, subscription: JsonRpcId) -> bytes:
    """A notification for the listener whose request was `subscription`."""
    params = params_in(raw)
    meta = params.get("_meta")
    try:
        kept = _object.decode(meta) if meta is not None else {}
    except msgspec.MsgspecError:
        kept = {}
    return notification_body(method, {**params, "_meta": {**kept, META_SUBSCRIPTION: subscription}})
