"""Where a Route answers: every address it has, and which of them a request means.

    shared host      /{tenant}/{server}/mcp and /{tenant}/{server}~{environment}/mcp
    per-server host  {server}--{tenant}.<domain>/mcp and {server}--{environment}--{tenant}.<domain>/mcp

The environment `production` has both spellings. Addresses are whole strings, so finding a Route is one look in a dict however
many there are, and nothing is decoded: a path with `%`, `//` or a trailing slash is simply no address.
"""

from __future__ import annotations

import re

from hosting.dataplane.contract import Route

PRODUCTION = "production"
MCP_PATH = "/mcp"
MAX_LABEL = 63
_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\Z")
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?\Z")


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
    match = _HOST.match(text)
    return match[1].lower().strip("[]").rstrip(".") if match else None


class Hosts:
    """Which names this gateway answers to."""

    def __init__(self, *, shared: frozenset[str], domain: str) -> None:
        self._shared = shared
        self._suffix = f".{domain}"

    def address_of(self, host: str, path: str) -> str | None:
        """The address a request means, to be looked up among `addresses_of`; None: the host is not ours.

        Not every address exists: on a per-server host only MCP_PATH is one.
        """
        if host in self._shared:
            return path
        label = host.removesuffix(self._suffix)
        if label == host or "." in label or not label:
            return None
        return label if path == MCP_PATH else f"{label}{path}"
