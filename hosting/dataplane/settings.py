"""What a gateway process is told by its environment, read once at the start.

Everything a node must agree on with its neighbours (key rings, installation, domain) and what is its own (ports, where it
keeps its last good routes). A missing or malformed value is one sentence naming the variable, never its content.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from hosting.dataplane.contract import parse_keyring, unb64url
from hosting.dataplane.remotes import NONE_ALLOWED, Allowed, parse_allowed


class SettingsError(Exception):
    """The environment does not describe a gateway; the message is for the operator."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One gateway process. Times in seconds, sizes in bytes."""

    installation: str
    node: str
    redis_url: str
    sealing_keys: dict[str, bytes]  # the first seals sessions, all of them open
    dispatch_keys: dict[str, bytes]  # Ed25519 seeds, the first signs assertions
    probe_key: bytes
    url: str  # how clients reach the shared host
    domain: str  # per-server hosts are labels under it
    hosts: frozenset[str]  # further names of the shared host
    host: str
    port: int
    admin_host: str
    admin_port: int
    state_dir: Path
    drain_s: float = 25.0
    keepalive_s: float = 20.0
    report_window_s: float = 10.0
    session_idle_s: float = 24 * 3600.0  # a session that nobody used for this long is over
    body_timeout_s: float = 30.0
    stalled_client_s: float = 60.0
    question_s: float = 600.0  # for a client's user to answer what a server asks
    bridge_idle_s: float = (
        300.0  # a session with a legacy server that no modern client used for so long is ended
    )
    bridge_park_s: float = 600.0  # how long a call waits for its modern client's input
    max_in_flight: int = 20_000
    max_tenant_in_flight: int = 5_000  # requests that have a place; a fifth as many more may wait for one
    max_tenant_streams: int = 10_000  # that only listen
    max_held_bytes: int = 512 * 1024 * 1024  # of requests and answers that are held in memory
    max_tenant_held_bytes: int = 64 * 1024 * 1024
    remote_allow: Allowed = NONE_ALLOWED  # private places that servers elsewhere may be at
    remote_connections: int = 256  # of one tenant to one host elsewhere
    name_servers: tuple[str, ...] = ()  # asked for their names instead of the system's
    max_tenant_logged_bytes: int = 64 * 1024 * 1024  # in Redis, of streams that clients may resume
    log_level: str = "INFO"

    @property
    def shared_hosts(self) -> frozenset[str]:
        """Names under which the shared host is addressed; loopback names count when the gateway's URL is one."""
        own = urlsplit(self.url).hostname or ""
        names = {own, self.domain, *self.hosts}
        return frozenset(names | LOOPBACK_HOSTS if own in LOOPBACK_HOSTS else names)

    @property
    def is_local(self) -> bool:
        """Clients reach this gateway on the machine itself: browsers' tools on loopback origins are our own."""
        return (urlsplit(self.url).hostname or "") in LOOPBACK_HOSTS


MIN_IN_FLIGHT = 10
MIN_HELD_BYTES = 1024 * 1024
LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})


def waiting_of(places: int) -> int:
    """How many requests of a tenant may wait when it may have so many in flight."""
    return max(1, places // 5)


def read_settings(env: Mapping[str, str] | None = None) -> Settings:
    """Raises SettingsError."""
    values = os.environ if env is None else env

    def text(name: str, default: str | None = None) -> str:
        value = values.get(name, "").strip() or default
        if value is None:
            raise SettingsError(f"{name} is not set")
        return value

    def number(name: str, default: float, *, at_least: float = 0) -> float:
        try:
            value = float(text(name, str(default)))
        except ValueError:
            raise SettingsError(f"{name} is not a number") from None
        if value < at_least:
            raise SettingsError(f"{name} is below {at_least:g}")
        return value

    def keyring(name: str) -> dict[str, bytes]:
        try:
            return parse_keyring(text(name))
        except ValueError as exc:
            raise SettingsError(f"{name}: {exc}") from None

    try:
        probe_key = unb64url(text("SMCP_PROBE_KEY"))
    except ValueError:
        probe_key = b""
    if len(probe_key) != 32:
        raise SettingsError("SMCP_PROBE_KEY is not base64url of 32 bytes")
    url = text("SMCP_GATEWAY_URL", "http://127.0.0.1:8080").rstrip("/")
    if urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname:
        raise SettingsError("SMCP_GATEWAY_URL is not an http or https URL")
    try:
        remote_allow = parse_allowed(values.get("SMCP_GATEWAY_REMOTE_ALLOW", ""))
    except ValueError as exc:
        raise SettingsError(f"SMCP_GATEWAY_REMOTE_ALLOW: {exc}") from None
    log_level = text("SMCP_LOG_LEVEL", "INFO").upper()
    if log_level not in logging.getLevelNamesMapping():
        raise SettingsError("SMCP_LOG_LEVEL is no level: DEBUG, INFO, WARNING or ERROR")
    max_in_flight = int(number("SMCP_GATEWAY_MAX_IN_FLIGHT", 20_000, at_least=MIN_IN_FLIGHT))
    max_requests = int(number("SMCP_GATEWAY_MAX_TENANT_IN_FLIGHT", max_in_flight // 4, at_least=1))
    max_streams = int(number("SMCP_GATEWAY_MAX_TENANT_STREAMS", max_in_flight // 2, at_least=1))
    if max_requests + waiting_of(max_requests) + max_streams >= max_in_flight:
        raise SettingsError(
            "SMCP_GATEWAY_MAX_TENANT_IN_FLIGHT (and a fifth of it) with SMCP_GATEWAY_MAX_TENANT_STREAMS"
            " must stay below SMCP_GATEWAY_MAX_IN_FLIGHT, or one tenant could take every place"
        )
    return Settings(
        installation=text("SMCP_INSTALLATION"),
        node=text("SMCP_NODE_ID", f"{socket.gethostname()}-{secrets.token_hex(3)}"),
        redis_url=text("SMCP_DATAPLANE_REDIS_URL", values.get("REDIS_URL", "").strip() or None),
        sealing_keys=keyring("SMCP_DATAPLANE_KEYS"),
        dispatch_keys=keyring("SMCP_DISPATCH_KEYS"),
        probe_key=probe_key,
        url=url,
        domain=text("SMCP_GATEWAY_DOMAIN", "mcp.localhost").lower().rstrip("."),
        hosts=frozenset(name for name in text("SMCP_GATEWAY_HOSTS", ",").lower().split(",") if name),
        host=text("SMCP_GATEWAY_HOST", "127.0.0.1"),
        port=int(number("SMCP_GATEWAY_PORT", 8080)),
        admin_host=text("SMCP_GATEWAY_ADMIN_HOST", "127.0.0.1"),
        admin_port=int(number("SMCP_GATEWAY_ADMIN_PORT", 9090)),
        state_dir=Path(text("SMCP_GATEWAY_STATE_DIR", "var/gateway")),
        drain_s=number("SMCP_GATEWAY_DRAIN_S", 25),
        keepalive_s=number("SMCP_GATEWAY_KEEPALIVE_S", 20, at_least=0.1),
        report_window_s=number("SMCP_GATEWAY_REPORT_WINDOW_S", 10, at_least=0.1),
        session_idle_s=number("SMCP_GATEWAY_SESSION_IDLE_S", 24 * 3600, at_least=1),
        body_timeout_s=number("SMCP_GATEWAY_BODY_TIMEOUT_S", 30, at_least=0.1),
        stalled_client_s=number("SMCP_GATEWAY_STALLED_CLIENT_S", 60, at_least=0.1),
        question_s=number("SMCP_GATEWAY_QUESTION_S", 600, at_least=0.1),
        max_in_flight=max_in_flight,
        max_tenant_in_flight=max_requests,
        max_tenant_streams=max_streams,
        bridge_idle_s=number("SMCP_GATEWAY_BRIDGE_IDLE_S", 300, at_least=0.1),
        bridge_park_s=number("SMCP_GATEWAY_BRIDGE_PARK_S", 600, at_least=0.1),
        max_held_bytes=int(number("SMCP_GATEWAY_MAX_HELD_BYTES", 512 * 1024 * 1024, at_least=MIN_HELD_BYTES)),
        max_tenant_held_bytes=int(
            number("SMCP_GATEWAY_MAX_TENANT_HELD_BYTES", 64 * 1024 * 1024, at_least=MIN_HELD_BYTES)
        ),
        remote_allow=remote_allow,
        remote_connections=int(number("SMCP_GATEWAY_REMOTE_CONNECTIONS", 256, at_least=1)),
        name_servers=tuple(name for name in text("SMCP_GATEWAY_NAME_SERVERS", ",").split(",") if name),
        max_tenant_logged_bytes=int(number("SMCP_GATEWAY_MAX_TENANT_LOGGED_BYTES", 64 * 1024 * 1024)),
        log_level=log_level,
    )
