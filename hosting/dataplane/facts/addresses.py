"""Where a Route answers: every address it has, and which of them, and which door there, a request means.

    shared host      /{tenant}/{server}/mcp and /{tenant}/{server}~{environment}/mcp
    per-server host  {server}--{tenant}.<domain>/mcp and {server}--{environment}--{tenant}.<domain>/mcp

The environment `production` has both spellings. Beside `/mcp` stand the other doors:

    /sse, /sse/{id}       MCP 2024-11-05 (HTTP+SSE): the stream, and where its messages are posted to
    /mcp/v1/init, /mcp/v1/message, /mcp/v1/stream/{id}    other names for what /mcp does
    /ws                   WebSocket, to the server's own /ws
    anything else         on per-server hosts only: the server's own paths

Addresses are whole strings, so finding a Route is one look in a dict however many there are, and nothing is decoded: a path with
`%`, `//` or a trailing slash is simply no address.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal, NamedTuple

from hosting.dataplane.contract import Route

PRODUCTION = "production"
MCP_PATH = "/mcp"
WS_PATH = "/ws"
MAX_HOST = 255 + len(":65535")  # RFC 1035, 2.3.4, and a port
MAX_LABEL = 63
_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\Z")
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?\Z")
_ID = re.compile(r"[A-Za-z0-9._-]{1,512}\Z")

Door = Literal["mcp", "init", "message", "stream", "sse", "ws", "other"]
_DOORS: dict[str, Door] = {
    "mcp": "mcp",
    "mcp/v1/init": "init",
    "mcp/v1/message": "message",
    "sse": "sse",
    "ws": "ws",
}
_DOORS_WITH_ID: dict[str, Door] = {"sse": "sse", "mcp/v1/stream": "stream"}
RESERVED = frozenset({"mcp", "sse", "ws", ".well-known"})  # first segments that are never the server's own


class Knock(NamedTuple):
    """Where a request knocks: the address to look up, the door there, and what the path says behind it (an id, the server's path)."""

    address: str
    door: Door = "mcp"
    rest: str = ""


def is_slug(text: str) -> bool:
    """A DNS label without `--`, so that joined labels can be taken apart in one way only."""
    return len(text) <= MAX_LABEL and "--" not in text and _SLUG.match(text) is not None


def addresses_of(route: Route) -> list[str]:
    """All addresses, paths beginning with `/` and host labels without. Empty when a slug is no slug."""
    tenant, server, environment = route.tenant_slug, route.server_slug, route.environment_slug
    if not (is_slug(tenant) and is_slug(server) and is_slug(environment)):
        return []
    found = [f"/{tenant}/{server}~{environment}{MCP_PATH}"]
    labels = [f"{server}--{environment}--{tenant}"]
    if environment == PRODUCTION:
        found.append(f"/{tenant}/{server}{MCP_PATH}")
        labels.append(f"{server}--{tenant}")
    return found + [label for label in labels if len(label) <= MAX_LABEL]


def split_host(text: str) -> str | None:
    """The name in a Host header, lower case, without port or brackets; None when it is no host."""
    return _split_host(text) if len(text) <= MAX_HOST else None


@lru_cache(maxsize=10_000)
def _split_host(text: str) -> str | None:
    match = _HOST.match(text)
    return match[1].lower().strip("[]").rstrip(".") if match else None


class Hosts:
    """Which names this gateway answers to."""

    def __init__(self, *, shared: frozenset[str], domain: str) -> None:
        self._shared = shared
        self._suffix = f".{domain}"

    def knock_of(self, host: str, path: str) -> Knock | None:
        """What a request means, its address to be looked up among `addresses_of`; None: the host is not ours.

        Not every address exists: what is no door on the shared host is told as one that nobody has.
        """
        if host in self._shared:
            return _on_shared_host(path)
        label = host.removesuffix(self._suffix)
        if label == host or "." in label or not label:
            return None
        if path == MCP_PATH:
            return Knock(label)
        door, rest = _door_of(path[1:])
        return Knock(label, "other", path) if door is None else Knock(label, door, rest)


def _on_shared_host(path: str) -> Knock:
    if path.endswith(MCP_PATH):
        return Knock(path)
    before, _, inside = path.partition("/")
    tenant, _, inside = inside.partition("/")
    server, _, inside = inside.partition("/")
    door, rest = _door_of(inside)
    return Knock(path) if door is None or before else Knock(f"/{tenant}/{server}{MCP_PATH}", door, rest)


def _door_of(path: str) -> tuple[Door | None, str]:
    """The door a path without its first slash names, and the id behind it."""
    door = _DOORS.get(path)
    if door is not None:
        return door, ""
    before, _, last = path.rpartition("/")
    door = _DOORS_WITH_ID.get(before)
    return (door, last) if door is not None and _ID.match(last) else (None, "")
