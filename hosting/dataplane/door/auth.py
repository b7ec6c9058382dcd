"""Who is calling: an API key, a probe, or anybody where the Environment is public.

One hash and one look in a dict for a key; nothing is asked of anyone. The credential ends here: it is never sent upstream,
logged, or named in an answer. A key of another tenant is told the same as a key that does not exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hosting.dataplane.contract import PROBE_TOKEN_PREFIX, Route, digest_of_key, is_probe_token
from hosting.dataplane.facts.routes import Table
from hosting.dataplane.protocol.errors import FORBIDDEN, UNAUTHENTICATED, Headers, Refusal

CALL_SCOPE = "mcp:call"
KEY_PREFIX = "smcp_"
MAX_TOKEN = 512

CHALLENGE: Headers = (("www-authenticate", "Bearer"),)
INVALID_TOKEN: Headers = (("www-authenticate", 'Bearer error="invalid_token"'),)
INSUFFICIENT_SCOPE: Headers = (
    ("www-authenticate", f'Bearer error="insufficient_scope", scope="{CALL_SCOPE}"'),
)


@dataclass(frozen=True, slots=True)
class Caller:
    """The Principal of a request. `sticky` decides the bucket of a caller who has no session yet."""

    kind: Literal["api_key", "public", "probe"]
    principal: str
    sticky: str
    key_id: str = ""  # of an API key
    expires_at: float | None = None  # seconds since the epoch; None: until it is revoked


def authenticate(
    authorization: str | None, *, route: Route, table: Table, probe_key: bytes, client: str, now: float
) -> Caller:
    """Raises Refusal: 401 where a better credential would help, 403 where this one may not.

    `client` is the peer's address; public callers are spread over Releases by it, and told apart by nothing.
    """
    scheme, _, token = (authorization or "").partition(" ")
    token = token.strip()
    has_token = scheme.lower() == "bearer" and bool(token)
    if has_token and token.startswith(PROBE_TOKEN_PREFIX):
        if is_probe_token(token[:MAX_TOKEN], key=probe_key, environment=route.environment, now=now):
            return Caller("probe", "probe", "probe")
        raise Refusal(UNAUTHENTICATED, "this probe token is not valid here", headers=INVALID_TOKEN)
    if has_token and token.startswith(KEY_PREFIX):
        if "api_key" in route.access:
            return _by_key(token, route=route, table=table, now=now)
        if "public" not in route.access:
            raise Refusal(FORBIDDEN, "API keys are not accepted by this server", headers=INSUFFICIENT_SCOPE)
    if "public" in route.access:
        return Caller("public", "public", f"public:{client}")
    if authorization:
        raise Refusal(UNAUTHENTICATED, headers=INVALID_TOKEN)
    raise Refusal(UNAUTHENTICATED, headers=CHALLENGE)


def _by_key(token: str, *, route: Route, table: Table, now: float) -> Caller:
    credential = table.credential(digest_of_key(token)) if len(token) <= MAX_TOKEN else None
    if credential is None or credential.tenant != route.tenant:
        raise Refusal(UNAUTHENTICATED, "this API key is not valid here", headers=INVALID_TOKEN)
    if credential.expires_at is not None and credential.expires_at <= now:
        raise Refusal(UNAUTHENTICATED, "this API key has expired", headers=INVALID_TOKEN)
    if CALL_SCOPE not in credential.scopes:
        raise Refusal(FORBIDDEN, f"this API key lacks the scope {CALL_SCOPE}", headers=INSUFFICIENT_SCOPE)
    if credential.environments and route.environment not in credential.environments:
        raise Refusal(FORBIDDEN, "this API key is not for this environment", headers=INSUFFICIENT_SCOPE)
    principal = f"key:{credential.id}"
    return Caller("api_key", principal, principal, credential.id, credential.expires_at)
