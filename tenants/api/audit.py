"""The audit trail of a tenant: who changed what, when, in which request."""

from __future__ import annotations

from django.http import HttpRequest
from ninja import Query, Router

from smcp.common.rest import Answer, PageOf, PageQuery, page_answer
from tenants import queries
from tenants.auth import OPERATOR, READ, Needs
from tenants.door import call_of
from tenants.schemas import AuditEventOut

router = Router(tags=["audit"])


@router.get("/tenants/{tenant}/audit-events", response=PageOf[AuditEventOut], auth=Needs(READ, OPERATOR))
def list_audit_events(request: HttpRequest, tenant: str, page: Query[PageQuery]) -> Answer:
    """Newest first. Events are never changed or removed."""
    return page_answer(
        request, queries.list_audit_events(tenant_id=call_of(request).tenant_id), page, AuditEventOut.of
    )
