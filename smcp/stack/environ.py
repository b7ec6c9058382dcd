"""The environment each process is started with: only what it needs, and of the supervisor's own only what is harmless.

The gateway never sees a database URL, the edge sees nothing but its own accounts, and the API holds the one database login
that cannot become the system.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hosting.dataplane.contract import b64url, parse_keyring
from hosting.dataplane.remotes import public_ring
from smcp.stack.databases import Logins
from smcp.stack.secrets import Secrets

#: Variables handed on as they are.
PASSED_ON = (
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "LC_ALL",
    "TERM",
    "TMPDIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "PYTHONPATH",
)
#: What the REST API never holds: Cloudflare's token, and the keys that open the dispatcher and the gateway.
NOT_FOR_THE_API = ("CLOUDFLARE_API_TOKEN", "SMCP_DATAPLANE_KEYS", "SMCP_DISPATCH_KEYS", "SMCP_PROBE_KEY")
#: Knobs of ours a person may turn for every process that knows them.
KNOBS = (
    "SMCP_DEBUG",
    "SMCP_LOG_LEVEL",
    "SMCP_ALLOWED_HOSTS",
    "SMCP_GATEWAY_DOMAIN",
    "SMCP_GATEWAY_HOSTS",
    "SMCP_GATEWAY_REMOTE_ALLOW",
    "SMCP_GATEWAY_NAME_SERVERS",
    "SMCP_GATEWAY_SESSION_IDLE_S",
    "SMCP_CLOUDFLARE_REQUESTS",
    "SMCP_CLOUDFLARE_WINDOW_S",
    "SMCP_CLOUDFLARE_TIMEOUT_S",
    "SMCP_LEASE_S",
    "SMCP_DRAIN_S",
)
DATABASE_VARIABLES = {
    "owner": "DATABASE_URL",
    "app": "SMCP_APP_DATABASE_URL",
    "system": "SMCP_SYSTEM_DATABASE_URL",
}


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where everything is. URLs without a trailing slash."""

    var: Path
    logins: Logins
    redis_url: str = field(repr=False)
    api_url: str
    console_url: str
    gateway_url: str
    cloudflare_api_base_url: str
    cloudflare_account_id: str
    cloudflare_api_token: str = field(repr=False)
    dispatch_url: str = ""
    dispatch_host: str = ""


def base_environ(own: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What every child gets."""
    passed_on = {name: own[name] for name in PASSED_ON if name in own}
    return {"PATH": os.defpath, **passed_on, "PYTHONUNBUFFERED": "1"}


def control_environ(
    places: Places, secrets: Secrets, *, role: str, own: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """For the processes that run Django, acting in the database as `role`: owner, app or system."""
    environ = {
        **base_environ(own),
        **{name: own[name] for name in KNOBS if name in own},
        "DJANGO_SETTINGS_MODULE": "smcp.settings",
        "SMCP_DB_ROLE": role,
        DATABASE_VARIABLES[role]: getattr(places.logins, role),
        "REDIS_URL": places.redis_url,
        "SMCP_DATAPLANE_REDIS_URL": own.get("SMCP_DATAPLANE_REDIS_URL") or places.redis_url,
        "SMCP_INSTALLATION": secrets.installation,
        "SMCP_SECRET_KEY": secrets.django_secret_key,
        "SMCP_SEALING_KEYS": secrets.sealing_keys,
        "SMCP_DATAPLANE_KEYS": secrets.dataplane_keys,
        "SMCP_ROUTE_KEYS": route_keys(secrets.dataplane_keys),
        "SMCP_DISPATCH_KEYS": secrets.dispatch_keys,
        "SMCP_PROBE_KEY": secrets.probe_key,
        "SMCP_API_URL": places.api_url,
        "SMCP_CONSOLE_URL": places.console_url,
        "SMCP_GATEWAY_URL": places.gateway_url,
        "CLOUDFLARE_API_BASE_URL": places.cloudflare_api_base_url,
        "CLOUDFLARE_ACCOUNT_ID": places.cloudflare_account_id,
        "CLOUDFLARE_API_TOKEN": places.cloudflare_api_token,
        "SMCP_DISPATCH_URL": places.dispatch_url,
        "SMCP_DISPATCH_HOST": places.dispatch_host,
        "SMCP_BLOB_DIR": str(places.var / "blobs"),
        "SMCP_STATIC_DIR": str(places.var / "static"),
    }
    withheld = NOT_FOR_THE_API if role == "app" else ()
    return {name: value for name, value in environ.items() if name not in withheld}


def route_keys(dataplane_keys: str) -> str:
    """The public keys that go with the gateway's: who has only these can seal a Route's headers, and open none."""
    return ",".join(f"{kid}:{b64url(key)}" for kid, key in public_ring(parse_keyring(dataplane_keys)).items())


def gateway_environ(
    places: Places,
    secrets: Secrets,
    *,
    host: str,
    port: int,
    admin_port: int,
    own: Mapping[str, str] = os.environ,
) -> dict[str, str]:
    knobs = [name for name in own if name.startswith("SMCP_GATEWAY_")] + ["SMCP_LOG_LEVEL", "SMCP_NODE_ID"]
    return {
        **base_environ(own),
        "SMCP_GATEWAY_DRAIN_S": "5",  # whoever presses Ctrl-C does not want to wait for long streams
        **{name: own[name] for name in knobs if name in own},
        "SMCP_DATAPLANE_REDIS_URL": own.get("SMCP_DATAPLANE_REDIS_URL") or places.redis_url,
        "SMCP_INSTALLATION": secrets.installation,
        "SMCP_DATAPLANE_KEYS": secrets.dataplane_keys,
        "SMCP_DISPATCH_KEYS": secrets.dispatch_keys,
        "SMCP_PROBE_KEY": secrets.probe_key,
        "SMCP_GATEWAY_URL": places.gateway_url,
        "SMCP_GATEWAY_HOST": host,
        "SMCP_GATEWAY_PORT": str(port),
        "SMCP_GATEWAY_ADMIN_PORT": str(admin_port),
        "SMCP_GATEWAY_STATE_DIR": str(places.var / "gateway"),
    }


def edge_environ(accounts: Mapping[str, str], own: Mapping[str, str] = os.environ) -> dict[str, str]:
    """`accounts`: account id → token."""
    known = {name: own[name] for name in ("EDGE_ALLOWED_HOSTS",) if name in own}
    pairs = ",".join(f"{account}={token}" for account, token in accounts.items())
    return {**base_environ(own), **known, "EDGE_ACCOUNTS": pairs}
