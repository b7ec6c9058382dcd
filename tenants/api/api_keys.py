"""API keys: for this API, or for calling MCP servers; never both. A key's text is shown once, when it is made."""

from __future__ import annotations

from django.http import HttpRequest
from django.utils import timezone
from ninja import Query, Router

from smcp.common.rest import Answer, PageOf, PageQuery, one, page_answer
from tenants import operations, queries
from tenants.auth import ADMIN, GRANTABLE, OPERATOR, READ, Needs
from tenants.door import call_of
from tenants.schemas import ApiKeyIn, ApiKeyOut, NewApiKeyOut

router = Router(tags=["API keys"])


@router.get("/tenants/{tenant}/api-keys", response=PageOf[ApiKeyOut], auth=Needs(READ, OPERATOR))
def list_api_keys(request: HttpRequest, tenant: str, page: Query[PageQuery]) -> Answer:
    """Revoked and expired ones too."""
    return page_answer(
        request, queries.list_api_keys(tenant_id=call_of(request).tenant_id), page, ApiKeyOut.of
    )


@router.post("/tenants/{tenant}/api-keys", response={201: NewApiKeyOut}, auth=Needs(ADMIN, OPERATOR))
def create_api_key(request: HttpRequest, tenant: str, body: ApiKeyIn) -> Answer:
    """The answer shows the key; nobody can show it again, but a repetition with the same Idempotency-Key within a day."""
    call = call_of(request)
    row, key = operations.create_api_key(
        tenant_id=call.tenant_id,
        actor=call.actor,
        name=body.name,
        scopes=body.scopes,
        may_grant=GRANTABLE,
        environments=body.environments,
        expires_at=body.expires_at,
        now=timezone.now(),
    )
    return Answer(
        NewApiKeyOut.revealing(row, key), status=201, headers={"Location": f"{request.path}/{row.id}"}
    )


@router.get("/tenants/{tenant}/api-keys/{api_key}", response=ApiKeyOut, auth=Needs(READ, OPERATOR))
def get_api_key(request: HttpRequest, tenant: str, api_key: str) -> Answer:
    key = queries.get_api_key(tenant_id=call_of(request).tenant_id, api_key_id=api_key)
    return one(ApiKeyOut.of(key))


@router.delete("/tenants/{tenant}/api-keys/{api_key}", response=ApiKeyOut, auth=Needs(ADMIN, OPERATOR))
def revoke_api_key(request: HttpRequest, tenant: str, api_key: str) -> Answer:
    """For good. The key stays in the list, as revoked."""
    call = call_of(request)
    key = operations.revoke_api_key(
        tenant_id=call.tenant_id, actor=call.actor, api_key_id=api_key, now=timezone.now()
    )
    return one(ApiKeyOut.of(key))
