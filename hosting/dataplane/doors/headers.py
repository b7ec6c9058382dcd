"""What of a request and an answer passes between a client and a server's own paths: allow-lists, built from nothing.

Tenants answer on our origins, and their clients carry credentials of ours. So no credential and no cookie passes in either
direction (all tenants' hosts share one registrable domain: a cookie one of them sets, or reads, could be another's), nothing that
names who forwarded what, nothing about CORS (the gateway's own policy stands), nothing that outlives the answer in a browser.
Redirects pass where they stay on the host they came from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from hosting.dataplane.contract import Dispatch, Target
from hosting.dataplane.facts.addresses import RESERVED
from hosting.dataplane.protocol.errors import (
    BAD_HEADER,
    BAD_PATH,
    KEY_IN_QUERY,
    UNKNOWN_ADDRESS,
    UPSTREAM_DENIED,
    Headers,
    Refusal,
)

REQUEST_HEADERS = frozenset(
    {
        "accept", "accept-language", "cache-control", "content-encoding", "content-language", "content-type",
        "idempotency-key", "if-match", "if-modified-since", "if-none-match", "if-range", "if-unmodified-since",
        "last-event-id", "prefer", "range", "traceparent", "tracestate", "user-agent", "x-requested-with",
        # signatures of webhooks, which senders cannot put elsewhere
        "stripe-signature", "webhook-id", "webhook-signature", "webhook-timestamp", "x-github-delivery",
        "x-github-event", "x-hub-signature-256", "x-slack-request-timestamp", "x-slack-signature",
    }
)  # fmt: skip
ANSWER_HEADERS = frozenset(
    {
        "accept-ranges", "allow", "cache-control", "content-disposition", "content-encoding", "content-language",
        "content-range", "content-security-policy", "content-type", "cross-origin-embedder-policy",
        "cross-origin-opener-policy", "cross-origin-resource-policy", "deprecation", "etag", "expires",
        "last-modified", "referrer-policy", "retry-after", "sunset", "vary", "x-accel-buffering",
    }
)  # fmt: skip
MAX_QUERY = 8 * 1024
MAX_LOCATION = 2048
_METHOD = re.compile(r"[A-Z]{1,16}\Z")
_NO_METHODS = frozenset({"CONNECT", "TRACE", "TRACK"})  # these would tell a page what the request carried
# As RFC 3986 writes a path, so that no two readers can read it differently.
_PATH = re.compile(r"(?:/(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})*)+\Z")
_ENCODED = re.compile(r"%([0-9A-Fa-f]{2})")
_NEEDLESS = re.compile(rb"[\x00-\x1f\x7f/\\A-Za-z0-9._~-]")  # what nobody has to encode, and what nobody may
_VISIBLE = re.compile(r"[\x21-\x7e]+\Z")


def is_method(method: str) -> bool:
    return _METHOD.match(method) is not None and method not in _NO_METHODS


def check_path(path: str, targets: Iterable[Target]) -> None:
    """A path of the server's own, in the one form that everybody reads alike, and none of MCP's. Raises Refusal."""
    segments = path[1:].split("/")
    encoded = bytes(int(pair, 16) for pair in _ENCODED.findall(path))
    if not _PATH.match(path) or _NEEDLESS.search(encoded) or {".", ".."} & set(segments) or "//" in path:
        raise Refusal(BAD_PATH)
    if segments[0].partition(";")[0].lower() in RESERVED:
        raise Refusal(UNKNOWN_ADDRESS)
    for target in targets:
        theirs, given = target.path.lower().rstrip("/"), path.lower()
        if given.rstrip("/") == theirs or (theirs and given.startswith((f"{theirs}/", f"{theirs};"))):
            raise Refusal(UNKNOWN_ADDRESS)


def check_query(query: str, key_prefix: str) -> None:
    """It goes on as it is, so it must not hold a credential of ours. Raises Refusal."""
    if len(query) > MAX_QUERY or (query and not _VISIBLE.match(query)):
        raise Refusal(BAD_PATH, "the query is too long or malformed")
    if key_prefix in query:
        raise Refusal(KEY_IN_QUERY)


def request_headers(given: Mapping[str, str]) -> dict[str, str]:
    """Raises Refusal for a value that is none."""
    kept = {name: value for name, value in given.items() if name in REQUEST_HEADERS}
    for name, value in kept.items():
        if not value.replace("\t", " ").isprintable():
            raise Refusal(BAD_HEADER, f"the header {name} is malformed")
    return kept


def answer_headers(
    given: Iterable[tuple[str, str]], *, status: int, host: str, dispatch: Dispatch
) -> Headers:
    """`host` is the Host the client asked. Raises Refusal for a redirect that leaves it."""
    kept: list[tuple[str, str]] = []
    for name, value in given:
        lower = name.lower()
        if lower in ANSWER_HEADERS and value.replace("\t", " ").isprintable():
            kept.append((lower, value))
        elif lower == "location" and (300 <= status < 400 or status == 201):
            kept.append((lower, _location(value, host, dispatch)))
    return (*kept, ("x-content-type-options", "nosniff"))


def _location(value: str, host: str, dispatch: Dispatch) -> str:
    """A redirect without a host, so that it stays on the one the client asked. The server knows that one under another name: its own
    URL begins with the dispatcher's. Raises Refusal."""
    try:
        parts = urlsplit(value)
        netloc = parts.netloc.lower()
    except ValueError:
        netloc = "?"
    own = {host.lower(), dispatch.host.lower(), urlsplit(dispatch.url).netloc.lower()} - {""}
    is_clean = _VISIBLE.match(value) is not None and "\\" not in value and len(value) <= MAX_LOCATION
    if not is_clean or (netloc and netloc not in own) or (not netloc and (parts.scheme or value[:2] == "//")):
        raise Refusal(UPSTREAM_DENIED, "the server redirects to another host")
    if not netloc:
        return value
    rest = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
    return f"{'/' + rest.lstrip('/')}{'#' + parts.fragment if parts.fragment else ''}"
