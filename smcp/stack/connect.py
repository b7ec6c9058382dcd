"""What a started stack tells its people: `var/stack.json` for programs, and on the screen how to connect a client."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any

from smcp.stack.config import Config
from smcp.stack.screen import Screen
from smcp.stack.secrets import Secrets

PROTOCOL = "2026-07-28"


def summarise(config: Config, secrets: Secrets, made: dict[str, Any]) -> dict[str, Any]:
    """The content of `var/stack.json`. `made` is what `manage.py demo` printed."""
    return {
        "api": config.public_url("api"),
        "console": config.public_url("console"),
        "gateway": config.public_url("gateway"),
        "gateway_admin": config.url("gateway_admin"),
        "installation": secrets.installation,
        "operator": made["operator"],
        "demo": made["demo"],
    }


def write_summary(path: Path, summary: dict[str, Any]) -> None:
    """In one step, and readable by its owner only: it holds a password and a key."""
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(summary, file, indent=2)
        file.write("\n")
    fresh.replace(path)


def welcome(screen: Screen, summary: dict[str, Any], config: Config, took_s: float) -> None:
    """Where everything is."""
    operator, demo = summary["operator"], summary["demo"]
    endpoint, key = str(demo["endpoint"]), str(demo["api_key"])
    client = {"mcpServers": {demo["server"]: client_entry(endpoint, key)}}
    curl = _curl(endpoint, key)
    list_tenants = f"curl {summary['api']}/api/v1/tenants -H 'authorization: Bearer {operator['api_key']}'"
    facts = {
        "Console": f"{summary['console']}  (sign in as {operator['email']}, password {operator['password']})",
        "REST API": f"{summary['api']}/api/v1/docs",
        "Gateway": summary["gateway"],
        "Demo server": endpoint,
        "Metrics": f"{summary['gateway_admin']}/metrics",
        "Data": f"{config.var}  (the same facts in stack.json, keys in secrets.json)",
    }
    connect = [
        ("Connect Claude, Cursor or another MCP client:", json.dumps(client, indent=2)),
        ("Or look at it with curl:", curl),
        ("Use the REST API as the operator:", list_tenants),
    ]
    if config.is_public:
        screen.complain(
            f"SMCP_BIND={config.bind}: the API, the console and the gateway can be reached from other machines, "
            "unencrypted. Put a proxy with TLS in front of them."
        )
    screen.welcome(facts, connect, took_s)


def client_entry(endpoint: str, key: str) -> dict[str, Any]:
    """As most clients' settings want it; some take an entry without `type` for a program to start."""
    return {"type": "http", "url": endpoint, "headers": {"Authorization": f"Bearer {key}"}}


def _curl(endpoint: str, key: str) -> str:
    """A command that lists the demo server's tools: one self-contained request of the protocol's 2026-07-28 revision."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": PROTOCOL,
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    request = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": meta}}
    headers = {
        "authorization": f"Bearer {key}",
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": PROTOCOL,
        "mcp-method": "tools/list",
    }
    flags = [flag for name, value in headers.items() for flag in ("-H", f"{name}: {value}")]
    return shlex.join(["curl", endpoint, *flags, "-d", json.dumps(request)])
