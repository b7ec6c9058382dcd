"""What a legacy server asks in the midst of a call, as the input a modern client's request requires, and its responses as the
answers. Nothing here does I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from hosting.dataplane.bridges.to_legacy.answers import ServerError, params_in, text_in
from hosting.dataplane.bridges.to_legacy.requests import RawObject
from hosting.dataplane.protocol.era import META_PREFIX
from hosting.dataplane.protocol.errors import JsonRpcId
from hosting.dataplane.sessions.session import CAPABILITIES

ELICIT, SAMPLE, ROOTS = "elicitation/create", "sampling/createMessage", "roots/list"
QUESTIONS = frozenset((ELICIT, SAMPLE, ROOTS))
MAX_ASKS = 32  # that one call may have open at once
MAX_ASKS_BYTES = 1024 * 1024  # of them together: a call waits with them for as long as its client likes
_NOT_SAID = frozenset({"elicitationId", "task", "_meta"})

ServerId = str | int | float | None


@dataclass(frozen=True, slots=True)
class Ask:
    """One question of a server's. `id` is the server's."""

    id: ServerId
    method: str
    params: RawObject
    requires: dict[str, Any]  # of a client's capabilities
    size: int = 0  # bytes

    @property
    def input_request(self) -> dict[str, Any]:
        return (
            {"method": self.method, "params": self.params}
            if self.params or self.method != ROOTS
            else {"method": ROOTS}
        )


def read_ask(raw: bytes, request_id: ServerId, method: str) -> Ask | None:
    """None for what cannot be asked of a modern client."""
    if method not in QUESTIONS:
        return None
    params = params_in(raw)
    return Ask(request_id, method, _sayable(params), _requires(method, params), len(raw))


def _sayable(params: RawObject) -> RawObject:
    kept = {name: value for name, value in params.items() if name not in _NOT_SAID}
    if "_meta" in params:
        try:
            meta = msgspec.json.decode(params["_meta"], type=RawObject)
        except msgspec.MsgspecError:
            return kept
        meta = {
            name: value
            for name, value in meta.items()
            if name != "progressToken" and not name.startswith(META_PREFIX)
        }
        if meta:
            kept["_meta"] = msgspec.Raw(msgspec.json.encode(meta))
    return kept


def _requires(method: str, params: RawObject) -> dict[str, Any]:
    if method == ROOTS:
        return {"roots": {}}
    if method == SAMPLE:
        return {"sampling": {"tools": {}} if "tools" in params or "toolChoice" in params else {}}
    return {"elicitation": {"url": {}} if text_in(params, "mode") == "url" else {"form": {}}}


def is_declared(requires: dict[str, Any], bits: int) -> bool:
    """Whether a client with these capability bits may be asked. `elicitation` without a mode means forms."""
    has = {name for bit, name in enumerate(CAPABILITIES) if bits & 1 << bit}
    if requires == {"elicitation": {"form": {}}}:
        return "elicitation" in has and ("elicitation.form" in has or "elicitation.url" not in has)
    return all(
        outer in has and all(f"{outer}.{inner}" in has for inner in inners)
        for outer, inners in requires.items()
    )


def input_required(request_id: JsonRpcId, asks: dict[str, Ask], state: str) -> bytes:
    """The whole answer."""
    result = {
        "resultType": "input_required",
        "inputRequests": {key: ask.input_request for key, ask in asks.items()},
        "requestState": state,
    }
    return msgspec.json.encode({"jsonrpc": "2.0", "id": request_id, "result": result})


def answer_body(ask: Ask, response: msgspec.Raw) -> bytes:
    """A client's response, as the answer to the server's question."""
    return msgspec.json.encode({"jsonrpc": "2.0", "id": ask.id, "result": _legacy_response(response)})


def _legacy_response(response: msgspec.Raw) -> Any:
    try:
        told = msgspec.json.decode(response, type=RawObject)
    except msgspec.MsgspecError:
        return response
    return {name: value for name, value in told.items() if name != "resultType"}


def is_response(response: msgspec.Raw) -> bool:
    """Whether it can be an answer: an object."""
    return bytes(response).lstrip()[:1] == b"{"


def refusal_body(request_id: ServerId, code: int, message: str) -> bytes:
    return msgspec.json.encode(
        {"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": message}}
    )


def pong_body(request_id: ServerId) -> bytes:
    return msgspec.json.encode({"jsonrpc": "2.0", "id": request_id, "result": {}})


class _Required(msgspec.Struct):
    elicitations: list[RawObject]


def url_asks(error: ServerError) -> dict[str, Ask]:
    """What a server wants done at some URLs before it carries a call out (-32042). Empty when it does not say."""
    try:
        given = msgspec.json.decode(error.data, type=_Required).elicitations if error.data else []
    except msgspec.MsgspecError:
        given = []
    url = msgspec.Raw(b'"url"')
    return {
        f"url-{at}": Ask(None, ELICIT, {**_sayable(params), "mode": url}, {"elicitation": {"url": {}}})
        for at, params in enumerate(given[:MAX_ASKS], 1)
    }


def is_declined(keys: list[str], responses: RawObject) -> bool:
    """Whether one of these elicitations was answered with anything but acceptance."""
    return any(key in responses and text_in(_as_object(responses[key]), "action") != "accept" for key in keys)


def _as_object(raw: msgspec.Raw) -> RawObject:
    try:
        return msgspec.json.decode(raw, type=RawObject)
    except msgspec.MsgspecError:
        return {}
