"""Servers of a tenant."""

from __future__ import annotations

from typing import Any, Literal

from django.http import HttpRequest
from django.utils import timezone
from ninja import Query, Router
from pydantic import Field

from hosting.api.operations import accepted
from hosting.operations import catalog, deployments, servers
from hosting.queries.servers import get_server, list_servers
from hosting.schemas.deployments import OperationOut
from hosting.schemas.servers import ServerIn, ServerOut, ServerPatch
from smcp.common.errors import Invalid
from smcp.common.rest import Answer, PageOf, PageQuery, check_if_match, one, page_answer
from tenants.auth import READ, WRITE, Needs
from tenants.door import call_of
from tenants.schemas import Reason

router = Router(tags=["servers"])
ONE = "/tenants/{tenant}/servers/{server}"


class ServersQuery(PageQuery):
    state: Literal["active", "suspended", "retiring", "retired"] | None = Field(
        None, description="Without it: all but the retired."
    )


@router.get("/tenants/{tenant}/servers", response=PageOf[ServerOut], auth=Needs(READ))
def list_tenant_servers(request: HttpRequest, tenant: str, page: Query[ServersQuery]) -> Answer:
    rows = list_servers(tenant_id=call_of(request).tenant_id, state=page.state)
    return page_answer(request, rows, page, ServerOut.of)


@router.post("/tenants/{tenant}/servers", response={201: ServerOut}, auth=Needs(WRITE))
def create_server(request: HttpRequest, tenant: str, body: ServerIn) -> Answer:
    """With its environment `production`. With `catalog`: its first version too, ready to be deployed."""
    call = call_of(request)
    if body.catalog is not None:
        if body.remote is not None:
            raise Invalid(fields={"remote": "What comes from the catalog is hosted here."})
        server, _ = catalog.create_server_from_catalog(
            tenant_id=call.tenant_id,
            actor=call.actor,
            catalog_slug=body.catalog,
            slug=body.slug,
            name=body.name,
            now=timezone.now(),
        )
    else:
        if body.slug is None:
            raise Invalid(fields={"slug": "Needed, unless it comes from the catalog."})
        server = servers.create_server(
            tenant_id=call.tenant_id,
            actor=call.actor,
            slug=body.slug,
            name=body.name or body.slug,
            description=body.description,
            kind=body.kind,
            remote=body.remote.wish() if body.remote is not None else None,
        )
    return one(ServerOut.of(server), status=201, headers={"Location": f"{request.path}/{server.slug}"})


@router.get(ONE, response=ServerOut, auth=Needs(READ))
def get_tenant_server(request: HttpRequest, tenant: str, server: str) -> Answer:
    return one(ServerOut.of(get_server(tenant_id=call_of(request).tenant_id, slug=server)))


@router.patch(ONE, response=ServerOut, auth=Needs(WRITE))
def update_server(request: HttpRequest, tenant: str, server: str, body: ServerPatch) -> Answer:
    call = call_of(request)
    row = get_server(tenant_id=call.tenant_id, slug=server)
    check_if_match(request, ServerOut.of(row))
    changes: dict[str, Any] = body.dict(exclude_unset=True)
    updated = servers.update_server(tenant_id=call.tenant_id, actor=call.actor, server_id=row.id, **changes)
    return one(ServerOut.of(updated))


@router.delete(ONE, response={202: OperationOut}, auth=Needs(WRITE))
def retire_server(request: HttpRequest, tenant: str, server: str) -> Answer:
    """Everything it has at Cloudflare goes, data included, and its endpoints answer 404. Follow the Operation."""
    call = call_of(request)
    row = get_server(tenant_id=call.tenant_id, slug=server)
    operation = deployments.retire_server(
        tenant_id=call.tenant_id, actor=call.actor, server_id=row.id, now=timezone.now()
    )
    return accepted(call, operation)


@router.post(f"{ONE}/suspend", response=ServerOut, auth=Needs(WRITE))
def suspend_server(request: HttpRequest, tenant: str, server: str, body: Reason) -> Answer:
    """Its endpoints answer 403 with the reason within a second. Nothing is lost."""
    call = call_of(request)
    row = get_server(tenant_id=call.tenant_id, slug=server)
    suspended = servers.suspend_server(
        tenant_id=call.tenant_id, actor=call.actor, server_id=row.id, reason=body.reason
    )
    return one(ServerOut.of(suspended))


@router.post(f"{ONE}/resume", response=ServerOut, auth=Needs(WRITE))
def resume_server(request: HttpRequest, tenant: str, server: str) -> Answer:
    call = call_of(request)
    row = get_server(tenant_id=call.tenant_id, slug=server)
    resumed = servers.resume_server(tenant_id=call.tenant_id, actor=call.actor, server_id=row.id)
    return one(ServerOut.of(resumed))
