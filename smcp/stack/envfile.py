"""`python3 -m smcp.stack.envfile > .env`: fresh secrets for docker-compose.yml. Standard library only; prints, writes nothing.

Keep the file: what was sealed with its keys can be opened with nothing else.
"""

from __future__ import annotations

import sys

from smcp.stack.secrets import Secrets, new_secrets


def compose_environ(secrets: Secrets) -> dict[str, str]:
    """The variables docker-compose.yml names."""
    return {
        "COMPOSE_PROFILES": "edge",
        "SMCP_INSTALLATION": secrets.installation,
        "SMCP_SECRET_KEY": secrets.django_secret_key,
        "SMCP_SEALING_KEYS": secrets.sealing_keys,
        "SMCP_DATAPLANE_KEYS": secrets.dataplane_keys,
        "SMCP_DISPATCH_KEYS": secrets.dispatch_keys,
        "SMCP_PROBE_KEY": secrets.probe_key,
        "SMCP_OPERATOR_PASSWORD": secrets.operator_password,
        "POSTGRES_PASSWORD": secrets.postgres_password,
        "SMCP_OWNER_PASSWORD": secrets.owner_password,
        "SMCP_APP_PASSWORD": secrets.app_password,
        "SMCP_SYSTEM_PASSWORD": secrets.system_password,
        "REDIS_PASSWORD": secrets.redis_password,
        "CLOUDFLARE_ACCOUNT_ID": secrets.edge_account_id,
        "CLOUDFLARE_API_TOKEN": secrets.edge_token,
        "SMCP_DISPATCH_HOST": dispatch_host(secrets.installation, secrets.edge_account_id),
    }


def dispatch_host(installation: str, account_id: str) -> str:
    """The Host under which the dispatcher Worker answers on the edge's Workers port."""
    return f"smcp-{installation}-dispatcher.{account_id[:8]}.workers.localhost"


def main() -> None:
    for name, value in compose_environ(new_secrets()).items():
        sys.stdout.write(f"{name}={value}\n")


if __name__ == "__main__":
    main()
