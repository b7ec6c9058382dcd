"""A legacy client's request in the words of the modern era, again for every round. Pure; of the client's JSON only the top is read.

Left out on the way: what the modern era reserves (`_meta.io.modelcontextprotocol/*`, answers and states of rounds), which only the
gateway may say here, and `task`, which no bridge carries. Trace context and vendors' keys go on. Sources: MCP 2026-07-28, Basic,
"Per-request protocol fields"; Transports, Streamable HTTP, "Standard headers".
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

import msgspec

from hosting.dataplane.eras.legacy import POST_HEADERS
from hosting.dataplane.eras.modern import NAMED_BY, encode_value
from hosting.dataplane.protocol.era import (
    META_CAPABILITIES,
    META_CLIENT,
    META_LEVEL,
    META_PREFIX,
    META_VERSION,
    MODERN_REVISIONS,
    PROTOCOL_VERSION_HEADER,
)
from hosting.dataplane.protocol.errors import INVALID_REQUEST, JsonRpcId, Refusal
from hosting.dataplane.sessions.session import Session, capabilities_of

REVISION = MODERN_REVISIONS[-1]
MAX_HEADER_VALUE = 8 * 1024
_NOT_CARRIED = frozenset({"_meta", "task", "inputResponses", "requestState"})
_encode = msgspec.json.Encoder().encode

Fields = dict[str, msgspec.Raw]


class _Request(msgspec.Struct):
    method: str
    id: str | int | None = None
    params: Fields = {}


@dataclass(frozen=True, slots=True)
class Client:
    """What a server is told of the client with every request. `capabilities` as in Session."""

    capabilities: int = 0
    name: str = ""
    version: str = ""


def client_of(session: Session) -> Client:
    return Client(session.capabilities, session.client_name, session.client_version)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. `id` is the client's; `upstream_id` that of this round."""

    id: JsonRpcId
    method: str
    params: Fields
    meta: Fields = field(default_factory=dict)
    upstream_id: JsonRpcId = None
    name: str = ""  # of what is called, got or read

    def again(self, answers: Fields | None, state: msgspec.Raw | None) -> Asked:
        """The next round: with the answers of the last one and its state, byte for byte."""
        params = {name: raw for name, raw in self.params.items() if name not in _NOT_CARRIED}
        if answers:
            params["inputResponses"] = msgspec.Raw(_encode(answers))
        if state is not None:
            params["requestState"] = state
        return replace(self, params=params, upstream_id=new_id())

    def body(self, client: Client, *, level: str = "") -> bytes:
        meta: dict[str, object] = {
            **self.meta,
            META_VERSION: REVISION,
            META_CAPABILITIES: _capabilities(client.capabilities),
        }
        if client.name:
            meta[META_CLIENT] = {"name": client.name, "version": client.version}
        if level:
            meta[META_LEVEL] = level
        params = {**self.params, "_meta": meta}
        message = {"jsonrpc": "2.0", "id": self.upstream_id, "method": self.method, "params": params}
        return _encode(message)

    def headers(self, extra: Mapping[str, str]) -> dict[str, str]:
        """Raises Refusal for a name that no header can carry."""
        headers = {**POST_HEADERS, PROTOCOL_VERSION_HEADER: REVISION, "mcp-method": encode_value(self.method)}
        if self.name:
            headers["mcp-name"] = encode_value(self.name)
        headers.update(extra)
        if any(len(value) > MAX_HEADER_VALUE for value in headers.values()):
            raise Refusal(INVALID_REQUEST, "a name or argument is too long for a header", request_id=self.id)
        return headers

    def arguments(self) -> object:
        """Of a call, decoded; None where there are none."""
        raw = self.params.get("arguments")
        return None if raw is None else decode_or_none(raw)


def read_asked(raw: bytes) -> Asked:
    """One request of a client, which `protocol/jsonrpc.py` has already checked. Raises Refusal."""
    try:
        request = _requests.decode(raw)
        meta = _fields.decode(request.params["_meta"]) if "_meta" in request.params else {}
    except (msgspec.MsgspecError, RecursionError):
        raise Refusal(INVALID_REQUEST, "params._meta must be an object") from None
    key = NAMED_BY.get(request.method)
    named = decode_or_none(request.params[key]) if key in request.params else None
    return Asked(
        id=request.id,
        method=request.method,
        params={name: value for name, value in request.params.items() if name not in _NOT_CARRIED},
        meta={name: value for name, value in meta.items() if not name.startswith(META_PREFIX)},
        upstream_id=request.id,
        name=named if isinstance(named, str) else "",
    )


def own_request(method: str, params: Mapping[str, object]) -> Asked:
    """A request of the gateway's own."""
    request_id = new_id()
    told = {name: msgspec.Raw(_encode(value)) for name, value in params.items()}
    return Asked(id=request_id, method=method, params=told, upstream_id=request_id)


def new_id() -> str:
    return f"smcp-{secrets.token_hex(8)}"


def decode_or_none(raw: bytes | msgspec.Raw) -> object:
    """Any JSON value; None also for what nests too deep, or says half a surrogate pair."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.MsgspecError, RecursionError):
        return None


@lru_cache(maxsize=1024)
def _capabilities(bits: int) -> msgspec.Raw:
    """As far as a modern server may rely on them: tasks cannot exist across a bridge."""
    declared = {name: value for name, value in capabilities_of(bits).items() if name != "tasks"}
    return msgspec.Raw(_encode(declared))


_requests = msgspec.json.Decoder(_Request)
_fields = msgspec.json.Decoder(Fields)
