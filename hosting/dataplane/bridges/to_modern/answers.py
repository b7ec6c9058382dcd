"""A modern server's answer, as a legacy client may hear it. Pure; of a result only the top is read.

Stripped: `resultType`, `ttlMs`, `cacheScope`, `_meta.io.modelcontextprotocol/*`. A result that is not complete is either a wish for
input, or nothing a legacy client could understand. Errors of the modern era about what the gateway itself wrote become
-32603. What stands in the way of a tool call is told as its result, so that a model reads it: anything else is an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from hosting.dataplane.bridges.to_modern.asked import Asked, Fields
from hosting.dataplane.protocol.era import META_PREFIX, META_SUBSCRIPTION, Spoken
from hosting.dataplane.protocol.errors import error_body

HEADER_MISMATCH = -32020
MISSING_CAPABILITY = -32021
UNSUPPORTED_VERSION = -32022
METHOD_NOT_FOUND = -32601
INTERNAL = -32603
ASKING_METHODS = frozenset({"tools/call", "prompts/get", "resources/read"})
MAX_QUESTIONS = 32  # of one round
_STRIPPED = ("resultType", "ttlMs", "cacheScope")
_encode = msgspec.json.Encoder().encode


class Error(msgspec.Struct, omit_defaults=True):
    """A JSON-RPC error; `data` unread."""

    code: int
    message: str = ""
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True, slots=True)
class InputRequired:
    """What a server wants to know before it goes on. No questions: it only wants to be asked again."""

    questions: Fields
    state: msgspec.Raw | None


class Unanswerable(Exception):
    """The request cannot come to its answer; the text is for the client's user."""


def error_of(spoken: Spoken) -> Error | None:
    """None where the message is no error; an unreadable one is INTERNAL."""
    if spoken.error is msgspec.UNSET:
        return None
    try:
        return msgspec.json.decode(spoken.error, type=Error)
    except msgspec.MsgspecError:
        return Error(INTERNAL, "the server's error is not JSON-RPC")


def conclude(asked: Asked, spoken: Spoken) -> Fields | InputRequired | Error:
    """What an answer means: the result without what legacy clients do not know, a wish for input, or an error.

    Raises Unanswerable.
    """
    error = error_of(spoken)
    if error is not None:
        if error.code == MISSING_CAPABILITY:
            raise Unanswerable(f"the server needs what this client cannot do: {error.message or error.code}")
        if error.code in {HEADER_MISMATCH, UNSUPPORTED_VERSION}:
            return Error(INTERNAL, "the server did not understand the gateway")
        return error
    assert isinstance(spoken.result, msgspec.Raw)
    try:
        fields = _fields.decode(spoken.result)
        kind = msgspec.json.decode(fields["resultType"], type=str) if "resultType" in fields else "complete"
    except msgspec.MsgspecError:
        return Error(INTERNAL, "the server's result is not MCP")
    if kind == "input_required" and asked.method in ASKING_METHODS:
        return _input_required(fields)
    if kind != "complete":
        return Error(INTERNAL, "the server's result is of a kind this client cannot take")
    return stripped(fields)


def stripped(fields: Fields) -> Fields:
    for name in _STRIPPED:
        fields.pop(name, None)
    if "_meta" in fields:
        meta = without_reserved(fields.pop("_meta"))
        if meta:
            fields["_meta"] = msgspec.Raw(_encode(meta))
    return fields


def without_reserved(raw: msgspec.Raw) -> Fields:
    """A `_meta` without the modern era's own keys; nothing of what is no object."""
    try:
        return {
            name: value for name, value in _fields.decode(raw).items() if not name.startswith(META_PREFIX)
        }
    except msgspec.MsgspecError:
        return {}


def _input_required(fields: Fields) -> InputRequired | Error:
    try:
        questions = _fields.decode(fields["inputRequests"]) if "inputRequests" in fields else {}
    except msgspec.MsgspecError:
        return Error(INTERNAL, "the server's questions are not MCP")
    if len(questions) > MAX_QUESTIONS:
        return Error(INTERNAL, f"the server asked more than {MAX_QUESTIONS} questions at once")
    state = fields.get("requestState")
    if not questions and state is None:
        return Error(INTERNAL, "the server wants input and does not say which")
    return InputRequired(questions, state)


def result_body(asked: Asked, fields: Fields | dict[str, Any]) -> bytes:
    return _encode({"jsonrpc": "2.0", "id": asked.id, "result": fields})


def body_of_error(asked: Asked, error: Error) -> bytes:
    return _encode({"jsonrpc": "2.0", "id": asked.id, "error": error})


def body_of_unanswerable(asked: Asked, reason: str) -> bytes:
    if asked.method != "tools/call":
        return error_body(asked.id, INTERNAL, reason)
    return result_body(asked, {"content": [{"type": "text", "text": reason}], "isError": True})


def without_subscription(raw: bytes) -> bytes:
    """A notification without the mark of the listen it came on. Untouched where there is none."""
    if META_SUBSCRIPTION.encode() not in raw and b"\\" not in raw:
        return raw
    try:
        message = _fields.decode(raw)
        params = _fields.decode(message["params"])
        meta = without_reserved(params.pop("_meta"))
    except (msgspec.MsgspecError, KeyError):
        return raw
    if meta:
        params["_meta"] = msgspec.Raw(_encode(meta))
    return _encode({**message, "params": params})


_fields = msgspec.json.Decoder(Fields)
