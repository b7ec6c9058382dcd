"""What `make up` is told by its environment: where the data is, where to listen, and which parts are somebody else's.

SMCP_VAR_DIR      all state (default: var/ in the checkout)
SMCP_BIND         address the API, the console and the gateway listen on (default 127.0.0.1). Postgres, Redis, the edge
                  and the gateway's admin port stay on loopback whatever it says
SMCP_*_PORT       see PORTS
DATABASE_URL      a Postgres of your own; its role owns the tables. SMCP_APP_DATABASE_URL and SMCP_SYSTEM_DATABASE_URL
                  when it may not create roles
REDIS_URL         a Redis of your own
CLOUDFLARE_API_TOKEN, CLOUDFLARE_ACCOUNT_ID   a real account instead of the local edge
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from smcp.stack.errors import NotAllowed
from smcp.stack.install import ROOT

LOOPBACK = "127.0.0.1"
CLOUDFLARE = "https://api.cloudflare.com/client/v4"
#: What SMCP_BIND opens to others; everything else stays on loopback.
DOORS = ("api", "console", "gateway")
#: Name of a port → its variable, its default.
PORTS = {
    "api": ("SMCP_API_PORT", 8000),
    "console": ("SMCP_CONSOLE_PORT", 8001),
    "gateway": ("SMCP_GATEWAY_PORT", 8080),
    "gateway_admin": ("SMCP_GATEWAY_ADMIN_PORT", 9090),
    "edge_api": ("SMCP_EDGE_API_PORT", 8787),
    "edge_workers": ("SMCP_EDGE_WORKERS_PORT", 8788),
    "postgres": ("SMCP_POSTGRES_PORT", 5433),
    "redis": ("SMCP_REDIS_PORT", 6380),
}

POSTGRES_SCHEMES = ("postgresql", "postgres")
URLS = {
    "DATABASE_URL": POSTGRES_SCHEMES,
    "SMCP_APP_DATABASE_URL": POSTGRES_SCHEMES,
    "SMCP_SYSTEM_DATABASE_URL": POSTGRES_SCHEMES,
    "REDIS_URL": ("redis", "rediss"),
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """A checked configuration. Empty URLs and account: ours is started."""

    var: Path
    bind: str
    ports: Mapping[str, int]
    database_url: str = field(default="", repr=False)
    app_database_url: str = field(default="", repr=False)
    system_database_url: str = field(default="", repr=False)
    redis_url: str = field(default="", repr=False)
    cloudflare_account_id: str = ""
    cloudflare_api_token: str = field(default="", repr=False)
    cloudflare_api_base_url: str = ""
    dispatch_url: str = ""
    public_urls: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_public(self) -> bool:
        return not ipaddress.ip_address(self.bind).is_loopback

    @property
    def has_own_postgres(self) -> bool:
        return not self.database_url

    @property
    def has_own_redis(self) -> bool:
        return not self.redis_url

    @property
    def has_edge(self) -> bool:
        return not self.cloudflare_api_token

    @property
    def reachable_at(self) -> str:
        """The address of this machine under which the doors answer."""
        address = ipaddress.ip_address(self.bind)
        return LOOPBACK if address.is_unspecified else str(address)

    def url(self, name: str) -> str:
        """Where a process of ours answers, for those on this machine."""
        host = self.reachable_at if name in DOORS else LOOPBACK
        return f"http://[{host}]:{self.ports[name]}" if ":" in host else f"http://{host}:{self.ports[name]}"

    def public_url(self, name: str) -> str:
        """How the people outside reach a door: what SMCP_API_URL, SMCP_CONSOLE_URL, SMCP_GATEWAY_URL say, or `url`."""
        return self.public_urls.get(name) or self.url(name)


def parse_config(environ: Mapping[str, str] = os.environ) -> Config:
    """Raises NotAllowed, which names the variable and never shows a secret."""
    bind = environ.get("SMCP_BIND") or LOOPBACK
    try:
        ipaddress.ip_address(bind)
    except ValueError as exc:
        raise NotAllowed("SMCP_BIND must be an IP address, for example 127.0.0.1 or 0.0.0.0.") from exc
    token, account = environ.get("CLOUDFLARE_API_TOKEN", ""), environ.get("CLOUDFLARE_ACCOUNT_ID", "")
    if bool(token) != bool(account):
        raise NotAllowed(
            "Set both CLOUDFLARE_API_TOKEN and CLOUDFLARE_ACCOUNT_ID, or neither to use the local edge."
        )
    for variable, schemes in URLS.items():
        check_url(variable, environ.get(variable, ""), schemes)
    app_url, system_url = (
        environ.get("SMCP_APP_DATABASE_URL", ""),
        environ.get("SMCP_SYSTEM_DATABASE_URL", ""),
    )
    if bool(app_url) != bool(system_url) or (app_url and not environ.get("DATABASE_URL")):
        raise NotAllowed(
            "SMCP_APP_DATABASE_URL and SMCP_SYSTEM_DATABASE_URL go together, and with DATABASE_URL."
        )
    return Config(
        var=Path(environ.get("SMCP_VAR_DIR") or ROOT / "var").absolute(),
        bind=bind,
        ports=parse_ports(environ),
        database_url=environ.get("DATABASE_URL", ""),
        app_database_url=app_url,
        system_database_url=system_url,
        redis_url=environ.get("REDIS_URL", ""),
        cloudflare_account_id=account,
        cloudflare_api_token=token,
        cloudflare_api_base_url=environ.get("CLOUDFLARE_API_BASE_URL") or CLOUDFLARE,
        dispatch_url=environ.get("SMCP_DISPATCH_URL", ""),
        public_urls={name: environ.get(f"SMCP_{name.upper()}_URL", "").rstrip("/") for name in DOORS},
    )


def check_url(variable: str, url: str, schemes: tuple[str, ...]) -> None:
    """Raises NotAllowed for what is no URL of these schemes with a host and a path. Empty is fine."""
    if not url:
        return
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in schemes and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_good = False
    if not is_good:
        raise NotAllowed(f"{variable} must look like {schemes[0]}://user:password@host:port/name.")


def parse_ports(environ: Mapping[str, str]) -> dict[str, int]:
    """Raises NotAllowed for what is no port, or one port given to two processes."""
    ports: dict[str, int] = {}
    for name, (variable, default) in PORTS.items():
        text = environ.get(variable) or str(default)
        if not text.isdecimal() or not 1 <= int(text) <= 65535:
            raise NotAllowed(f"{variable} must be a port between 1 and 65535.")
        taken_by = next((other for other, port in ports.items() if port == int(text)), None)
        if taken_by is not None:
            raise NotAllowed(
                f"{variable} and {PORTS[taken_by][0]} are both {text}: every process needs its own port."
            )
        ports[name] = int(text)
    return ports
