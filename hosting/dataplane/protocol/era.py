"""Which era of MCP a request speaks, and the words both eras share.

Legacy revisions have a handshake and sessions; from 2026-07-28 on, every request stands alone and says in its body what it
is. The first match decides (rules, section 1): a protocol version in the body's `_meta` → modern, even for `initialize`; a
header naming anything but a legacy revision → modern; otherwise legacy.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec

from hosting.dataplane.contract import Era, Route, Target
from hosting.dataplane.protocol.errors import NOT_ACCEPTABLE, NOT_JSON, JsonRpcId, Refusal
from hosting.dataplane.protocol.jsonrpc import MAX_BATCH, Message

LEGACY_REVISIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
MODERN_REVISIONS = ("2026-07-28",)
BATCH_REVISION = "2025-03-26"
POLLING_REVISION = "2025-11-25"  # the first whose clients bear an event without data

USUAL_ACCEPT = 200  # characters of an Accept header that is worth remembering
PROTOCOL_VERSION_HEADER = "mcp-protocol-version"
SESSION_HEADER = "mcp-session-id"
META_PREFIX = "io.modelcontextprotocol/"  # of the keys the modern era reserves
META_VERSION = f"{META_PREFIX}protocolVersion"
META_CAPABILITIES = f"{META_PREFIX}clientCapabilities"
META_CLIENT = f"{META_PREFIX}clientInfo"
META_LEVEL = f"{META_PREFIX}logLevel"
META_SERVER = f"{META_PREFIX}serverInfo"
META_SUBSCRIPTION = f"{META_PREFIX}subscriptionId"

LISTEN = "subscriptions/listen"
LIST_METHODS = frozenset({"tools/list", "prompts/list", "resources/list", "resources/templates/list"})
PROBE_METHODS = LIST_METHODS | {"initialize", "notifications/initialized", "server/discover", "ping"}
REPEATABLE = LIST_METHODS | {
    "server/discover",
    "ping",
    "resources/read",
    "prompts/get",
    "completion/complete",
}


def meta_of(message: Message) -> Mapping[str, Any]:
    meta = message.params.get("_meta")
    return meta if isinstance(meta, dict) else {}


def era_of_headers(headers: Mapping[str, str]) -> Era:
    version = headers.get(PROTOCOL_VERSION_HEADER)
    return "legacy" if version is None or version in LEGACY_REVISIONS else "modern"


def era_of(parsed: Message | list[Message], headers: Mapping[str, str]) -> Era:
    first = parsed[0] if isinstance(parsed, list) else parsed
    return "modern" if META_VERSION in meta_of(first) else era_of_headers(headers)


def bridges_modern(route: Route, target: Target) -> bool:
    """Whether modern clients reach a server that speaks only legacy revisions. Where the tenant has not said: unless the server opens
    sessions of its own, since clients of both eras prefer the modern one and would lose them (rules, section 1)."""
    if "modern" in target.eras or route.modern_clients == "decline":
        return False
    return route.modern_clients == "bridge" or not target.issues_sessions


def supported_revisions(route: Route) -> tuple[str, ...]:
    """What a modern request is told that the servers behind a Route speak: modern revisions, as their own `server/discover` has it;
    where they speak none, the legacy ones, so that a client of both eras initializes."""
    is_modern = any("modern" in target.eras or bridges_modern(route, target) for target in route.targets)
    return MODERN_REVISIONS if is_modern else LEGACY_REVISIONS


def check_post_headers(headers: Mapping[str, str]) -> None:
    """Content-Type and Accept of a POST, both eras. Raises Refusal (415, 406)."""
    check_content_type(headers)
    accept = headers.get("accept")
    if not (accepts(accept, "application", "json") and accepts(accept, "text", "event-stream")):
        raise Refusal(NOT_ACCEPTABLE)


def check_content_type(headers: Mapping[str, str]) -> None:
    """Raises Refusal (415)."""
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refusal(NOT_JSON)


def accepts(accept: str | None, kind: str, subtype: str) -> bool:
    """Whether an Accept header allows a media type; wildcards and a missing header allow it (RFC 9110, 12.5.1)."""
    if accept is None or accept == "*/*":
        return True
    told = _ranges(accept) if len(accept) <= USUAL_ACCEPT else _ranges.__wrapped__(accept)
    return "*/*" in told or f"{kind}/*" in told or f"{kind}/{subtype}" in told


@lru_cache(maxsize=1000)  # clients say the same ever again
def _ranges(accept: str) -> frozenset[str]:
    return frozenset(part.partition(";")[0].strip().lower() for part in accept.split(","))


class Spoken(msgspec.Struct):
    """As much of a server's message as the gateway must know; the rest is neither parsed nor changed."""

    jsonrpc: str
    id: str | int | float | None = None
    method: str | None = None
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET

    @property
    def is_answer(self) -> bool:
        return self.method is None and (self.result is not msgspec.UNSET) != (self.error is not msgspec.UNSET)

    def answers(self, request_id: JsonRpcId) -> bool:
        return (
            self.is_answer
            and self.id == request_id
            and isinstance(self.id, str) == isinstance(request_id, str)
        )


_spoken = msgspec.json.Decoder(Spoken)
# Not a list: that would be built to its end before it is counted. This array is refused at the first item too many.
_Batch = msgspec.defstruct(
    "_Batch",
    [(f"at{at}", Spoken | msgspec.UnsetType, msgspec.UNSET) for at in range(MAX_BATCH)],
    array_like=True,
    forbid_unknown_fields=True,
)
_batch = msgspec.json.Decoder(_Batch)


def hear(data: bytes) -> list[Spoken]:
    """The messages of a body or an event: one, or those of a batch (MAX_BATCH). Raises msgspec.MsgspecError.

    All of it is UTF-8: what is left unread here can be read later.
    """
    try:
        if not data.isascii():
            data.decode()
        if data.lstrip()[:1] == b"[":
            told = msgspec.structs.astuple(_batch.decode(data))
            return [message for message in told if message is not msgspec.UNSET]
        return [_spoken.decode(data)]
    except RecursionError as exc:
        raise msgspec.DecodeError("nested too deep") from exc
    except UnicodeDecodeError as exc:
        raise msgspec.DecodeError("not UTF-8") from exc
