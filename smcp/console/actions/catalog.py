"""Deploy a catalog entry as a new Server: it is made and its first Deployment asked for, both or neither."""

from __future__ import annotations

from django.utils import timezone

from hosting.models import Operation
from hosting.operations.catalog import create_server_from_catalog
from hosting.operations.deployments import deploy_version
from smcp.common.tenancy import as_tenant


def deploy_entry(*, tenant_id: str, actor: str, entry_slug: str, slug: str, name: str) -> Operation:
    """Raises what the two operations raise."""
    now = timezone.now()
    with as_tenant(tenant_id):
        server, version = create_server_from_catalog(
            tenant_id=tenant_id, actor=actor, catalog_slug=entry_slug, slug=slug, name=name, now=now
        )
        production = server.environments.get()
        return deploy_version(
            tenant_id=tenant_id,
            actor=actor,
            environment_id=production.id,
            targets=[(version.id, 100)],
            now=now,
        )
