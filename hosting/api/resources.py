"""Resources: what exists at Cloudflare for a tenant."""

from __future__ import annotations

from django.http import HttpRequest
from ninja import Query, Router
from pydantic import Field

from hosting.queries.deployments import get_resource, list_resources
from hosting.queries.servers import get_environment
from hosting.schemas.deployments import ResourceOut
from smcp.common.rest import Answer, PageOf, PageQuery, one, page_answer
from tenants.auth import READ, Needs
from tenants.door import call_of

router = Router(tags=["resources"])


class ResourcesQuery(PageQuery):
    deleted: bool = Field(False, description="Those that were deleted too.")


@router.get("/tenants/{tenant}/resources", response=PageOf[ResourceOut], auth=Needs(READ))
def list_tenant_resources(request: HttpRequest, tenant: str, page: Query[ResourcesQuery]) -> Answer:
    rows = list_resources(tenant_id=call_of(request).tenant_id, include_deleted=page.deleted)
    return page_answer(request, rows, page, ResourceOut.of)


@router.get("/tenants/{tenant}/resources/{resource}", response=ResourceOut, auth=Needs(READ))
def get_tenant_resource(request: HttpRequest, tenant: str, resource: str) -> Answer:
    found = get_resource(tenant_id=call_of(request).tenant_id, resource_id=resource)
    return one(ResourceOut.of(found))


@router.get(
    "/tenants/{tenant}/servers/{server}/environments/{environment}/resources",
    response=PageOf[ResourceOut],
    auth=Needs(READ),
)
def list_environment_resources(
    request: HttpRequest, tenant: str, server: str, environment: str, page: Query[ResourcesQuery]
) -> Answer:
    call = call_of(request)
    row = get_environment(tenant_id=call.tenant_id, server_slug=server, slug=environment)
    rows = list_resources(tenant_id=call.tenant_id, environment_id=row.id, include_deleted=page.deleted)
    return page_answer(request, rows, page, ResourceOut.of)
