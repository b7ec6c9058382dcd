"""Deployments: which versions of a server serve an environment, and with which shares."""

from __future__ import annotations

from django.http import HttpRequest
from django.utils import timezone
from ninja import Query, Router

from hosting.api.operations import accepted
from hosting.operations import deployments
from hosting.operations.rows import check_hosted
from hosting.queries.deployments import get_deployment, list_deployments
from hosting.queries.servers import get_environment, get_version
from hosting.schemas.deployments import DeploymentIn, DeploymentOut, OperationOut
from smcp.common.errors import Invalid, NotFound
from smcp.common.rest import Answer, PageOf, PageQuery, one, page_answer
from tenants.auth import READ, WRITE, Needs
from tenants.door import call_of

router = Router(tags=["deployments"])
ALL = "/tenants/{tenant}/servers/{server}/environments/{environment}/deployments"


@router.get(ALL, response=PageOf[DeploymentOut], auth=Needs(READ))
def list_environment_deployments(
    request: HttpRequest, tenant: str, server: str, environment: str, page: Query[PageQuery]
) -> Answer:
    call = call_of(request)
    row = get_environment(tenant_id=call.tenant_id, server_slug=server, slug=environment)
    rows = list_deployments(tenant_id=call.tenant_id, environment_id=row.id)
    return page_answer(request, rows, page, DeploymentOut.of)


@router.post(ALL, response={202: OperationOut}, auth=Needs(WRITE))
def deploy_versions(
    request: HttpRequest, tenant: str, server: str, environment: str, body: DeploymentIn
) -> Answer:
    """Follow the Operation. Deploying an older version is rolling back."""
    call = call_of(request)
    row = get_environment(tenant_id=call.tenant_id, server_slug=server, slug=environment)
    check_hosted(row.server)
    targets = []
    for position, wanted in enumerate(body.versions):
        try:
            version = get_version(tenant_id=call.tenant_id, server_id=row.server_id, number=wanted.version)
        except NotFound as exc:
            raise Invalid(fields={f"versions.{position}.version": str(exc)}) from exc
        targets.append((version.id, wanted.percentage))
    operation = deployments.deploy_version(
        tenant_id=call.tenant_id,
        actor=call.actor,
        environment_id=row.id,
        targets=targets,
        now=timezone.now(),
    )
    return accepted(call, operation)


@router.get(f"{ALL}/{{int:deployment}}", response=DeploymentOut, auth=Needs(READ))
def get_environment_deployment(
    request: HttpRequest, tenant: str, server: str, environment: str, deployment: int
) -> Answer:
    call = call_of(request)
    row = get_environment(tenant_id=call.tenant_id, server_slug=server, slug=environment)
    found = get_deployment(tenant_id=call.tenant_id, environment_id=row.id, number=deployment)
    return one(DeploymentOut.of(found))
