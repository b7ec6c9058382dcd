"""Everything the gateway itself can answer instead of the server behind it, in one table.

    Refusal            an answer: HTTP status, JSON-RPC error, headers
      .kind            one row of the table below

The rows' names are the closed list of outcomes in the metrics. A message never carries a credential or another tenant's text.
Codes: JSON-RPC 2.0; -32001 as the SDKs use it for sessions; -320xx of MCP 2026-07-28; -32000 is ours for everything about
access and capacity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

JsonRpcId = str | int | None
Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Kind:
    """One row: the outcome's name, the HTTP status, the JSON-RPC code and what it says unless told better."""

    outcome: str
    status: int
    code: int
    message: str


class Refusal(Exception):
    """Raised anywhere between the first header and the last; becomes the answer."""

    def __init__(
        self,
        kind: Kind,
        message: str = "",
        *,
        request_id: JsonRpcId = None,
        data: Any = None,
        headers: Headers = (),
        status: int = 0,
    ) -> None:
        super().__init__(message or kind.message)
        self.kind = kind
        self.status = status or kind.status
        self.message = message or kind.message
        self.request_id = request_id
        self.data = data
        self.headers = headers

    def body(self) -> bytes:
        error: dict[str, Any] = {"code": self.kind.code, "message": self.message}
        if self.data is not None:
            error["data"] = self.data
        return _encode({"jsonrpc": "2.0", "id": self.request_id, "error": error})

    def problem(self) -> bytes:
        """For whoever does not speak JSON-RPC: application/problem+json (RFC 9457)."""
        return _encode({"title": self.kind.message, "status": self.status, "detail": self.message})


_encode = msgspec.json.Encoder().encode


RETRY_SOON: Headers = (("retry-after", "1"),)

# The address
UNKNOWN_HOST = Kind("unknown_host", 421, -32000, "this host is not served here")
UNKNOWN_ADDRESS = Kind("unknown_address", 404, -32000, "there is no MCP server at this address")
SUSPENDED = Kind("suspended", 403, -32000, "this server is suspended")
NOTHING_DEPLOYED = Kind("nothing_deployed", 503, -32603, "nothing is deployed at this address yet")
STARTING = Kind("starting", 503, -32603, "the gateway does not know its routes yet")
DRAINING = Kind("draining", 503, -32603, "this gateway is shutting down")

# The caller
BAD_ORIGIN = Kind("bad_origin", 403, -32000, "this Origin may not call this server")
UNAUTHENTICATED = Kind("unauthenticated", 401, -32000, "an API key is needed: Authorization: Bearer smcp_…")
FORBIDDEN = Kind("forbidden", 403, -32000, "this key may not call this server")
PROBE_ONLY_LOOKS = Kind("forbidden", 403, -32000, "a probe may only initialize, discover and list")
ACCESS_ENDED = Kind("access_ended", 403, -32000, "access to this server has ended")
BUSY = Kind("busy", 429, -32000, "too many requests are in flight for this server")
OVERLOADED = Kind("overloaded", 503, -32603, "too many requests are in flight on this gateway")
TENANT_BUSY = Kind("busy", 429, -32000, "too many requests are in flight for this tenant")
HEAVY = Kind("busy", 429, -32000, "too many bytes are in flight for this server")
OVERLOADED_BYTES = Kind("overloaded", 503, -32603, "too many bytes are in flight on this gateway")

# The request
MALFORMED = Kind("malformed", 400, -32600, "the request is not HTTP/1.1 as it is framed here")
METHOD_NOT_ALLOWED = Kind("method_not_allowed", 405, -32000, "this method is not allowed here")
UPGRADE_NEEDED = Kind("method_not_allowed", 426, -32000, "this address is for WebSockets")
MISPLACED_UPGRADE = Kind("bad_request", 400, -32600, "there is no WebSocket at this address")
BAD_PATH = Kind("bad_request", 400, -32600, "this path is not in its canonical form")
KEY_IN_QUERY = Kind("bad_request", 400, -32600, "an API key belongs into the Authorization header")
REPEATED_HEADER = Kind("bad_request", 400, -32600, "a header that must stand once is repeated")
HEADERS_TOO_LARGE = Kind("headers_too_large", 431, -32600, "the headers are too many or too large")
BROKEN_BODY = Kind("broken_body", 400, -32600, "the request's body ended before its end")
BAD_HEADER = Kind("bad_request", 400, -32600, "a header is malformed")
NOT_ACCEPTABLE = Kind(
    "not_acceptable", 406, -32600, "Accept must allow application/json and text/event-stream"
)
NOT_JSON = Kind("not_json", 415, -32600, "Content-Type must be application/json")
TOO_LARGE = Kind("too_large", 413, -32600, "the request is too large")
SLOW_BODY = Kind("slow_body", 408, -32600, "the request's body did not arrive in time")
PARSE_ERROR = Kind("bad_request", 400, -32700, "the body is not JSON")
INVALID_REQUEST = Kind("bad_request", 400, -32600, "the body is not a JSON-RPC message of MCP")
INVALID_META = Kind(
    "bad_request", 400, -32602, "params._meta lacks what every request of this revision carries"
)
HEADER_MISMATCH = Kind("bad_request", 400, -32020, "a header does not agree with the body")
INVALID_PARAMS = Kind("bad_request", 200, -32602, "the request's params are not what its method takes")
METHOD_NOT_FOUND = Kind("bad_request", 404, -32601, "Method not found")
CAPABILITY_MISSING = Kind(
    "capability_missing", 400, -32021, "the server asks for what this client does not offer"
)
UNSUPPORTED_VERSION = Kind("bad_request", 400, -32022, "Unsupported protocol version")
SESSION_REQUIRED = Kind("bad_request", 400, -32600, "Mcp-Session-Id is required after initialize")
UNKNOWN_SESSION = Kind("unknown_session", 404, -32001, "Session not found")

# The server behind
UNREACHABLE = Kind("unreachable", 502, -32603, "the server cannot be reached")
ANSWER_TIMEOUT = Kind("answer_timeout", 504, -32603, "the server did not answer in time")
REMOTE_FORBIDDEN = Kind("remote_forbidden", 502, -32603, "the server's address is not public")
REMOTE_LOCKED = Kind("remote_locked", 502, -32603, "this gateway cannot open the server's configured headers")
REMOTE_LOOP = Kind("remote_loop", 508, -32603, "the server's address leads back to this gateway")
REMOTE_FULL = Kind("busy", 429, -32000, "too many connections to this server are in use")
BUDGET_SPENT = Kind("budget_spent", 504, -32603, "the server did not answer in the time this request had")
CIRCUIT_OPEN = Kind(
    "circuit_open", 503, -32603, "the server has been failing and is given a rest: the request was not sent"
)
UPSTREAM_FAILED = Kind("upstream_failed", 502, -32603, "the server failed")
UPSTREAM_DENIED = Kind("upstream_denied", 502, -32603, "the server refused the gateway's request")
UPSTREAM_MISSING = Kind("upstream_missing", 502, -32603, "the server's code is not there")
UPSTREAM_LIMITED = Kind("upstream_limited", 503, -32603, "the server reached a limit of its plan")
BROKEN_ANSWER = Kind("broken_answer", 502, -32603, "the server's answer is not MCP")
ANSWER_TOO_LARGE = Kind("answer_too_large", 502, -32603, "the server's answer is too large")
ANSWER_LOST = Kind(
    "answer_lost", 200, -32603, "the server has lost the session: whether the call was carried out is unknown"
)
EVENTS_GONE = Kind(
    "events_gone", 200, -32603, "this stream is not kept any more: what became of the call is unknown"
)
OWNER_GONE = Kind(
    "owner_gone",
    200,
    -32603,
    "the gateway that carried the call is gone: whether it was carried out is unknown",
)
ANSWER_NOT_KEPT = Kind("answer_not_kept", 200, -32603, "the answer was too large to be kept")
LOG_AWAY = Kind(
    "log_away",
    200,
    -32603,
    "what was kept of this stream cannot be read now: what became of the call is unknown",
)
OUTCOME_UNKNOWN = Kind(
    "answer_lost",
    200,
    -32603,
    "the call that waited for this input is gone: whether it was carried out is unknown",
)
SESSION_GONE = Kind(
    "session_gone",
    200,
    -32603,
    "the server has lost its session with what it kept in it; the call was not carried out",
)
INPUT_REFUSED = Kind("input_refused", 200, -32603, "the server needs something done that was not accepted")
ANSWER_CUT = Kind("answer_cut", 502, -32603, "the server's answer ended before its end")

INTERNAL = Kind("internal", 500, -32603, "the gateway failed; the error is recorded")


def error_body(request_id: JsonRpcId, code: int, message: str) -> bytes:
    """One JSON-RPC error, for the middle of a stream where no HTTP status can be given any more."""
    return _encode({"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": message}})
