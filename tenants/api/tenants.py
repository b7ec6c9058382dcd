"""Tenants: operators make, suspend and resume them; a tenant's own keys may look."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.utils import timezone
from ninja import Query, Router

from smcp.common.rest import Answer, PageOf, PageQuery, check_if_match, one, page_answer
from tenants import operations, queries
from tenants.auth import OPERATOR, READ, Needs
from tenants.door import call_of
from tenants.schemas import Reason, TenantIn, TenantOut, TenantPatch

router = Router(tags=["tenants"])


@router.get("/tenants", response=PageOf[TenantOut], auth=Needs(READ, OPERATOR))
def list_tenants(request: HttpRequest, page: Query[PageQuery]) -> Answer:
    """All of them for operators; a tenant's key sees its own."""
    return page_answer(request, queries.list_tenants(), page, TenantOut.of)


@router.post("/tenants", response={201: TenantOut}, auth=Needs(OPERATOR))
def create_tenant(request: HttpRequest, body: TenantIn) -> Answer:
    """The slug is part of every endpoint: it never changes and is never given again."""
    tenant = operations.create_tenant(
        actor=call_of(request).actor, slug=body.slug, name=body.name, plan=body.plan
    )
    return one(TenantOut.of(tenant), status=201, headers={"Location": f"{request.path}/{tenant.slug}"})


@router.get("/tenants/{tenant}", response=TenantOut, auth=Needs(READ, OPERATOR))
def get_tenant(request: HttpRequest, tenant: str) -> Answer:
    return one(TenantOut.of(queries.get_tenant(slug=tenant)))


@router.patch("/tenants/{tenant}", response=TenantOut, auth=Needs(OPERATOR))
def update_tenant(request: HttpRequest, tenant: str, body: TenantPatch) -> Answer:
    call = call_of(request)
    check_if_match(request, TenantOut.of(queries.get_tenant(slug=tenant)))
    changes: dict[str, Any] = body.dict(exclude_unset=True)
    return one(TenantOut.of(operations.update_tenant(tenant_id=call.tenant_id, actor=call.actor, **changes)))


@router.post("/tenants/{tenant}/suspend", response=TenantOut, auth=Needs(OPERATOR))
def suspend_tenant(request: HttpRequest, tenant: str, body: Reason) -> Answer:
    """Every endpoint answers 403 with the reason within a second. Nothing is lost."""
    call = call_of(request)
    suspended = operations.suspend_tenant(
        tenant_id=call.tenant_id, actor=call.actor, reason=body.reason, now=timezone.now()
    )
    return one(TenantOut.of(suspended))


@router.post("/tenants/{tenant}/resume", response=TenantOut, auth=Needs(OPERATOR))
def resume_tenant(request: HttpRequest, tenant: str) -> Answer:
    call = call_of(request)
    return one(TenantOut.of(operations.resume_tenant(tenant_id=call.tenant_id, actor=call.actor)))
