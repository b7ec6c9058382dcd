"""Which web pages may call: the Origin check that keeps a page from using somebody's browser, and CORS for those who may.

Allowed are the gateway's own origins (and loopback ones when it serves the machine it runs on), the Environment's list, and
the web clients everybody uses. The Origin is judged here and never sent upstream: servers refuse those they do not know.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from hosting.dataplane.contract import Route
from hosting.dataplane.protocol.errors import BAD_ORIGIN, Headers, Refusal
from hosting.dataplane.settings import LOOPBACK_HOSTS, Settings

WELL_KNOWN_CLIENTS = frozenset({"https://claude.ai", "https://claude.com"})

EXPOSED = "Mcp-Session-Id, MCP-Protocol-Version, WWW-Authenticate, Retry-After, X-Request-Id"
ALLOWED_METHODS = "GET, POST, DELETE, OPTIONS"
OWN_PATHS_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
ALLOWED_HEADERS = "Authorization, Content-Type, Accept, Mcp-Session-Id, MCP-Protocol-Version, Mcp-Method, Mcp-Name, Last-Event-ID"


class Origins:
    """Judges the Origin header of requests to one gateway."""

    def __init__(self, settings: Settings) -> None:
        own = urlsplit(settings.url)
        self._scheme = own.scheme
        self._own = frozenset({f"{own.scheme}://{own.netloc}".lower()}) | WELL_KNOWN_CLIENTS
        self._is_local = settings.is_local

    def check(self, origin: str | None, *, host: str, route: Route) -> Headers:
        """The CORS headers of the answer, none without an Origin. `host` is the Host header. Raises Refusal."""
        if origin is None:
            return ()
        if not self._is_allowed(origin.lower(), host.lower(), route.allowed_origins):
            raise Refusal(BAD_ORIGIN)
        return (
            ("access-control-allow-origin", origin),
            ("access-control-expose-headers", EXPOSED),
            ("vary", "Origin"),
        )

    def _is_allowed(self, origin: str, host: str, listed: tuple[str, ...]) -> bool:
        if origin in self._own or origin in listed or "*" in listed:
            return True
        if origin == f"{self._scheme}://{host}":
            return True
        return self._is_local and _host_of(origin) in LOOPBACK_HOSTS


def _host_of(origin: str) -> str:
    try:
        return urlsplit(origin).hostname or ""
    except ValueError:
        return ""


def preflight(cors: Headers, requested_headers: str | None, *, own: frozenset[str] = frozenset()) -> Headers:
    """What a browser is told before it sends. Mcp-Param-* names come from tools, so they are allowed as they are asked for.

    `own` are the headers a server's own paths may be sent; empty at MCP's doors.
    """
    asked = [name.strip() for name in (requested_headers or "").split(",")]
    params = [
        name
        for name in asked[:50]
        if (name.lower().startswith("mcp-param-") and name.isascii() and len(name) < 100)
        or name.lower() in own
    ]
    return (
        *cors,
        ("access-control-allow-methods", OWN_PATHS_METHODS if own else ALLOWED_METHODS),
        ("access-control-allow-headers", ", ".join([ALLOWED_HEADERS, *params])),
        ("access-control-max-age", "600"),
    )
