"""Secrets of an environment: written, listed by name, never read."""

from __future__ import annotations

from django.http import HttpRequest
from ninja import Query, Router

from hosting.operations import secrets
from hosting.queries.servers import get_environment, list_secrets
from hosting.schemas.servers import SecretIn, SecretOut
from smcp.common.rest import Answer, PageOf, PageQuery, page_answer
from tenants.auth import READ, WRITE, Needs
from tenants.door import call_of

router = Router(tags=["secrets"])
ALL = "/tenants/{tenant}/servers/{server}/environments/{environment}/secrets"


@router.get(ALL, response=PageOf[SecretOut], auth=Needs(READ))
def list_environment_secrets(
    request: HttpRequest, tenant: str, server: str, environment: str, page: Query[PageQuery]
) -> Answer:
    """Names and revisions."""
    call = call_of(request)
    row = get_environment(tenant_id=call.tenant_id, server_slug=server, slug=environment)
    rows = list_secrets(tenant_id=call.tenant_id, environment_id=row.id)
    return page_answer(request, rows, page, SecretOut.of)


@router.put(f"{ALL}/{{name}}", response=SecretOut, auth=Needs(WRITE))
def put_secret(
    request: HttpRequest, tenant: str, server: str, environment: str, name: str, body: SecretIn
) -> Answer:
    """A new revision; it takes effect with the next deployment."""
    call = call_of(request)
    row = get_environment(tenant_id=call.tenant_id, server_slug=server, slug=environment)
    secret = secrets.put_secret(
        tenant_id=call.tenant_id, actor=call.actor, environment_id=row.id, name=name, value=body.value
    )
    return Answer(SecretOut.of(secret))


@router.delete(f"{ALL}/{{name}}", response={204: None}, auth=Needs(WRITE))
def delete_secret(request: HttpRequest, tenant: str, server: str, environment: str, name: str) -> Answer:
    """What runs keeps it; the next deployment is made without it."""
    call = call_of(request)
    row = get_environment(tenant_id=call.tenant_id, server_slug=server, slug=environment)
    secrets.delete_secret(tenant_id=call.tenant_id, actor=call.actor, environment_id=row.id, name=name)
    return Answer(None, status=204)
