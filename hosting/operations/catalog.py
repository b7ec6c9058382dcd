"""A server from the catalog: the server and its first Version, in one go. The catalog's code is ours, so no sandbox is asked."""

from __future__ import annotations

from datetime import datetime

from hosting.catalog.catalog import NotInCatalog, get_entry
from hosting.models import Server, Version
from hosting.operations.servers import create_server
from hosting.operations.versions import add_version
from hosting.uploads import check_upload
from smcp.common.errors import Invalid
from smcp.common.tenancy import as_tenant


def create_server_from_catalog(
    *,
    tenant_id: str,
    actor: str,
    catalog_slug: str,
    slug: str | None = None,
    name: str | None = None,
    now: datetime,
) -> tuple[Server, Version]:
    """`slug` and `name` default to the entry's. Raises Invalid, and what create_server raises."""
    try:
        entry = get_entry(catalog_slug)
    except NotInCatalog as exc:
        raise Invalid(fields={"catalog": "There is no such entry."}) from exc
    upload = check_upload(metadata=entry.metadata, modules=entry.modules, now=now)
    with as_tenant(tenant_id):
        server = create_server(
            tenant_id=tenant_id,
            actor=actor,
            slug=slug or entry.slug,
            name=name or entry.title,
            description=entry.description,
            catalog_slug=entry.slug,
        )
        return server, add_version(server=server, actor=actor, upload=upload, handlers=["fetch"])
