"""ContextForge with one gateway registered, on SQLite, without authentication, interface, plugins and limits."""

from __future__ import annotations

import os
import secrets
from contextlib import ExitStack
from pathlib import Path

import httpx

from tests.bench.peers import START_S, Peer, environment, spawn
from tests.bench.peers.words import requests
from tests.parts import free_port
from tests.waiting import wait_for


def start(stack: ExitStack, directory: Path, upstream: str) -> Peer:
    port = free_port()
    program = str(environment("contextforge") / "mcpgateway")
    environ = {**os.environ, **_settings(directory)}
    pid = spawn(
        stack, directory, "contextforge", [program, "--host", "127.0.0.1", "--port", str(port)], environ
    )
    origin = f"http://127.0.0.1:{port}"

    def is_up() -> bool:
        try:
            return httpx.get(f"{origin}/health", timeout=10).status_code == 200
        except httpx.TransportError:
            return False

    wait_for(is_up, START_S, what="ContextForge to start")
    server = {"name": "stub", "url": f"{upstream}/mcp", "transport": "STREAMABLEHTTP"}
    httpx.post(f"{origin}/gateways", json=server, timeout=60).raise_for_status()
    made = requests("/mcp/", "legacy", prefix="stub-")
    return Peer("contextforge", pid, port, {key: made[key] for key in made if key[1] == "json"}, share=0.01)


def _settings(directory: Path) -> dict[str, str]:
    return {
        "DATABASE_URL": f"sqlite:///{directory}/contextforge.db",
        "AUTH_REQUIRED": "false",
        "ALLOW_UNAUTHENTICATED_ADMIN": "true",
        "SSRF_ALLOW_LOCALHOST": "true",
        "SSRF_ALLOW_PRIVATE_NETWORKS": "true",
        "MCPGATEWAY_UI_ENABLED": "false",
        "MCPGATEWAY_ADMIN_API_ENABLED": "false",
        "PLUGINS_ENABLED": "false",
        "CACHE_TYPE": "memory",
        "RATE_LIMITING_ENABLED": "false",
        "LOG_LEVEL": "ERROR",
        "JWT_SECRET_KEY": secrets.token_urlsafe(32),
        "AUTH_ENCRYPTION_SECRET": secrets.token_urlsafe(32),
        "BASIC_AUTH_PASSWORD": secrets.token_urlsafe(24),
        "PLATFORM_ADMIN_PASSWORD": f"Aa1!{secrets.token_urlsafe(24)}",
    }
