"""Where an environment of a server that runs elsewhere really is."""

from __future__ import annotations

from django.http import HttpRequest
from ninja import Router

from hosting.operations import remotes
from hosting.queries.servers import find_remote, get_environment, get_remote
from hosting.schemas.remotes import RemoteIn, RemoteOut
from smcp.common.rest import Answer, check_if_match, one
from tenants.auth import READ, WRITE, Needs
from tenants.door import call_of

router = Router(tags=["remotes"])
ONE = "/tenants/{tenant}/servers/{server}/environments/{environment}/remote"


@router.get(ONE, response=RemoteOut, auth=Needs(READ))
def get_environment_remote(request: HttpRequest, tenant: str, server: str, environment: str) -> Answer:
    """Names of headers and secrets, never what they hold; and what the server was found to speak."""
    call = call_of(request)
    row = get_environment(tenant_id=call.tenant_id, server_slug=server, slug=environment)
    return one(RemoteOut.of(get_remote(tenant_id=call.tenant_id, environment_id=row.id)))


@router.put(ONE, response=RemoteOut, auth=Needs(WRITE))
def put_environment_remote(
    request: HttpRequest, tenant: str, server: str, environment: str, body: RemoteIn
) -> Answer:
    """Replaces the whole, and holds within a second. The server is looked at soon after: see `eras` and `check_failure` then."""
    call = call_of(request)
    row = get_environment(tenant_id=call.tenant_id, server_slug=server, slug=environment)
    now = find_remote(tenant_id=call.tenant_id, environment_id=row.id)
    if now is not None:
        check_if_match(request, RemoteOut.of(now))
    remote = remotes.set_remote(
        tenant_id=call.tenant_id, actor=call.actor, environment_id=row.id, wish=body.wish()
    )
    return one(RemoteOut.of(remote))


@router.delete(ONE, response={204: None}, auth=Needs(WRITE))
def clear_environment_remote(request: HttpRequest, tenant: str, server: str, environment: str) -> Answer:
    """Its endpoint answers 503 until it is told another address."""
    call = call_of(request)
    row = get_environment(tenant_id=call.tenant_id, server_slug=server, slug=environment)
    remotes.clear_remote(tenant_id=call.tenant_id, actor=call.actor, environment_id=row.id)
    return Answer(None, status=204)
