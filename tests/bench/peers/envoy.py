"""Envoy, with its MCP filter alone (it reads every message) and with its MCP router behind it (it chooses the server by it)."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.bench.peers import Peer, environment, spawn, wait_until_it_answers
from tests.bench.peers.words import call, requests
from tests.parts import free_port

TYPES = "type.googleapis.com/envoy.extensions.filters"


def start_filter(stack: ExitStack, directory: Path, upstream: str) -> Peer:
    router = _filter("envoy.filters.http.router", f"{TYPES}.http.router.v3.Router")
    return _start(stack, directory, upstream, "envoy_mcp", router)


def start_router(stack: ExitStack, directory: Path, upstream: str) -> Peer:
    servers = [{"name": "stub", "mcp_cluster": {"cluster": "stub", "path": "/mcp"}}]
    router = _filter(
        "envoy.filters.http.mcp_router", f"{TYPES}.http.mcp_router.v3.McpRouter", servers=servers
    )
    return _start(stack, directory, upstream, "envoy_mcp_router", router)


def _start(stack: ExitStack, directory: Path, upstream: str, name: str, last: dict[str, Any]) -> Peer:
    program, port = environment("envoy") / "envoy", free_port()
    config = directory / f"{name}.json"
    config.write_text(json.dumps(_config(port, int(upstream.rpartition(":")[2]), last)))
    command = [str(program), "-c", str(config), "--concurrency", "1", "--log-level", "error"]
    pid = spawn(stack, directory, name, [*command, "--use-dynamic-base-id"])
    wait_until_it_answers(f"http://127.0.0.1:{port}/mcp", *call("legacy", "json"))
    return Peer(name, pid, port, requests("/mcp", "legacy", "modern"))


def _config(port: int, stub: int, last: dict[str, Any]) -> dict[str, Any]:
    route = {"match": {"prefix": "/mcp"}, "route": {"cluster": "stub"}}
    manager = {
        "@type": f"{TYPES}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "mcp",
        "codec_type": "HTTP1",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [_filter("envoy.filters.http.mcp", f"{TYPES}.http.mcp.v3.Mcp"), last],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    endpoint = {"lb_endpoints": [{"endpoint": {"address": _address(stub)}}]}
    cluster = {
        "name": "stub",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": "stub", "endpoints": [endpoint]},
    }
    listener = {"name": "front", "address": _address(port), "filter_chains": [chain]}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _filter(name: str, kind: str, **settings: Any) -> dict[str, Any]:
    return {"name": name, "typed_config": {"@type": kind, **settings}}
