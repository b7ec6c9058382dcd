"""Environments of a server, and the bindings of their code."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.utils import timezone
from ninja import Query, Router

from hosting.api.operations import accepted
from hosting.operations import deployments, environments
from hosting.queries.servers import get_environment, get_server, list_bindings, list_environments
from hosting.schemas.deployments import OperationOut
from hosting.schemas.servers import BindingOut, EnvironmentIn, EnvironmentOut, EnvironmentPatch
from smcp.common.rest import Answer, PageOf, PageQuery, check_if_match, one, page_answer
from tenants.auth import READ, WRITE, Needs
from tenants.door import call_of

router = Router(tags=["environments"])
ALL = "/tenants/{tenant}/servers/{server}/environments"
ONE = f"{ALL}/{{environment}}"


@router.get(ALL, response=PageOf[EnvironmentOut], auth=Needs(READ))
def list_server_environments(
    request: HttpRequest, tenant: str, server: str, page: Query[PageQuery]
) -> Answer:
    call = call_of(request)
    row = get_server(tenant_id=call.tenant_id, slug=server)
    rows = list_environments(tenant_id=call.tenant_id, server_id=row.id)
    return page_answer(request, rows, page, lambda each: EnvironmentOut.of(each, tenant_slug=tenant))


@router.post(ALL, response={201: EnvironmentOut}, auth=Needs(WRITE))
def create_environment(request: HttpRequest, tenant: str, server: str, body: EnvironmentIn) -> Answer:
    """Placed in an account for good: its data lives there."""
    call = call_of(request)
    row = get_server(tenant_id=call.tenant_id, slug=server)
    made = environments.create_environment(
        tenant_id=call.tenant_id, actor=call.actor, server_id=row.id, slug=body.slug, access=body.access
    )
    return one(
        EnvironmentOut.of(made, tenant_slug=tenant),
        status=201,
        headers={"Location": f"{request.path}/{made.slug}"},
    )


@router.get(ONE, response=EnvironmentOut, auth=Needs(READ))
def get_server_environment(request: HttpRequest, tenant: str, server: str, environment: str) -> Answer:
    row = get_environment(tenant_id=call_of(request).tenant_id, server_slug=server, slug=environment)
    return one(EnvironmentOut.of(row, tenant_slug=tenant))


@router.patch(ONE, response=EnvironmentOut, auth=Needs(WRITE))
def update_environment(
    request: HttpRequest, tenant: str, server: str, environment: str, body: EnvironmentPatch
) -> Answer:
    """Access, origins and limits hold at once; egress and variables from the next deployment on."""
    call = call_of(request)
    row = get_environment(tenant_id=call.tenant_id, server_slug=server, slug=environment)
    check_if_match(request, EnvironmentOut.of(row, tenant_slug=tenant))
    changes: dict[str, Any] = body.dict(exclude_unset=True)
    environments.update_environment(
        tenant_id=call.tenant_id, actor=call.actor, environment_id=row.id, **changes
    )
    row = get_environment(tenant_id=call.tenant_id, server_slug=server, slug=environment)
    return one(EnvironmentOut.of(row, tenant_slug=tenant))


@router.delete(ONE, response={202: OperationOut}, auth=Needs(WRITE))
def retire_environment(request: HttpRequest, tenant: str, server: str, environment: str) -> Answer:
    """Its Workers and its data go, and its endpoint answers 404. Follow the Operation."""
    call = call_of(request)
    row = get_environment(tenant_id=call.tenant_id, server_slug=server, slug=environment)
    operation = deployments.retire_environment(
        tenant_id=call.tenant_id, actor=call.actor, environment_id=row.id, now=timezone.now()
    )
    return accepted(call, operation)


@router.get(f"{ONE}/bindings", response=PageOf[BindingOut], auth=Needs(READ))
def list_environment_bindings(
    request: HttpRequest, tenant: str, server: str, environment: str, page: Query[PageQuery]
) -> Answer:
    """Kept when a version no longer declares them: the data is still there."""
    call = call_of(request)
    row = get_environment(tenant_id=call.tenant_id, server_slug=server, slug=environment)
    rows = list_bindings(tenant_id=call.tenant_id, environment_id=row.id)
    return page_answer(request, rows, page, BindingOut.of)
