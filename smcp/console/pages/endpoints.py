"""Where MCP clients connect, and what to paste into them."""

from __future__ import annotations

import json
from dataclasses import dataclass

from hosting.models import Environment
from hosting.schemas.servers import endpoint_of


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One Environment's address and ready-made client settings."""

    url: str
    config: str  # the `mcpServers` file most clients read
    command: str  # the inspector, from a shell


def describe_endpoint(environment: Environment) -> Endpoint:
    """Needs `environment.server.tenant`. Production has the short address."""
    server = environment.server
    name = server.slug if environment.slug == "production" else f"{server.slug}~{environment.slug}"
    url = endpoint_of(server.tenant.slug, server.slug, environment.slug)
    needs_key = "public" not in environment.access
    entry: dict[str, object] = {"type": "http", "url": url}
    command = f"npx @modelcontextprotocol/inspector --cli {url} --transport http --method tools/list"
    if needs_key:
        entry["headers"] = {"Authorization": "Bearer <API key with scope mcp:call>"}
        command += ' --header "Authorization: Bearer $SMCP_KEY"'
    return Endpoint(url=url, config=json.dumps({"mcpServers": {name: entry}}, indent=2), command=command)
