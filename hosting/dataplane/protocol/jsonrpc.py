"""From the bytes of a body to MCP messages, refusing whatever two readers could read differently.

Refused: anything but UTF-8 JSON, NaN and Infinity, nesting deeper than MAX_DEPTH, an id or method that UTF-8 cannot say (half
a surrogate pair, which JSON can escape), and a key that stands twice in one of the top three levels (the message, its params,
and what stands in those): a server behind us might take the other copy than the one we checked. The body itself goes on unchanged.

An ordinary body is decoded whole; of a large one only what is looked at is (`skim.py`), with the same verdict.
"""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, Literal

from hosting.dataplane.protocol.errors import INVALID_REQUEST, PARSE_ERROR, JsonRpcId, Refusal
from hosting.dataplane.protocol.skim import Repeated, skim

MAX_DEPTH = 128
MAX_BATCH = 100
MAX_METHOD = 256
MAX_ID = 1024
LARGE_BYTES = (
    64 * 1024
)  # larger bodies are skimmed, in a thread: what they hold may be cheap to send and dear to build

_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
# One level in, one level out, as signed bytes. Which kind of bracket it is the decoder judges.
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_STEPS_AT_ONCE = 16 * 1024


@dataclass(frozen=True, slots=True)
class Message:
    """One JSON-RPC message. `method` is empty for a response; `id` is None for a notification."""

    kind: Literal["request", "notification", "response"]
    id: JsonRpcId
    method: str
    params: dict[str, Any]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    return made if len(made) == len(pairs) else Repeated(made)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_decoder = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse_constant)


def is_deeper_than(body: bytes, limit: int) -> bool:
    """Whether brackets nest deeper than `limit`, in time linear in the body. For what is no JSON the decoder has the last word."""
    if body.count(b"{") + body.count(b"[") <= limit:
        return False
    unescaped = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    brackets = b"".join(unescaped.split(b'"')[::2]).translate(_STEPS, _NOT_BRACKETS)
    steps, depth = memoryview(brackets).cast("b"), 0
    for at in range(0, len(steps), _STEPS_AT_ONCE):  # in pieces, so that other threads get their turn
        depths = list(accumulate(steps[at : at + _STEPS_AT_ONCE], initial=depth))
        if max(depths) > limit:
            return True
        depth = depths[-1]
    return False


def _decode(body: bytes) -> Any:
    if is_deeper_than(body, MAX_DEPTH):
        raise Refusal(PARSE_ERROR, f"the body is not JSON, or nests deeper than {MAX_DEPTH}")
    try:
        return _decoder.decode(body.decode())
    except (ValueError, RecursionError):
        raise Refusal(PARSE_ERROR) from None


def _repeats_a_key(value: Any, levels: int) -> bool:
    if isinstance(value, Repeated):
        return True
    if levels == 1:
        return False
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        if isinstance(item, dict | list) and _repeats_a_key(item, levels - 1):
            return True
    return False


def _is_sayable(text: str) -> bool:
    """Whether we can say it again: a lone surrogate cannot be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _message(value: Any) -> Message:
    if not isinstance(value, dict):
        raise Refusal(INVALID_REQUEST)
    given = value.get("id")
    request_id: JsonRpcId = given if isinstance(given, str | int) and not isinstance(given, bool) else None
    if isinstance(request_id, str) and len(request_id) > MAX_ID:
        raise Refusal(INVALID_REQUEST, "the id is too long")
    if isinstance(request_id, str) and not _is_sayable(request_id):
        raise Refusal(INVALID_REQUEST, "the id is not Unicode text")
    if value.get("jsonrpc") != "2.0":
        raise Refusal(INVALID_REQUEST, 'jsonrpc must be "2.0"', request_id=request_id)
    if _repeats_a_key(value, 3):
        raise Refusal(INVALID_REQUEST, "a key stands twice in one object", request_id=request_id)
    if "id" in value and request_id is None:
        raise Refusal(INVALID_REQUEST, "an id is a string or an integer")
    if "method" not in value:
        if request_id is None or ("result" in value) == ("error" in value):
            raise Refusal(INVALID_REQUEST, request_id=request_id)
        return Message("response", request_id, "", {})
    method = value["method"]
    params = value.get("params", {})
    if (
        not isinstance(method, str)
        or not 0 < len(method) <= MAX_METHOD
        or not _is_sayable(method)
        or "result" in value
        or "error" in value
    ):
        raise Refusal(INVALID_REQUEST, request_id=request_id)
    if not isinstance(params, dict):
        raise Refusal(INVALID_REQUEST, "params must be an object", request_id=request_id)
    return Message("notification" if request_id is None else "request", request_id, method, params)


def parse(body: bytes, *, gives_way: bool = False) -> Message | list[Message]:
    """One message, or a batch of at least one. Raises Refusal (-32700 or -32600).

    `params` of a body larger than LARGE_BYTES hold their names, and of their values what the gateway looks at.
    """
    if len(body) <= LARGE_BYTES:
        value = _decode(body)
    else:
        value = skim(body, max_depth=MAX_DEPTH, max_batch=MAX_BATCH, gives_way=gives_way)
    if not isinstance(value, list):
        return _message(value)
    if not 0 < len(value) <= MAX_BATCH:
        raise Refusal(INVALID_REQUEST, f"a batch holds 1 to {MAX_BATCH} messages")
    messages = [_message(item) for item in value]
    ids = [message.id for message in messages if message.kind == "request"]
    if len(set(ids)) != len(ids):
        raise Refusal(INVALID_REQUEST, "an id stands twice in the batch")
    return messages


# One thread: two would not parse faster, only keep the loop from its turn for longer.
_aside = ThreadPoolExecutor(max_workers=1, thread_name_prefix="parse")


async def parse_body(body: bytes, turn: asyncio.Lock) -> Message | list[Message]:
    """`parse`, in a thread for a large body. `turn` is the tenant's: its large bodies wait for each other, nobody for all of them."""
    if len(body) <= LARGE_BYTES:
        return parse(body)
    async with turn:
        return await asyncio.get_running_loop().run_in_executor(_aside, partial(parse, body, gives_way=True))
