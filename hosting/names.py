"""How things of ours are called at Cloudflare. `smcp-<installation>-` marks them as ours; the rest is the id of a row.

Decision: docs/decisions/0002-names-at-cloudflare.md
"""

from __future__ import annotations

from django.conf import settings


def prefix() -> str:
    """Everything with another prefix is a stranger's, and none of our business."""
    return f"smcp-{settings.INSTALLATION}-"


def resource_name(row_id: str) -> str:
    return prefix() + row_id


def check_name(check_id: str) -> str:
    """A throw-away script that tells whether an upload can be loaded."""
    return f"{prefix()}check-{check_id}"


def janitor_name(bucket_row_id: str) -> str:
    """The script that empties one bucket; there is one a bucket, so its name needs no row of its own."""
    return f"{prefix()}janitor-{bucket_row_id}"


def dispatcher_name() -> str:
    return f"{prefix()}dispatcher"


def outbound_name() -> str:
    """The Worker every fetch of tenants' code passes through."""
    return f"{prefix()}outbound"


def dispatch_namespace() -> str:
    return f"smcp-{settings.INSTALLATION}"


def audience(cloudflare_account_id: str) -> str:
    """What assertions for one account's dispatcher are made out to: one for another account does not pass."""
    return f"{dispatcher_name()}.{cloudflare_account_id}"
