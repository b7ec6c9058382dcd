"""Where MCP clients connect, and what to paste into them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from hosting.models import Environment
from hosting.schemas.servers import endpoint_of

#: With the Node.js it needs: an older Node makes npx take an older Inspector, which does not know these flags.
INSPECTOR: Final = "@modelcontextprotocol/inspector@2.12.0"
NODE: Final = "22.19"


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One Environment's address and ready-made client settings."""

    url: str
    config: str  # the `mcpServers` file most clients read
    command: str  # the Inspector, from a shell
    needs: str  # what that shell must have


def describe_endpoint(environment: Environment) -> Endpoint:
    """Needs `environment.server.tenant`. Production has the short address."""
    server = environment.server
    name = server.slug if environment.slug == "production" else f"{server.slug}~{environment.slug}"
    url = endpoint_of(server.tenant.slug, server.slug, environment.slug)
    needs_key = "public" not in environment.access
    entry: dict[str, object] = {"type": "http", "url": url}
    command = f"npx {INSPECTOR} --cli {url} --transport http --method tools/list"
    if needs_key:
        entry["headers"] = {"Authorization": "Bearer <API key with scope mcp:call>"}
        command += ' --header "Authorization: Bearer $SMCP_KEY"'
    config = json.dumps({"mcpServers": {name: entry}}, indent=2)
    return Endpoint(url=url, config=config, command=command, needs=f"Node.js {NODE} or newer")
