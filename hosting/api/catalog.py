"""The catalog: MCP servers that can be deployed as they are."""

from __future__ import annotations

from django.http import HttpRequest
from ninja import Router

from hosting.catalog.catalog import NotInCatalog, get_entry, list_entries
from hosting.schemas.versions import CatalogEntryOut, CatalogOut
from smcp.common.errors import NotFound
from smcp.common.rest import Answer, one
from tenants.auth import OPERATOR, READ, Needs

router = Router(tags=["catalog"])


@router.get("/catalog", response=CatalogOut, auth=Needs(READ, OPERATOR))
def list_catalog(request: HttpRequest) -> Answer:
    return one(CatalogOut(items=[CatalogEntryOut.of(entry) for entry in list_entries()]))


@router.get("/catalog/{entry}", response=CatalogEntryOut, auth=Needs(READ, OPERATOR))
def get_catalog_entry(request: HttpRequest, entry: str) -> Answer:
    try:
        return one(CatalogEntryOut.of(get_entry(entry)))
    except NotInCatalog as exc:
        raise NotFound("catalog entry") from exc
